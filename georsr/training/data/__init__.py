"""Training data: where crops and whole validation images come from (no torch)."""

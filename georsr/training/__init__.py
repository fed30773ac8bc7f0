"""Training: from images to weights."""

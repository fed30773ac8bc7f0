"""Run super-resolution from file to file."""

"""Measure the quality of super-resolution, with and without truth."""

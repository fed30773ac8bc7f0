"""Compute and write the quality layers of an output."""

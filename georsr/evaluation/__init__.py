"""Evaluation: what the literature measures, and what users should ask."""

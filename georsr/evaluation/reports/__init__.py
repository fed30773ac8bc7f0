"""Render reports as HTML pages and figures."""

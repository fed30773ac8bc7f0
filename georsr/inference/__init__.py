"""Compute tiles: from source pixels to super-resolved pixels."""

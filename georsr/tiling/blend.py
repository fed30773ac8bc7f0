"""Blending: neighbouring tiles hand over with weights that sum to one by construction."""

from __future__ import annotations

import numpy as np

from georsr.types import FloatArray


def ramp(length: int) -> FloatArray:
    """Weights of the later tile over ``length`` blended pixels: (length,), in 0..1, rising.

    Raised cosine at pixel centres: smooth at both ends, never exactly 0 or 1.
    """
    phase = (np.arange(length, dtype=np.float64) + 0.5) / max(length, 1)
    return (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)


def blend(earlier: FloatArray, later: FloatArray, weights: FloatArray) -> FloatArray:
    """``earlier + (later - earlier) * weights``: exact where both agree, for any weights.

    Parameters
    ----------
    earlier, later
        (..., H, W) of equal shape.
    weights
        Broadcastable to them, in 0..1.
    """
    difference = later - earlier
    difference *= weights
    difference += earlier
    return difference

"""Masks: how far from invalid pixels a pixel lies."""

from __future__ import annotations

import numpy as np

from georsr.types import BoolArray


def eroded(valid: BoolArray, reach: int, *, border: bool = True) -> BoolArray:
    """Pixels without an invalid one in the square of ``reach`` pixels round them.

    Parameters
    ----------
    valid
        (..., h, w).
    reach
        Pixels to each side.
    border
        Whether what lies beyond the image counts as valid.
    """
    frame = [(0, 0)] * (valid.ndim - 2) + [(reach, reach)] * 2
    grown = np.pad(valid, frame, constant_values=border)
    for axis in (-2, -1):
        windows = np.lib.stride_tricks.sliding_window_view(grown, 2 * reach + 1, axis=axis)
        grown = np.asarray(windows.all(-1))
    return grown

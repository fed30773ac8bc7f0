"""Padding: what a tile holds where it reaches past the image."""

from __future__ import annotations

import numpy as np

from georsr.types import AnyArray


def pad_to(patch: AnyArray, height: int, width: int) -> AnyArray:
    """Extend (..., h, w) at the bottom and right to (..., height, width) by reflection.

    Reflection repeats as often as needed and does not repeat the edge pixel; an axis of one
    pixel, which has nothing to reflect, is repeated.
    """
    for axis, wanted in ((patch.ndim - 2, height), (patch.ndim - 1, width)):
        missing = wanted - patch.shape[axis]
        if missing > 0:
            pad = [(0, 0)] * patch.ndim
            pad[axis] = (0, missing)
            patch = np.pad(patch, pad, mode="reflect" if patch.shape[axis] > 1 else "edge")
    return patch

"""Planes of one value each: most of a sparse mosaic, and not worth a byte for every pixel.

Such planes are handed on as a view of one pixel that repeats in both directions: it takes no
memory, and whoever gets it can tell at a glance.
"""

from __future__ import annotations

import numpy as np

from georsr.types import AnyArray


def is_uniform(planes: AnyArray) -> bool:
    """Whether each plane of (..., h, w) has one value, bit for bit: NaN, too, equals itself."""
    if is_repeated(planes):
        return True
    bits = planes.view(f"u{planes.dtype.itemsize}")
    corner = bits[..., :1, :1]
    if (bits[..., -1:, -1:] != corner).any() or (bits[..., :1, :] != corner).any():
        return False  # without a look at all the others
    return bool((bits == corner).all())


def is_repeated(planes: AnyArray) -> bool:
    """Whether (..., h, w) is a view of one pixel, as `repeated` gives it."""
    return planes.strides[-2:] == (0, 0)


def repeated(planes: AnyArray, height: int, width: int) -> AnyArray:
    """The first pixel of each plane, (..., height, width) times: a view that cannot be written."""
    corner = planes[..., :1, :1]
    return np.broadcast_to(corner, (*corner.shape[:-2], height, width))

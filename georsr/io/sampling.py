"""Choose the pixels that represent a raster in statistics, and detect upsampled rasters.

A small raster is sampled completely, a larger one is decimated, and a raster that is too large to
be decoded completely is sampled by small windows. The rule is the same for files and for arrays, so
that both get the same normalization. Files with overviews are sampled from an overview instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from georsr.tiling.grid import spread_starts
from georsr.window import AnyArray, Window

MAX_REPEAT = 5
"""Largest upsampling factor that is detected."""
MIN_CHANGES = 12
"""Smallest number of changes between neighbouring pixels that shows a pattern."""


def pixel_replication(values: AnyArray) -> tuple[int, int] | None:
    """Detect by what factors an image was upsampled by nearest neighbour.

    Parameters
    ----------
    values
        (C, h, w), any dtype.

    Returns
    -------
    (int, int) or None
        Factors along rows and columns, 1 for an image that was not upsampled. None if too few
        neighbouring pixels differ.
    """
    rows, columns = _replication(values), _replication(values.swapaxes(1, 2))
    return None if rows is None or columns is None else (rows, columns)


def _replication(values: AnyArray) -> int | None:
    """Return the factor along the rows of (C, h, w)."""
    changes = (values[:, 1:] != values[:, :-1]).any((0, 2)).nonzero()[0]
    if len(changes) < MIN_CHANGES:
        return None
    return next(
        n for n in range(MAX_REPEAT, 0, -1) if n == 1 or len(set((changes % n).tolist())) == 1
    )


WINDOWS_PER_AXIS = 16
"""Number of windows along each axis of a raster that is sampled by windows."""
MAX_MOSAIC_WINDOWS = 256
"""Largest number of windows in which a mosaic is sampled."""
MAX_PIXELS = 2**20
"""Largest number of pixels per band in a sample."""
MAX_DECIMATION = 16
"""A raster of up to this many times the pixels of the sample is decimated; a larger one is sampled
by windows."""

IndexArray = npt.NDArray[np.int64]


def decimated_shape(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """Return (rows, columns) of a raster decimated to at most ``max_pixels``."""
    factor = (height * width / max_pixels) ** 0.5
    # an axis shorter than the factor keeps one pixel, so the other one is decimated more
    rows, columns = max(1, int(height / factor)), max(1, int(width / factor))
    if rows > columns:
        return min(rows, max(1, max_pixels // columns)), columns
    return rows, min(columns, max(1, max_pixels // rows))


def sample_windows(height: int, width: int, max_pixels: int) -> list[Window]:
    """Return windows spread over a raster, of at most ``max_pixels`` together."""
    size = _window_size(max_pixels)
    return [
        Window(top, left, min(size, height), min(size, width))
        for top in spread_starts(height, size, WINDOWS_PER_AXIS)
        for left in spread_starts(width, size, WINDOWS_PER_AXIS)
    ]


def sample_windows_in(rasters: Sequence[Window], max_pixels: int) -> list[Window]:
    """Return windows spread over the rasters of a mosaic, of at most ``max_pixels`` together.

    Each of many rasters has one window in its middle, each of a few has a grid of windows.
    """
    count = min(MAX_MOSAIC_WINDOWS, len(rasters))
    per_axis = max(1, math.isqrt(MAX_MOSAIC_WINDOWS // count))
    size = max(1, int((max_pixels / count) ** 0.5) // per_axis)
    chosen = [rasters[i * len(rasters) // count] for i in range(count)]
    return [
        Window(
            raster.top + top, raster.left + left, min(size, raster.height), min(size, raster.width)
        )
        for raster in chosen
        for top in spread_starts(raster.height, size, per_axis)
        for left in spread_starts(raster.width, size, per_axis)
    ]


def sample_indices(
    height: int, width: int, max_pixels: int = MAX_PIXELS
) -> tuple[IndexArray, IndexArray]:
    """Return the rows and columns whose crossings are the sample of a raster without overviews."""
    pixels = height * width
    if pixels <= max_pixels:
        return np.arange(height), np.arange(width)
    if pixels <= MAX_DECIMATION * max_pixels:
        rows, columns = decimated_shape(height, width, max_pixels)
        return _nearest(height, rows), _nearest(width, columns)
    size = _window_size(max_pixels)
    return _window_indices(height, size), _window_indices(width, size)


def _window_size(max_pixels: int) -> int:
    return max(1, int(max_pixels**0.5) // WINDOWS_PER_AXIS)


def _window_indices(length: int, size: int) -> IndexArray:
    """Return the ascending indices of the windows along an axis; overlaps count twice."""
    starts = np.asarray(spread_starts(length, size, WINDOWS_PER_AXIS))
    return np.sort((starts[:, None] + np.arange(min(size, length))).ravel())


def _nearest(length: int, count: int) -> IndexArray:
    """Return the indices that GDAL reads when it decimates an axis by nearest neighbour.

    These are the pixels under the centres of the output pixels. The small number is that of GDAL
    (rasterio.cpp).
    """
    centres = (np.arange(count) + 0.5) * (length / count) + 1e-10
    indices: IndexArray = np.minimum(np.floor(centres).astype(np.int64), length - 1)
    return indices

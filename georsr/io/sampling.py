"""Which pixels stand for a scene when its stretch is chosen: pure arithmetic.

A scene is sampled whole while it is small, decimated while it can be decoded whole, and by a
regular grid of small windows beyond that. The rule is the same for files and for arrays, so that
both get the same stretch; a file with overviews is read from those instead.

Repeats: pixels that stand several times side by side, as nearest neighbour enlarges images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from georsr.window import AnyArray, Window

MAX_REPEAT = 5
"""Times a pixel is looked for."""
MIN_CHANGES = 12
"""Places where neighbours differ that tell a pattern from chance."""


def pixel_replication(values: AnyArray) -> tuple[int, int] | None:
    """How often every pixel of an image stands below itself, and beside itself.

    Parameters
    ----------
    values
        (C, h, w), any dtype.

    Returns
    -------
    (int, int) or None
        Rows and columns, 1 for an image as it should be; None where too few neighbours differ to
        tell.
    """
    below, beside = _replication(values), _replication(values.swapaxes(1, 2))
    return None if below is None or beside is None else (below, beside)


def _replication(values: AnyArray) -> int | None:
    """Along the rows of (C, h, w)."""
    changes = (values[:, 1:] != values[:, :-1]).any((0, 2)).nonzero()[0]
    if len(changes) < MIN_CHANGES:
        return None
    return next(
        n for n in range(MAX_REPEAT, 0, -1) if n == 1 or len(set((changes % n).tolist())) == 1
    )


WINDOWS_PER_AXIS = 16
"""Windows per side when a large scene is sampled."""
MAX_PIXELS = 2**20
"""Most pixels per band in a sample."""
MAX_DECIMATION = 16
"""Scenes of up to this many times the sample are decimated, larger ones sampled by windows."""

IndexArray = npt.NDArray[np.int64]


def decimated_shape(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """(rows, columns) of a decimated scene of at most ``max_pixels``."""
    factor = (height * width / max_pixels) ** 0.5
    # an axis shorter than the factor cannot give: the other one pays for it
    rows, columns = max(1, int(height / factor)), max(1, int(width / factor))
    if rows > columns:
        return min(rows, max(1, max_pixels // columns)), columns
    return rows, min(columns, max(1, max_pixels // rows))


def sample_windows(height: int, width: int, max_pixels: int) -> list[Window]:
    """Windows spread over the scene, together of at most ``max_pixels``."""
    side = _side(max_pixels)
    return [
        Window(top, left, min(side, height), min(side, width))
        for top in _spread(height, side)
        for left in _spread(width, side)
    ]


def sample_indices(
    height: int, width: int, max_pixels: int = MAX_PIXELS
) -> tuple[IndexArray, IndexArray]:
    """Rows and columns whose crossings are the sample of a scene without overviews."""
    pixels = height * width
    if pixels <= max_pixels:
        return np.arange(height), np.arange(width)
    if pixels <= MAX_DECIMATION * max_pixels:
        rows, columns = decimated_shape(height, width, max_pixels)
        return _nearest(height, rows), _nearest(width, columns)
    side = _side(max_pixels)
    return _pieces(height, side), _pieces(width, side)


def _side(max_pixels: int) -> int:
    return max(1, int(max_pixels**0.5) // WINDOWS_PER_AXIS)


def _spread(length: int, side: int) -> list[int]:
    """Return the starts of at most `WINDOWS_PER_AXIS` windows of ``side``, evenly spread."""
    last = max(0, length - side)
    return sorted({round(i * last / (WINDOWS_PER_AXIS - 1)) for i in range(WINDOWS_PER_AXIS)})


def _pieces(length: int, side: int) -> IndexArray:
    """Indices in the pieces of an axis, ascending; those in two pieces count twice."""
    starts = np.asarray(_spread(length, side))
    return np.sort((starts[:, None] + np.arange(min(side, length))).ravel())


def _nearest(length: int, count: int) -> IndexArray:
    """Indices that GDAL reads when it decimates an axis by nearest neighbour.

    The pixel under the centre of each output pixel; the small number is GDAL's own (rasterio.cpp).
    """
    centres = (np.arange(count) + 0.5) * (length / count) + 1e-10
    indices: IndexArray = np.minimum(np.floor(centres).astype(np.int64), length - 1)
    return indices

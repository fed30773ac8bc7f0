"""Windows of pixels, and the pixels of a window with their validity.

Rows and columns are addressed by name (``top``, ``left``, ``height``, ``width``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]


MAX_SIDE = 2**31 - 1
"""Largest number of rows or columns of a raster in GDAL."""


@dataclass(frozen=True, order=True)
class Window:
    """Rectangle of pixels: ``height`` rows from ``top``, ``width`` columns from ``left``."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """Return the first row below the window."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """Return the first column right of the window."""
        return self.left + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return (rows, columns) to index an array whose last two axes are (y, x)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def coarser(self, scale: int) -> Window:
        """Return the rectangle on a grid with ``scale`` times larger pixels, rounded down."""
        return Window(
            self.top // scale, self.left // scale, self.height // scale, self.width // scale
        )

    def scaled(self, scale: int) -> Window:
        """Return the rectangle on a grid with ``scale`` times smaller pixels."""
        return Window(self.top * scale, self.left * scale, self.height * scale, self.width * scale)

    def relative_to(self, origin: Window) -> Window:
        """Return the rectangle relative to the top left corner of ``origin``."""
        return Window(self.top - origin.top, self.left - origin.left, self.height, self.width)

    def moved(self, down: int, right: int) -> Window:
        """Return the window moved by ``down`` rows and ``right`` columns."""
        return Window(self.top + down, self.left + right, self.height, self.width)

    def grow(self, margin: int) -> Window:
        """Return the window with ``margin`` more pixels on every side."""
        size = 2 * margin
        return Window(self.top - margin, self.left - margin, self.height + size, self.width + size)

    def intersection(self, other: Window) -> Window | None:
        """Return the intersection with ``other``, or None if it is empty."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        height = min(self.bottom, other.bottom) - top
        width = min(self.right, other.right) - left
        return Window(top, left, height, width) if height > 0 and width > 0 else None

    def __str__(self) -> str:
        return f"rows {self.top}:{self.bottom}, columns {self.left}:{self.right}"


@dataclass(frozen=True)
class PixelBlock:
    """Pixels of one window of a raster."""

    values: AnyArray
    """(C, h, w): Stored values, without scale and offset."""
    valid: BoolArray
    """(C, h, w): False for nodata, masked, fully transparent, NaN and infinite pixels."""
    alpha: AnyArray | None
    """(h, w): Stored values of the alpha band, if the raster has one."""


@dataclass(frozen=True)
class PixelSample:
    """Sample of pixels of a raster for statistics; ``values`` and ``valid`` are (C, n)."""

    values: AnyArray
    valid: BoolArray

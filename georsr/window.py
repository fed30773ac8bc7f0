"""Small value types shared by the rooms: axis order is carried by name, never by position.

Pixels of a window, with their validity.

Windows with a margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels: rows ``top .. top + height``, columns ``left .. left + width``."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """First row below the window."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """First column right of the window."""
        return self.left + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) to index an array whose last two axes are (y, x)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def coarser(self, scale: int) -> Window:
        """The same rectangle on a grid ``scale`` times coarser, of whose pixels it is made."""
        return Window(
            self.top // scale, self.left // scale, self.height // scale, self.width // scale
        )

    def scaled(self, scale: int) -> Window:
        """The same rectangle on a grid ``scale`` times finer."""
        return Window(self.top * scale, self.left * scale, self.height * scale, self.width * scale)

    def relative_to(self, origin: Window) -> Window:
        """The same rectangle counted from the top left corner of ``origin``."""
        return Window(self.top - origin.top, self.left - origin.left, self.height, self.width)

    def moved(self, down: int, right: int) -> Window:
        """The same size elsewhere."""
        return Window(self.top + down, self.left + right, self.height, self.width)

    def grow(self, margin: int) -> Window:
        """Return the window with ``margin`` more pixels on every side."""
        size = 2 * margin
        return Window(self.top - margin, self.left - margin, self.height + size, self.width + size)

    def intersection(self, other: Window) -> Window | None:
        """Common part with ``other``, or None where they do not touch."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        height = min(self.bottom, other.bottom) - top
        width = min(self.right, other.right) - left
        return Window(top, left, height, width) if height > 0 and width > 0 else None

    def __str__(self) -> str:
        return f"rows {self.top}:{self.bottom}, columns {self.left}:{self.right}"


@dataclass(frozen=True)
class PixelBlock:
    """Pixels of one window.

    Attributes
    ----------
    values : (C, h, w), data type of `RasterInfo.dtype`
        As stored: scale and offset are not applied.
    valid : bool (C, h, w)
        False for nodata, masked, fully transparent, NaN and infinite pixels.
    alpha : (h, w) or None
        The alpha band as stored, if the raster has one.
    """

    values: AnyArray
    valid: BoolArray
    alpha: AnyArray | None


@dataclass(frozen=True)
class PixelSample:
    """Pixels from all over the raster, for statistics: ``values`` and ``valid`` are (C, n)."""

    values: AnyArray
    valid: BoolArray

"""Deviation: how far a network's outputs, shrunk again, were from their source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from georsr.raster.stretch import Stretch
from georsr.tiling.plan import Tile
from georsr.types import BoolArray, FloatArray


@dataclass
class Deviation:
    """Sums over tiles, in the source's units."""

    total: float = 0.0
    """Of absolute differences."""
    count: int = 0
    """Pixels, band by band."""
    largest: float = 0.0

    def add(
        self, residual: FloatArray, valid: BoolArray | None, tile: Tile, stretch: Stretch
    ) -> None:
        """Add what a tile makes.

        Parameters
        ----------
        residual, valid
            (C, h, w) on the 0..1 scale, of all that the tile reads; None: all valid.
        tile, stretch
            Which one, and its scale.
        """
        inner = (slice(None), *tile.made.relative_to(tile.read).slices)
        units = stretch.units(np.abs(residual[inner]))
        if valid is not None:
            units = np.where(valid[inner], units, np.float32(0))
            self.count += int(valid[inner].sum())
        else:
            self.count += units.size
        self.total += float(units.sum(dtype=np.float64))
        self.largest = max(self.largest, float(units.max(initial=0.0)))

    def merge(self, other: Deviation) -> None:
        """Add what others have added up."""
        self.total += other.total
        self.count += other.count
        self.largest = max(self.largest, other.largest)

    @property
    def mean(self) -> float:
        """Mean absolute difference; 0 where nothing was looked at."""
        return self.total / self.count if self.count else 0.0

"""How well two images of one place fit: shift, and radiometry; pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from georsr.evaluation.shift import phase_shift
from georsr.types import AnyArray, BoolArray, FloatArray

SMALLEST = 16
"""Pixels per side of an image whose shift can be measured."""


@dataclass(frozen=True)
class Overlap:
    """Two images of one place on one grid, float32 (C, h, w), and where both are valid."""

    lr: FloatArray
    hr: FloatArray
    """Averaged over LR pixels; bands as in ``lr``, in its own units."""
    valid: BoolArray
    """(h, w)."""

    @property
    def measurable(self) -> bool:
        """Whether a shift can be measured: large enough, and valid but for a few pixels."""
        return min(self.valid.shape) >= SMALLEST and bool(self.valid.mean() >= 0.95)


def block_mean(image: AnyArray, scale: int) -> FloatArray:
    """(C, s * h, s * w) to (C, h, w): the mean over the s x s pixels of each LR pixel."""
    bands, height, width = image.shape
    blocks = image.reshape(bands, height // scale, scale, width // scale, scale)
    return np.asarray(blocks.mean((2, 4)), np.float32)


@dataclass(frozen=True)
class Shift:
    """How far the LR raster's content lies below and to the right of the HR raster's."""

    dy: float
    dx: float
    """LR pixels."""
    spread: float
    """Largest distance of one part of the overlap from the median, in LR pixels."""
    parts: int
    """Parts of the overlap that were measured."""

    @property
    def size(self) -> float:
        """Length of the shift, LR pixels."""
        return math.hypot(self.dy, self.dx)

    def describe(self) -> str:
        """Rows and columns, for messages about "the first" (HR) and "the second" (LR)."""
        return (
            f"the second lies {self.dy:+.2f} rows and {self.dx:+.2f} columns of its own pixels "
            f"from the first ({self.parts} parts, within {self.spread:.2f})"
        )


def measure_shift(overlaps: Sequence[Overlap]) -> Shift | None:
    """Median shift over several parts of an overlap, by phase correlation of the band means.

    Returns
    -------
    Shift or None
        None where no part is large, valid and textured enough.
    """
    found = []
    for overlap in overlaps:
        if not overlap.measurable:
            continue
        valid = overlap.valid
        dy, dx = phase_shift(_one_band(overlap.lr, valid), _one_band(overlap.hr, valid))
        if math.isfinite(dy):
            found.append((dy, dx))
    if not found:
        return None
    shifts = np.array(found)
    dy, dx = np.median(shifts, axis=0)
    spread = np.hypot(*(shifts - (dy, dx)).T).max()
    return Shift(float(dy), float(dx), float(spread), len(found))


def _one_band(image: FloatArray, valid: BoolArray) -> AnyArray:
    """Mean of the bands, each centred and scaled by its own spread; 0 where invalid."""
    values = image[:, valid].astype(np.float64)
    spread = np.maximum(values.std(1), 1e-12)[:, None]
    grey = np.zeros(valid.shape)
    grey[valid] = ((values - values.mean(1, keepdims=True)) / spread).mean(0)
    return grey


@dataclass(frozen=True)
class Radiometry:
    """Affine map per band from the HR raster's values to the LR raster's: gain * x + offset."""

    gain: tuple[float, ...]
    offset: tuple[float, ...]
    correlation: tuple[float, ...]
    """Of the two, band by band, over the overlap."""

    def apply(self, values: FloatArray) -> FloatArray:
        """(C, H, W) in the HR raster's units to the LR raster's."""
        gain, offset = (np.array(v, np.float32)[:, None, None] for v in (self.gain, self.offset))
        return np.asarray(values * gain + offset, np.float32)


def fit_radiometry(overlaps: Sequence[Overlap]) -> Radiometry:
    """Match mean and standard deviation, band by band.

    This is the reduced major axis: unlike least squares, whose gain shrinks with the noise of
    the HR raster and with everything that differs between the two, it keeps the contrast.
    """
    lr = np.concatenate([each.lr[:, each.valid] for each in overlaps], 1).astype(np.float64)
    hr = np.concatenate([each.hr[:, each.valid] for each in overlaps], 1).astype(np.float64)
    spread = lr.std(1), hr.std(1)
    gain = np.where(spread[1] > 0, spread[0] / np.where(spread[1] > 0, spread[1], 1), 1.0)
    offset = lr.mean(1) - gain * hr.mean(1)
    both = ((lr - lr.mean(1, keepdims=True)) * (hr - hr.mean(1, keepdims=True))).mean(1)
    correlation = both / np.maximum(spread[0] * spread[1], 1e-30)
    return Radiometry(tuple(gain.tolist()), tuple(offset.tolist()), tuple(correlation.tolist()))

"""The contract between training data and training: one aligned crop after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from georsr.window import AnyArray, BoolArray, FloatArray


@dataclass(frozen=True)
class Crop:
    """An aligned pair of a low-resolution crop and the high-resolution truth behind it."""

    lr: FloatArray
    """(C, p, p) float32 in 0..1, contiguous."""
    hr: FloatArray
    """(C, s * p, s * p) float32 in 0..1, contiguous."""
    valid: BoolArray | None = None
    """(s * p, s * p), True where the loss counts; None: everywhere."""
    label: int = -1
    """Index into the source's classes; -1 without classes."""
    sensor: tuple[float, ...] | None = None
    """The normalised sensor description of ``lr``, where it is known."""


@dataclass(frozen=True)
class Pair:
    """A whole image or a fixed window for validation: the truth and its degradation.

    Images are uint8; windows of rasters are float32 in 0..1.
    """

    label: str
    """Scene class, or the name of the raster for sources without classes."""
    hr: AnyArray
    """(C, s * h, s * w)."""
    lr: AnyArray
    """(C, h, w), same data type as ``hr``."""
    valid: BoolArray | None = None
    """(s * h, s * w), True where figures count; None: everywhere."""


class CropSource(Protocol):
    """Where training crops come from. It pickles, and opens files where it is used."""

    @property
    def scale(self) -> int:
        """Super-resolution factor s."""

    @property
    def patch(self) -> int:
        """Height and width p of an LR crop, in pixels."""

    @property
    def bands(self) -> int:
        """Number of bands C."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Scene classes; empty without labels."""

    @property
    def count(self) -> int:
        """Number of images or rasters behind it."""

    def crop(self, rng: np.random.Generator) -> Crop:
        """Draw a crop: a pure function of the generator's state, flipped and turned by it."""


class PairSource(Protocol):
    """Where validation pairs come from: a fixed number, the same ones at every iteration."""

    def __len__(self) -> int:
        """Number of pairs."""

    def __iter__(self) -> Iterator[Pair]:
        """Yield the pairs one by one; nothing is drawn at random between iterations."""


def flip_rotate(image: AnyArray, element: int) -> AnyArray:
    """One of the eight flips and quarter turns (``element`` 0..7) of the last two axes."""
    turned = np.rot90(image, element % 4, axes=(-2, -1))
    return turned[..., ::-1] if element >= 4 else turned

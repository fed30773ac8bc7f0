"""Define crops, validation pairs, and the interfaces of the sources that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from georsr.window import AnyArray, BoolArray, FloatArray


@dataclass(frozen=True)
class Crop:
    """An LR crop and its HR truth."""

    lr: FloatArray
    """(C, p, p): Values in 0..1, contiguous."""
    hr: FloatArray
    """(C, s * p, s * p): Values in 0..1, contiguous."""
    valid: BoolArray | None = None
    """(s * p, s * p): True for pixels that count in the loss; None: all."""
    label: int = -1
    """Index of the scene class; -1 without classes."""
    sensor: tuple[float, ...] | None = None
    """Normalized sensor description of ``lr``, if it is known."""


@dataclass(frozen=True)
class Pair:
    """A full image, or a fixed window of a raster, for validation."""

    label: str
    """Scene class, or the name of the raster for sources without classes."""
    hr: AnyArray
    """(C, s * h, s * w): uint8 for images, float32 in 0..1 for rasters."""
    lr: AnyArray
    """(C, h, w): Same data type as ``hr``."""
    valid: BoolArray | None = None
    """(s * h, s * w): True for pixels that count; None: all."""


class CropSource(Protocol):
    """Source of training crops. It can be pickled, and opens files where it is used."""

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
        """Number of images or rasters."""

    def crop(self, rng: np.random.Generator) -> Crop:
        """Draw a crop that depends on the state of the generator alone."""


class PairSource(Protocol):
    """Source of validation pairs, which are the same at every iteration."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def __iter__(self) -> Iterator[Pair]:
        """Yield the pairs in order."""


def flip_rotate(image: AnyArray, element: int) -> AnyArray:
    """Apply one of the eight flips and quarter turns (0..7) to the last two axes."""
    rotated = np.rot90(image, element % 4, axes=(-2, -1))
    return rotated[..., ::-1] if element >= 4 else rotated

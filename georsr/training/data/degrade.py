"""How a high-resolution image becomes the low-resolution one a network learns to undo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from georsr.kernels import bicubic_matrix
from georsr.types import AnyArray, FloatArray


class Degradation(Protocol):
    """From a high-resolution image to what the coarser sensor would have recorded.

    LR pixel i covers the HR pixels ``s * i .. s * i + s - 1``: centres are aligned, so that the
    pair has no half-pixel shift and a product keeps the corners of its source.
    """

    @property
    def name(self) -> str:
        """Its kind, as recipes spell it."""

    @property
    def fixed(self) -> bool:
        """Whether the result is the same for every generator."""

    def margin(self, scale: int) -> int:
        """HR pixels beyond a window that its LR pixels depend on; a multiple of ``scale``."""

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Degrade.

        Parameters
        ----------
        hr
            (C, H, W) float32 in 0..1; H and W multiples of ``scale``.
        scale
            Factor, at least 1.
        rng
            Whatever is random comes from here.

        Returns
        -------
        ndarray
            (C, H / scale, W / scale) float32 in 0..1.
        """

    def to_mapping(self) -> dict[str, Any]:
        """Plain values with the key ``kind``, for recipes; the inverse of ``from_mapping``."""

    def describe(self) -> str:
        """A few words for people."""


@dataclass(frozen=True)
class Bicubic:
    """Antialiased bicubic, the degradation of the published benchmarks."""

    name = "bicubic"
    fixed = True

    def margin(self, scale: int) -> int:
        """Reach of the stretched kernel: two LR pixels."""
        return 2 * scale

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Shrink and clip to 0..1 (the kernel overshoots at edges); ``rng`` is not used."""
        return np.clip(bicubic_downsample(hr, scale), np.float32(0), np.float32(1))

    def to_mapping(self) -> dict[str, Any]:
        """``{"kind": "bicubic"}``."""
        return {"kind": self.name}

    def describe(self) -> str:
        """One word."""
        return self.name


def bicubic_downsample(image: AnyArray, scale: int) -> FloatArray:
    """Shrink by an integer factor.

    Parameters
    ----------
    image
        (..., H, W), any real dtype; H and W multiples of ``scale``.
    scale
        Factor, at least 1.

    Returns
    -------
    ndarray
        (..., H / scale, W / scale) float32 in the image's units, neither rounded nor clipped.
    """
    height, width = image.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"image {height}x{width} is not a multiple of {scale}; crop it first")
    down_rows, down_columns = bicubic_matrix(height, scale), bicubic_matrix(width, scale)
    return np.asarray(down_rows @ image.astype(np.float32, copy=False) @ down_columns.T)


def to_uint8(image: AnyArray) -> AnyArray:
    """Round half to even and clip to 0..255."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def crop_to_multiple(image: AnyArray, scale: int) -> AnyArray:
    """Cut rows and columns at the end so that the last two axes are multiples of ``scale``."""
    height, width = image.shape[-2:]
    return image[..., : height - height % scale, : width - width % scale]


def make_pair(image: AnyArray, scale: int) -> tuple[AnyArray, AnyArray]:
    """(C, H, W) uint8 -> (HR cropped to a multiple of ``scale``, its LR), both uint8."""
    hr = crop_to_multiple(image, scale)
    return hr, to_uint8(bicubic_downsample(hr, scale))

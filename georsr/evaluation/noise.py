"""Noise on flat ground: what is left of small blocks after a plane is taken away."""

from __future__ import annotations

import numpy as np

from georsr.engine.grain import BLOCK, FLAT_SHARE, blocks_of, without_planes
from georsr.types import AnyArray, BoolArray


def plane_residual(image: AnyArray, size: int) -> AnyArray:
    """Standard deviation about the best plane, block by block.

    Parameters
    ----------
    image
        (H, W), any real dtype.
    size
        Height and width of a block in pixels, at least 2.

    Returns
    -------
    ndarray
        (H // size, W // size) float64 in the image's units, with size^2 - 3 degrees of freedom.
    """
    residual = without_planes(image, size)
    return np.asarray(np.sqrt(np.square(residual).sum(-1) / (size * size - 3)))


def flat_blocks(reference: AnyArray, valid: BoolArray, scale: int) -> BoolArray:
    """Which blocks of the reference are flat: (H, W) twice -> one flag for each block.

    Blocks with an invalid pixel do not count, nor do those without any variation, which are
    saturated or filled and tell nothing of noise.

    Parameters
    ----------
    reference
        Image on the product's grid.
    valid
        Where it counts.
    scale
        Pixels per source pixel: a block has ``BLOCK * scale`` pixels along each axis.
    """
    spread = plane_residual(reference, BLOCK * scale)
    least = 1e-6 * float(np.ptp(reference[valid])) if valid.any() else 0.0
    usable = blocks_of(valid, BLOCK * scale).all(-1) & (spread > least)
    if not usable.any():
        return usable
    return np.asarray(usable & (spread <= np.quantile(spread[usable], FLAT_SHARE)))

"""Noise on flat ground: what is left of small blocks after a plane is taken away."""

from __future__ import annotations

import numpy as np

from georsr.types import AnyArray, BoolArray

BLOCK = 8
"""Height and width of a block, in source pixels."""
FLAT_SHARE = 0.1
"""Share of the blocks that counts as flat: those with the smallest residual in the reference."""


def blocks_of(image: AnyArray, size: int) -> AnyArray:
    """(H, W) -> (H // size, W // size, size * size): whole blocks, the rest is left out."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return np.asarray(cut.swapaxes(1, 2).reshape(rows, columns, size * size))


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
    y, x = np.divmod(np.arange(size * size), size)
    plane, _ = np.linalg.qr(np.stack([np.ones(size * size), y, x], axis=1).astype(np.float64))
    blocks = blocks_of(image.astype(np.float64), size)
    residual = blocks - (blocks @ plane) @ plane.T
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

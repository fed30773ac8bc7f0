"""Grain: the noise of a scene, and whether it is what a network leaves unexplained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from georsr.types import AnyArray, BoolArray, FloatArray

BLOCK = 8
"""Height and width of a block, in source pixels."""
FLAT_SHARE = 0.1
"""Share of the blocks that counts as flat: those with the smallest residual."""
LEAST = 2.5 / 255
"""Noise below this, of the range that a network sees, does no harm."""
NOTHING = 1e-4
"""Variation below this is none: saturated or filled, which tells nothing of noise."""


@dataclass(frozen=True)
class Unexplained:
    """What a network leaves of a part of a scene, all (C, h, w).

    Attributes
    ----------
    source : float32
        On the scale of the network.
    residual : float32
        The source less the shrunk output.
    counted : bool
        Where either is worth something.
    """

    source: FloatArray
    residual: FloatArray
    counted: BoolArray


def blocks_of(image: AnyArray, size: int) -> AnyArray:
    """(H, W) -> (H // size, W // size, size * size): whole blocks, the rest is left out."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return np.asarray(cut.swapaxes(1, 2).reshape(rows, columns, size * size))


def without_planes(image: AnyArray, size: int) -> AnyArray:
    """Blocks as `blocks_of`, float64, each less the plane that fits it best."""
    y, x = np.divmod(np.arange(size * size), size)
    plane, _ = np.linalg.qr(np.stack([np.ones(size * size), y, x], axis=1).astype(np.float64))
    blocks = blocks_of(image.astype(np.float64), size)
    return np.asarray(blocks - (blocks @ plane) @ plane.T)


def noise_dominates(parts: Sequence[Unexplained]) -> bool:
    """Whether to give a scene back what a network took away would do more harm than good.

    A source is the truth and noise, x = t + n, and what is left of it r = x - D y. The shrunk
    output D y errs by n - r, the source by n; the output is the better one where
    E[(n - r)^2] < E[n^2], that is E[r^2] < 2 E[n r]. On flat ground x varies by n alone, so that
    E[n r] is the covariance of x and r there.

    Parameters
    ----------
    parts
        Of one scene, whose noise is the same everywhere.
    """
    power = [part.residual[part.counted] for part in parts]
    if not sum(values.size for values in power):
        return False
    unexplained = float(np.square(np.concatenate(power), dtype=np.float64).mean())
    bands = [_shared_on_flat_ground(parts, band) for band in range(parts[0].source.shape[0])]
    shared = float(np.mean(bands))
    return shared > LEAST**2 and unexplained < 2 * shared


def _shared_on_flat_ground(parts: Sequence[Unexplained], band: int) -> float:
    """Covariance of a band and its residual in the flattest blocks."""
    spreads, shares = [], []
    for part in parts:
        whole = blocks_of(part.counted[band], BLOCK).all(-1)
        source, residual = (
            without_planes(values[band], BLOCK)[whole] for values in (part.source, part.residual)
        )
        spreads.append(np.square(source).mean(-1))
        shares.append((source * residual).sum(-1) / (BLOCK * BLOCK - 3))
    spread, share = np.concatenate(spreads), np.concatenate(shares)
    some = spread > NOTHING**2
    if not some.any():
        return 0.0
    return float(share[some & (spread <= np.quantile(spread[some], FLAT_SHARE))].mean())

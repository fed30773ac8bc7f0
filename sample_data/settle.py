"""Settling: a truth whose degraded version rounds the same way on every machine."""

from __future__ import annotations

import numpy as np
from dice import Array

from georsr.radiometry.degradation import bicubic_downsample
from georsr.radiometry.kernels import bicubic_matrix


def degrade_valid(truth: Array, valid: Array, scale: int) -> Array:
    """Bicubic degradation that only listens to valid pixels, same integer dtype, 0 elsewhere.

    ``valid``, (rows, columns) bool, is that of the truth and made of whole blocks of ``scale``:
    the weights of invalid pixels are left out and the remaining ones scaled to sum to one.
    """
    weighted = bicubic_downsample(truth * valid, scale)
    share = bicubic_downsample(valid, scale)
    inner = valid[::scale, ::scale]
    mean = np.rint(weighted / np.where(inner, share, 1))
    return np.where(inner, np.clip(mean, 1, np.iinfo(truth.dtype).max), 0).astype(truth.dtype)


def settle(
    truth: Array, scales: tuple[int, ...], margin: float, valid: Array | None = None
) -> Array:
    """Move single pixels by one step until no degraded value lies within ``margin`` of a half.

    The degradation sums in float32, in an order its linear algebra library chooses, so a value
    near a half could round either way. Here it is done in float64, whose own doubt is a billion
    times smaller than the margin; few pixels change, and by 1.
    """
    truth = truth.copy()
    keep = np.ones(truth.shape[1:], bool) if valid is None else valid
    for turn in range(200):
        calm = True
        for scale in scales:
            rows, columns = (bicubic_matrix(n, scale).astype(np.float64) for n in keep.shape)
            share = rows @ keep.astype(np.float64) @ columns.T
            inner = keep[::scale, ::scale]
            exact = rows @ (truth * keep).astype(np.float64) @ columns.T
            exact = exact / np.where(inner, share, 1)
            close = (abs(exact - np.floor(exact) - 0.5) < margin) & inner
            if close.any():
                calm = False
                # the four pixels round the middle of the block take turns
                band, row, column = np.nonzero(close)
                row = row * scale + scale // 2 - turn % 2
                column = column * scale + scale // 2 - turn // 2 % 2
                middle = np.iinfo(truth.dtype).max // 2
                up = truth[band, row, column] < middle
                truth[band, row, column] += np.where(up, 1, -1).astype(truth.dtype)
        if calm:
            return truth
    raise RuntimeError("the scene does not settle")

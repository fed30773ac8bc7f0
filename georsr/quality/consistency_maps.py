"""Compare an output with its source, pixel by pixel.

All functions take a window of the output and the source pixels of the same area. Downsampled with
the kernel of the sensor, an output should equal its source. The difference between the output and
the bicubic enlargement of the downsampled output is detail that the source does not contain.
"""

from __future__ import annotations

import numpy as np
import torch

from georsr.models.interpolation import Bicubic
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.nodata import fill_invalid
from georsr.window import AnyArray, BoolArray, FloatArray

BICUBIC_RADIUS = 2
"""Source pixels on either side that the bicubic enlargement depends on."""


def margin(kernel: Kernel, scale: int) -> int:
    """Return the number of source pixels around a window on which its maps depend."""
    return kernel.radius(scale) + BICUBIC_RADIUS + 1


def inconsistency(low: FloatArray, source: AnyArray, valid: BoolArray) -> FloatArray:
    """Return |downsampled output - source|, mean over valid bands: (C, h, w) each -> (h, w)."""
    difference = np.abs(low - np.where(valid, source, 0).astype(np.float32))
    return _mean_over_bands(np.where(valid, difference, np.float32(0)), valid)


def synthesised_detail(
    image: FloatArray, valid: BoolArray, low: FloatArray, low_valid: BoolArray, scale: int
) -> FloatArray:
    """Return the local root mean square of detail that bicubic enlargement cannot carry.

    Parameters
    ----------
    image, valid
        Output (C, H, W).
    low, low_valid
        Downsampled output (C, H / scale, W / scale).
    scale
        Output pixels per source pixel, along each axis.

    Returns
    -------
    ndarray
        (H, W), over squares of 2 scale + 1 pixels and over bands, in the output's units.
    """
    filled = fill_invalid(low, low_valid)
    with torch.inference_mode():
        enlarged = Bicubic(scale)(torch.from_numpy(filled)[None])[0].numpy()
    detail = np.where(valid, image - enlarged, np.float32(0))
    energy = _box_sum(detail * detail, scale)
    count = _box_sum(valid.astype(np.float32), scale)
    power = energy / np.maximum(count, 1)
    return np.sqrt(_mean_over_bands(np.where(valid, power, np.float32(0)), valid))


def _mean_over_bands(values: FloatArray, valid: BoolArray) -> FloatArray:
    """Return the mean over valid bands of (C, h, w), zero where invalid: (h, w)."""
    count = np.maximum(valid.sum(0), 1).astype(np.float32)
    return np.asarray(values.sum(0, dtype=np.float32) / count)


def _box_sum(values: FloatArray, radius: int) -> FloatArray:
    """Sum over the square of ``radius`` pixels around each pixel of (C, H, W).

    Pixels are added in a fixed order: a running sum would depend on where the window begins.
    """
    for axis in (1, 2):
        length = values.shape[axis]
        padding = [(0, 0)] * 3
        padding[axis] = (radius, radius)
        padded = np.pad(values, padding)
        total = np.zeros_like(values)
        for step in range(2 * radius + 1):
            total += padded.take(range(step, step + length), axis)
        values = total
    return values

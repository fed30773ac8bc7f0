"""Interpolation: bicubic (the baseline, and the skip connection of segsr-lite), bilinear, nearest.

Bicubic is Keys' cubic convolution with a = -0.75, as in torch and OpenCV: on UC Merced it measures
0.15 dB (x4) to 0.34 dB (x2) better than the a = -0.5 of GDAL and Pillow, so it is the harder
baseline. The outer corners of the pixel grids coincide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cubic(x: Tensor, a: float = -0.75) -> Tensor:
    """Return Keys' kernel (IEEE TASSP 29(6), 1981, eq. 8 and 15) at distances ``x``, any shape."""
    x = x.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def phase_kernels(scale: int) -> Tensor:
    """Return the weights of the five nearest pixels at ``scale`` sub-pixel positions, (s, 5) float64."""
    phase = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = torch.arange(-2, 3, dtype=torch.float64)
    weights = cubic(phase[:, None] - taps[None, :])
    return weights / weights.sum(1, keepdim=True)


ROWS = 32
"""Rows of pixels that `Bicubic.interpolate` enlarges at a time on a CPU, to stay in its cache."""


class Bicubic(nn.Module):
    """Bicubic enlargement of any number of bands by an integer factor.

    One small convolution computes the s * s sub-pixels of every pixel: (N, C, h, w) ->
    (N, C, s * h, s * w). Edge pixels are repeated beyond the edge.
    """

    kernels: Tensor

    def __init__(self, scale: int, bands: int = 0) -> None:
        super().__init__()
        self.scale = scale
        taps = phase_kernels(scale).float()
        kernels = torch.einsum("ay,bx->abyx", taps, taps).reshape(scale * scale, 1, 5, 5)
        self.register_buffer("kernels", kernels, persistent=False)

    def subpixels(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C * s * s, h, w), in the order ``pixel_shuffle`` expects."""
        c = x.shape[1]
        padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
        return F.conv2d(padded, self.kernels.to(x.dtype).repeat(c, 1, 1, 1), groups=c)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, s * h, s * w), same value range (may overshoot at edges)."""
        return F.pixel_shuffle(self.subpixels(x), self.scale)

    def interpolate(self, x: Tensor) -> Tensor:
        """Enlarge as `forward` does, computed in float64 and rounded once, to the type of ``x``."""
        n, c, height, width = x.shape
        s, weights = self.scale, phase_kernels(self.scale).tolist()
        output = x.new_empty(n, c, s * height, s * width)
        padded = F.pad(x, (2, 2, 2, 2), mode="replicate").double()
        step = ROWS if x.device.type == "cpu" else height
        for top in range(0, height, step):
            rows = padded[:, :, top : top + step + 4]
            taller = rows.new_empty(n, c, s * (rows.shape[2] - 4), width + 4)
            for phase in range(s):
                taller[:, :, phase::s] = _weighted_sum(rows, weights[phase], 2)
            for phase in range(s):
                part = _weighted_sum(taller, weights[phase], 3)
                output[:, :, s * top : s * (top + step), phase::s] = part
        return output


def _weighted_sum(x: Tensor, weights: list[float], axis: int) -> Tensor:
    """Return the sum of x[i + k] * weights[k] along an axis, which loses len(weights) - 1 pixels."""
    length = x.shape[axis] - len(weights) + 1
    first, *others = (k for k, weight in enumerate(weights) if weight)
    total = x.narrow(axis, first, length) * weights[first]
    for k in others:
        total.add_(x.narrow(axis, k, length), alpha=weights[k])
    return total


class Nearest(nn.Module):
    """Nearest neighbour: every pixel is repeated ``scale`` times along each axis."""

    def __init__(self, scale: int, bands: int = 0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, s * h, s * w)."""
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)

    interpolate = forward


def upsample_bilinear(image: Tensor, scale: int) -> Tensor:
    """Interpolate bilinearly: (..., h, w) -> (..., s * h, s * w), edges continued.

    The outer corners of the grids coincide. It is computed element by element, so that the result
    depends neither on vector width nor on the number of threads.
    """
    return _upsample_axis(_upsample_axis(image, scale, -2), scale, -1)


def _upsample_axis(image: Tensor, scale: int, axis: int) -> Tensor:
    length = image.shape[axis]
    indexes = torch.arange(length, device=image.device)
    before = image.index_select(axis, (indexes - 1).clamp_min(0))
    after = image.index_select(axis, (indexes + 1).clamp_max(length - 1))
    phases = []
    for phase in range(scale):
        offset = (phase + 0.5) / scale - 0.5
        neighbour = before if offset < 0 else after
        phases.append(image + (neighbour - image) * abs(offset))
    return torch.stack(phases, axis).flatten(axis - 1, axis)

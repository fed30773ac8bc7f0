"""Interpolation: bicubic (the baseline, and the skip connection of segsr-lite), bilinear, nearest.

Bicubic is Keys' cubic convolution with a = -0.75, as in torch and OpenCV: on UC Merced it measures
0.15 dB (x4) to 0.34 dB (x2) better than the a = -0.5 of GDAL and Pillow, so it is the harder
baseline. The outer corners of the pixel grids coincide.

`MultiBand` applies a network of three bands to a raster of any number, and interpolates the others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.spec import ModelSpec


def cubic(x: Tensor, a: float = -0.75) -> Tensor:
    """Return Keys' kernel (IEEE TASSP 29(6), 1981, eq. 8 and 15) at distances ``x``, any shape."""
    x = x.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def phase_kernels(scale: int) -> Tensor:
    """Return the weights of the five nearest pixels at ``scale`` sub-pixel positions: (s, 5)."""
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
    """Return the sum of x[i + k] * weights[k] along an axis, for each i at which all k exist."""
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


MODES = ("inject", "per-band", "bicubic")
WINDOW = 9
"""Height and width of the window in which a gain is measured (source pixels)."""
EPS_VARIANCE = 1e-4
"""Variance of detail, on the 0..1 scale, below which it is regarded as noise."""


class MultiBand(nn.Module):
    """A network for the guide bands (usually red, green, blue), and a rule for all other bands.

    The mode ``bicubic`` enlarges another band by interpolation, ``per-band`` passes it through the
    network as a grey image. ``inject`` adds to its bicubic enlargement the detail that the network
    added to the intensity of the guide, times a local gain (`injection_gain`). This is the
    injection model of pansharpening with context-based gains (B. Aiazzi, L. Alparone, S. Baronti
    and A. Garzelli, "Context-driven fusion of high spatial and spectral resolution images based on
    oversampled multiresolution analysis", IEEE TGRS 40(10), 2002), with the super-resolved
    intensity in place of a panchromatic band.

    Parameters
    ----------
    network
        Network with ``len(guide)`` bands in and out.
    spec
        Specification of the network.
    guide
        Positions of the network's bands, in its order; a position may occur several times.
    mode
        One of `MODES`.
    """

    def __init__(
        self, network: nn.Module, spec: ModelSpec, guide: tuple[int, ...], mode: str
    ) -> None:
        super().__init__()
        self.network, self.spec, self.guide, self.mode = network, spec, guide, mode
        self.enlarge = Bicubic(spec.scale)

    @property
    def guidance_count(self) -> int:
        """Number of guidance maps of the network."""
        return int(getattr(self.network, "guidance_count", 0))

    def guidance_maps(self, x: Tensor) -> Tensor:
        """(N, B, h, w) -> guidance maps of the network (N, groups, hc, wc)."""
        maps: Tensor = self.network.guidance_maps(x[:, list(self.guide)])  # type: ignore[operator]
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """(N, B, h, w) -> (N, B, s * h, s * w), same value range."""
        bands = list(self.enlarge(x).float().unbind(1))
        guide = x[:, list(self.guide)]
        sharp = self.network(guide.contiguous(memory_format=torch.channels_last)).float()
        others = [i for i in range(x.shape[1]) if i not in self.guide]
        if others and self.mode == "inject":
            bicubic = torch.stack([bands[i] for i in self.guide], 1)
            detail = (sharp - bicubic).mean(1)
            intensity = guide.float().mean(1, keepdim=True)
            gains = upsample_bilinear(
                injection_gain(x[:, others].float(), intensity), self.enlarge.scale
            )
            for i, gain in zip(others, gains.unbind(1), strict=True):
                bands[i] = bands[i] + gain * detail
        elif self.mode == "per-band":
            for i in others:  # one by one: a convolution's last digit may depend on the batch
                grey = x[:, [i] * len(self.guide)]
                enlarged = self.network(grey.contiguous(memory_format=torch.channels_last))
                bands[i] = enlarged.float().mean(1)
        for i in set(self.guide):
            channels = [k for k, position in enumerate(self.guide) if position == i]
            bands[i] = sharp[:, channels].mean(1)
        return torch.stack(bands, 1)


def injection_gain(bands: Tensor, intensity: Tensor) -> Tensor:
    """Return the gain with which detail of the intensity is added to each band.

    Detail is the difference of a source pixel from the mean of its 3 x 3 neighbourhood. The gain
    is the slope of the regression of a band's detail on the intensity's in a sliding window, times
    the square of their correlation. It is zero for a band without detail, or with other detail.

    Parameters
    ----------
    bands
        (N, B, h, w) float32 on the 0..1 scale.
    intensity
        (N, 1, h, w), mean of the guide bands.

    Returns
    -------
    Tensor
        (N, B, h, w).
    """
    x, y = intensity - _mean(intensity, 3), bands - _mean(bands, 3)
    covariance = _mean(x * y, WINDOW)
    variance_x, variance_y = _mean(x * x, WINDOW), _mean(y * y, WINDOW)
    squared_correlation = covariance.square() / (variance_x * variance_y + EPS_VARIANCE**2)
    return squared_correlation.clamp(0, 1) * covariance / (variance_x + EPS_VARIANCE)


def _mean(image: Tensor, size: int) -> Tensor:
    """Return the mean over the square of ``size`` pixels around each pixel, inside the image."""
    return F.avg_pool2d(image, size, 1, size // 2, count_include_pad=False)

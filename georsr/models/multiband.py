"""MultiBand: a network for three bands, on a raster of any number of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.interpolation import Bicubic, upsample_bilinear
from georsr.models.spec import ModelSpec

MODES = ("inject", "per-band", "bicubic")
WINDOW = 9
"""Height and width, in source pixels, of what a gain is measured on."""
EPS_VARIANCE = 1e-4
"""Variance of detail, on the 0..1 scale, below which it is taken for noise."""


class MultiBand(nn.Module):
    """Sharpen guide bands by a network, and all others after them.

    Of a band that is no guide, ``bicubic`` enlarges it, and ``per-band`` gives it to the network as
    grey. ``inject`` adds to the bicubic enlargement the detail that the network added to the
    guide's intensity, times a local gain (`injection_gain`). This is the injection model of
    pansharpening with context-based gains (B. Aiazzi, L. Alparone, S. Baronti and A. Garzelli,
    "Context-driven fusion of high spatial and spectral resolution images based on oversampled
    multiresolution analysis", IEEE TGRS 40(10), 2002), with the super-resolved intensity in the
    place of a panchromatic band.

    Parameters
    ----------
    network
        Takes and gives ``len(guide)`` bands.
    spec
        Its contract.
    guide
        Positions of the bands it sees, in its order; one may be named several times.
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
        """Guidance maps the network makes."""
        return int(getattr(self.network, "guidance_count", 0))

    def guidance_maps(self, x: Tensor) -> Tensor:
        """The network's guidance maps of (N, B, h, w)."""
        maps: Tensor = self.network.guidance_maps(x[:, list(self.guide)])  # type: ignore[operator]
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """(N, B, h, w) -> (N, B, s * h, s * w), same value range."""
        bands = list(self.enlarge(x).float().unbind(1))
        seen = x[:, list(self.guide)]
        sharp = self.network(seen.contiguous(memory_format=torch.channels_last)).float()
        others = [i for i in range(x.shape[1]) if i not in self.guide]
        if others and self.mode == "inject":
            plain = torch.stack([bands[i] for i in self.guide], 1)
            detail = (sharp - plain).mean(1)
            intensity = seen.float().mean(1, keepdim=True)
            gains = upsample_bilinear(
                injection_gain(x[:, others].float(), intensity), self.enlarge.scale
            )
            for i, gain in zip(others, gains.unbind(1), strict=True):
                bands[i] = bands[i] + gain * detail
        elif self.mode == "per-band":
            for i in others:  # one by one: a convolution's last digit may depend on the batch
                grey = x[:, [i] * len(self.guide)]
                made = self.network(grey.contiguous(memory_format=torch.channels_last))
                bands[i] = made.float().mean(1)
        for i in set(self.guide):
            same = [k for k, position in enumerate(self.guide) if position == i]
            bands[i] = sharp[:, same].mean(1)
        return torch.stack(bands, 1)


def injection_gain(bands: Tensor, intensity: Tensor) -> Tensor:
    """How much of the intensity's detail each band shares, from what source pixels show of it.

    Detail is what a pixel differs from the mean of its 3 x 3 neighbours. The gain is the slope of
    the regression of a band's detail on the intensity's in a sliding window, times the square of
    their correlation: a band that has no such detail, or other detail, gets none.

    Parameters
    ----------
    bands
        (N, B, h, w) float32 on the 0..1 scale.
    intensity
        (N, 1, h, w).

    Returns
    -------
    Tensor
        (N, B, h, w).
    """
    x, y = intensity - _mean(intensity, 3), bands - _mean(bands, 3)
    covariance = _mean(x * y, WINDOW)
    of_x, of_y = _mean(x * x, WINDOW), _mean(y * y, WINDOW)
    shared = (covariance.square() / (of_x * of_y + EPS_VARIANCE**2)).clamp(0, 1)
    return shared * covariance / (of_x + EPS_VARIANCE)


def _mean(image: Tensor, size: int) -> Tensor:
    """Mean over the square of ``size`` pixels round each pixel, as far as there are any."""
    return F.avg_pool2d(image, size, 1, size // 2, count_include_pad=False)

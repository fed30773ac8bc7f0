"""Sounding: what a network's eight answers about a tile say about how sure it is.

Networks are deterministic, but not equivariant: turned and mirrored, the same ground is not quite
the same question. Where the eight answers differ, the input did not decide the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.engine.ensemble import MEMBERS, Forward, predictions
from georsr.models.bicubic import Bicubic

WITHIN, GRADIENT, SQUARE, FIRST = 0, 1, 2, 3
"""Planes of a sounding: variance, gradient, mean square, then the means of the bands."""


def planes_of(bands: int, maps: int) -> int:
    """Number of planes of a sounding."""
    return FIRST + bands + maps


class Sounding:
    """A way to ask a network (see :mod:`georsr.engine.ensemble`) that returns no picture.

    All planes may be blended linearly between tiles: of two tiles that disagree, the mean of the
    squares less the square of the mean is the variance of the mixture, so that `spread` counts the
    disagreement of overlapping tiles together with that of the orientations.

    Parameters
    ----------
    network
        Whose guidance maps are wanted, if it has any; on the device of the tiles.
    scale
        Of the network.
    """

    def __init__(self, network: nn.Module, scale: int) -> None:
        self.maps: Callable[[Tensor], Tensor] | None = None
        if guidance_count(network):
            self.maps = cast(Any, network).guidance_maps
        self.enlarge = Bicubic(scale)

    def __call__(self, forward: Forward, x: Tensor) -> Tensor:
        """(N, C, h, w) in 0..1 -> (N, P, s * h, s * w) float32.

        Returns
        -------
        Tensor
            Of each pixel: the variance of the eight answers, mean over bands; the magnitude of the
            gradient of the mean answer, per product pixel, mean over bands; the mean over bands of
            the squares of what follows; the mean answer of each band, less the bicubic
            enlargement; then the guidance maps.
        """
        # small numbers instead of large ones: their squares keep their digits in float32
        base = self.enlarge.to(x.device)(x)
        first = second = torch.zeros_like(base)
        for answer in predictions(forward, x):
            detail = answer - base
            first, second = first + detail, second + detail.square()
        mean = first / MEMBERS
        variance = (second / MEMBERS - mean.square()).clamp_min(0)
        planes = [
            variance.mean(1, keepdim=True),
            _gradient((mean + base).mean(1, keepdim=True)),
            mean.square().mean(1, keepdim=True),
            mean,
        ]
        if self.maps is not None:
            maps = self.maps(x).float()
            size = base.shape[2:]
            planes.append(F.interpolate(maps, size, mode="bilinear", align_corners=False))
        return torch.cat(planes, dim=1)


def guidance_count(network: nn.Module) -> int:
    """Number of guidance maps a network makes."""
    return int(getattr(network, "guidance_count", 0))


def _gradient(image: Tensor) -> Tensor:
    """Magnitude by central differences, the edge continued: (N, 1, H, W)."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    right = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    return torch.hypot(down, right) / 2

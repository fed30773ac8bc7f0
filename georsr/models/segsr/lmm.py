"""LMM, the learnable modulation module: a guidance map scales and shifts the features.

SeG-SR, arXiv 2505.23010, section III (learnable modulation); the form is SPADE's (arXiv
1903.07291) without its batch normalisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.segsr.hat import ChannelNorm


class LearnedResize(nn.Module):
    """Doubles a map ``steps`` times by convolution and pixel shuffle, as published.

    Parameters
    ----------
    steps
        log2(16 / scale): from the CLIP grid to the LR grid.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(1, 4, 3, padding=1) for _ in range(steps))

    def forward(self, guidance: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, hc, wc) -> (N, 1, *size), where size is (hc, wc) times 2^steps."""
        for step in self.steps:
            guidance = F.pixel_shuffle(step(guidance), 2)
        return guidance


class Interpolate(nn.Module):
    """Bilinear interpolation of a map to any grid, pixel grids sharing their outer corners."""

    def forward(self, guidance: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, hc, wc) -> (N, 1, *size)."""
        return F.interpolate(guidance, size, mode="bilinear", align_corners=False)


class LMM(nn.Module):
    """norm(x) * (1 + gamma(M)) + beta(M), for features x and a guidance map M.

    Parameters
    ----------
    width
        C, channels of the features.
    resize
        Brings the map to the features' grid.
    hidden
        Channels between the map and gamma, beta.
    """

    def __init__(self, width: int, resize: nn.Module, hidden: int = 128) -> None:
        super().__init__()
        self.resize = resize
        self.norm = ChannelNorm(width)
        self.shared = nn.Conv2d(1, hidden, 3, padding=1)
        self.gamma_beta = nn.Conv2d(hidden, 2 * width, 3, padding=1)
        with torch.no_grad():
            # An untrained guidance must not drown the features.
            self.gamma_beta.weight.mul_(0.05)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Features (N, C, h, w) and a map (N, 1, hc, wc) -> (N, C, h, w)."""
        size = (x.shape[2], x.shape[3])
        hidden = F.relu(self.shared(self.resize(guidance, size)))
        gamma, beta = self.gamma_beta(hidden).chunk(2, dim=1)
        x = self.norm(x)
        return torch.addcmul(x + beta, x, gamma)

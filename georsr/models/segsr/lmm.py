"""LMM, the learnable modulation module: a guidance map scales and shifts the features.

SeG-SR, arXiv 2505.23010, section III (learnable modulation); the form is that of SPADE (arXiv
1903.07291) without its batch normalisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (N, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BilinearResize(nn.Module):
    """Bilinear interpolation of a map to any grid; the outer corners of the grids coincide."""

    def forward(self, guidance: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, hc, wc) -> (N, 1, *size)."""
        return F.interpolate(guidance, size, mode="bilinear", align_corners=False)


class LMM(nn.Module):
    """norm(x) * (1 + gamma(M)) + beta(M), for features x and a guidance map M.

    Parameters
    ----------
    embed_dim
        C, channels of the features.
    resize
        Module that brings the map to the features' grid; None for `BilinearResize`.
    hidden_dim
        Channels between the map and gamma, beta.
    """

    def __init__(
        self, embed_dim: int, resize: nn.Module | None = None, hidden_dim: int = 128
    ) -> None:
        super().__init__()
        self.resize = resize or BilinearResize()
        self.norm = ChannelNorm(embed_dim)
        self.shared = nn.Conv2d(1, hidden_dim, 3, padding=1)
        self.gamma_beta = nn.Conv2d(hidden_dim, 2 * embed_dim, 3, padding=1)
        with torch.no_grad():  # an untrained guidance must not drown the features
            self.gamma_beta.weight.mul_(0.05)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Features (N, C, h, w) and a map (N, 1, hc, wc) -> (N, C, h, w)."""
        guidance = self.resize(guidance, (x.shape[2], x.shape[3]))
        gamma, beta = self.gamma_beta(F.relu(self.shared(guidance))).chunk(2, dim=1)
        x = self.norm(x)
        return torch.addcmul(x + beta, x, gamma)


class LightLMM(nn.Module):
    """x * (1 + gamma(M)) + beta(M) with few channels and no normalisation, for segsr-lite.

    The last layer starts at zero, so an untrained guidance changes nothing.

    Parameters
    ----------
    embed_dim
        C, channels of the features.
    hidden_dim
        Channels between the map and gamma, beta.
    """

    def __init__(self, embed_dim: int, hidden_dim: int = 8) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, hidden_dim, 3, padding=1)
        self.gamma_beta = nn.Conv2d(hidden_dim, 2 * embed_dim, 1)
        for parameter in self.gamma_beta.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Features (N, C, h, w) and a map (N, 1, hc, wc) -> (N, C, h, w)."""
        guidance = F.interpolate(guidance, x.shape[2:], mode="bilinear", align_corners=False)
        gamma, beta = self.gamma_beta(F.relu(self.lift(guidance))).chunk(2, dim=1)
        return torch.addcmul(x, x, gamma).add_(beta)

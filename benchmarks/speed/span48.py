"""SPAN-48 in the shape in which it runs, with random weights: the yardstick of efficient networks.

Built from the description in arXiv 2311.12770: six blocks of three plain 3x3 convolutions (branches
fused), attention without parameters, features of the first, last and middle blocks joined by a 1x1
convolution, one pixel shuffle; 48 features, 426 thousand weights at x4. Speed does not depend on
the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.io import Model
from georsr.models.spec import ModelSpec


def conv(inside: int, outside: int) -> nn.Conv2d:
    """3x3, same size."""
    return nn.Conv2d(inside, outside, 3, padding=1)


class Block(nn.Module):
    """Three convolutions, and attention that is the symmetric part of a sigmoid of their output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> the block's output, and the features after its first convolution."""
        first = self.convs[0](x)
        last = self.convs[2](F.silu(self.convs[1](F.silu(first))))
        return (last + x) * (torch.sigmoid(last) - 0.5), first


class Span(nn.Module):
    """(N, 3, h, w) -> (N, 3, s * h, s * w)."""

    def __init__(self, scale: int, width: int = 48, blocks: int = 6) -> None:
        super().__init__()
        self.scale = scale
        self.head = conv(3, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = conv(width, width)
        self.join = nn.Conv2d(4 * width, width, 1)
        self.tail = conv(width, 3 * scale**2)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge."""
        shallow = features = self.head(x)
        kept = []
        for i, block in enumerate(self.blocks):
            features, first = block(features)
            if i in (0, len(self.blocks) - 1):
                kept.append(features if i == 0 else first)
        joined = self.join(torch.cat([shallow, self.last(features), *kept], dim=1))
        return F.pixel_shuffle(self.tail(joined), self.scale)


def span48(scale: int, tile: int) -> Model:
    """A model that runs in tiles of that size."""
    torch.manual_seed(0)
    network = Span(scale).eval().requires_grad_(False)
    return Model(ModelSpec("span-48", "span", scale, tile=tile), network, "0" * 64, "random")

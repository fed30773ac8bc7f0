"""The convolutional backbone of segsr-lite: plain 3x3 convolutions in residual groups.

Branches in the spirit of RepVGG (arXiv 2101.03697) and SPAN (arXiv 2311.12770), but summed in the
space of kernels, as OREPA does (arXiv 2204.00826): training pays for one convolution per layer,
and export writes the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RepConv(nn.Module):
    """A 3x3 convolution whose kernel is 3x3 + 1x1 + scaled identity while it trains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(width, width, 3, 3))
        self.pointwise = nn.Parameter(torch.zeros(width, width))
        self.identity = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.kaiming_normal_(self.kernel, nonlinearity="relu")

    def fused_kernel(self) -> Tensor:
        """The single (width, width, 3, 3) kernel that computes what the branches compute."""
        centre = self.pointwise + torch.diag(self.identity)
        return self.kernel + F.pad(centre[:, :, None, None], (1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return F.conv2d(x, self.fused_kernel(), self.bias, padding=1)

    def fuse(self) -> nn.Conv2d:
        """A plain convolution with the same output."""
        width = self.bias.shape[0]
        conv = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            conv.weight.copy_(self.fused_kernel())
            cast(Tensor, conv.bias).copy_(self.bias)
        return conv


def conv3x3(width: int, fused: bool) -> nn.Module:
    """One layer of the backbone, in its training or in its exported form."""
    return nn.Conv2d(width, width, 3, padding=1) if fused else RepConv(width)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x))), the second convolution starting small so that signals stay tame."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(width, fused)
        self.conv2 = conv3x3(width, fused)
        if isinstance(self.conv2, RepConv):
            with torch.no_grad():
                self.conv2.kernel.mul_(0.1)

    def forward(self, x: Tensor, tuning: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w).

        ``tuning`` is a scale and a shift (N, C, 1, 1) of the inner features: what the scene says
        about which of them matter.
        """
        inner = self.conv1(x)
        if tuning is not None:
            scale, shift = tuning
            inner = torch.addcmul(shift, inner, 1 + scale)
        # in place, as no step of the gradient needs what is overwritten: every pass over the
        # features that is saved is worth a percent of the time
        return self.conv2(F.relu_(inner)).add_(x)


class Group(nn.Sequential):
    """Residual blocks one after another."""

    def forward(self, x: Tensor, tunings: Sequence[tuple[Tensor, Tensor]] = ()) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w), with one tuning per block or none at all."""
        for i, block in enumerate(self):
            x = block(x, tunings[i]) if tunings else block(x)
        return x


class Backbone(nn.Module):
    """Shallow features, groups of residual blocks, and the sub-pixel head.

    It exposes its groups, so that any guidance can act after each of them.
    """

    def __init__(self, bands: int, width: int, groups: int, blocks: int, fused: bool) -> None:
        super().__init__()
        self.head = nn.Conv2d(bands, width, 3, padding=1)
        self.groups = nn.ModuleList(
            Group(*(ResidualBlock(width, fused) for _ in range(blocks))) for _ in range(groups)
        )


def fuse_branches(module: nn.Module) -> None:
    """Replace every :class:`RepConv` inside ``module`` by its plain convolution, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, RepConv):
            setattr(module, name, child.fuse())
        else:
            fuse_branches(child)

"""HAT, the backbone of SeG-SR: window attention, convolution with channel attention, overlap.

Chen et al., *Activating More Pixels in Image Super-Resolution Transformer*, arXiv 2205.04437,
section 3. Written from the paper. Groups take and give (N, C, h, w), best in channels_last, so
that any guidance can act between them; inside, tokens are the same memory seen as (N, h, w, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.segsr.attention import OverlapAttention, WindowAttention

CONV_WEIGHT = 0.01
"""Share of the convolution branch beside attention (alpha in HAT, section 3.2)."""


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (N, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Two linear layers with GELU between: (..., C) -> (..., C)."""

    def __init__(self, width: int, ratio: float = 2.0) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class ChannelAttentionBlock(nn.Module):
    """Two 3x3 convolutions, and one factor per channel from the mean over the tile."""

    def __init__(self, width: int, compress: int = 3, squeeze: int = 30) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width // compress, 3, padding=1)
        self.conv2 = nn.Conv2d(width // compress, width, 3, padding=1)
        self.squeeze = nn.Conv2d(width, width // squeeze, 1)
        self.excite = nn.Conv2d(width // squeeze, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> features (N, C, h, w) and factors (N, C, 1, 1), not yet multiplied."""
        x = self.conv2(F.gelu(self.conv1(x)))
        pooled = x.mean((2, 3), keepdim=True)
        return x, torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))


class HybridBlock(nn.Module):
    """HAB: window attention and channel attention side by side, then an MLP."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, window, shift)
        self.convolution = ChannelAttentionBlock(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        normed = self.norm1(x)
        features, factors = self.convolution(normed.permute(0, 3, 1, 2))
        x = torch.addcmul(
            x + self.attention(normed),
            features.permute(0, 2, 3, 1),
            CONV_WEIGHT * factors.permute(0, 2, 3, 1),
        )
        return x + self.mlp(self.norm2(x))


class OverlapBlock(nn.Module):
    """OCAB: cross-attention to overlapping windows, then an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = OverlapAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class HybridGroup(nn.Module):
    """RHAG: hybrid blocks with alternating shift, one overlapping block, a residual convolution.

    Parameters
    ----------
    width, heads, window
        Channels, attention heads, window size.
    blocks
        Hybrid blocks before the overlapping one.
    entry
        Normalise the input over its channels first (the first group of a backbone).
    """

    def __init__(self, width: int, heads: int, window: int, blocks: int, entry: bool) -> None:
        super().__init__()
        self.entry = ChannelNorm(width) if entry else None
        self.blocks = nn.ModuleList(
            HybridBlock(width, heads, window, (i % 2) * window // 2) for i in range(blocks)
        )
        self.overlap = OverlapBlock(width, heads, window)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w); h and w multiples of the window."""
        if self.entry is not None:
            x = self.entry(x)
        tokens = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.overlap(tokens)
        return self.conv(tokens.permute(0, 3, 1, 2)) + x


class HatBackbone(nn.Module):
    """Shallow features and groups; what lies between and after the groups is the network's.

    Parameters
    ----------
    bands
        Bands in.
    width, heads, groups, blocks, window
        180, 6, 6, 6 and 16 in HAT and SeG-SR.
    """

    def __init__(
        self, bands: int, width: int, heads: int, groups: int, blocks: int, window: int = 16
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(bands, width, 3, padding=1)
        self.groups = nn.ModuleList(
            HybridGroup(width, heads, window, blocks, entry=i == 0) for i in range(groups)
        )


class HatTail(nn.Module):
    """From features to pixels: residual to the shallow features, sub-pixel steps, bands."""

    def __init__(self, width: int, bands: int, scale: int, hidden: int = 64) -> None:
        super().__init__()
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.before = nn.Conv2d(width, hidden, 3, padding=1)
        self.factors = {2: [2], 3: [3], 4: [2, 2]}[scale]
        self.steps = nn.ModuleList(
            nn.Conv2d(hidden, hidden * f * f, 3, padding=1) for f in self.factors
        )
        self.last = nn.Conv2d(hidden, bands, 3, padding=1)

    def forward(self, features: Tensor, shallow: Tensor) -> Tensor:
        """Two (N, C, h, w) -> (N, bands, s * h, s * w)."""
        x = F.leaky_relu(self.before(self.body(features) + shallow), 0.01)
        for factor, step in zip(self.factors, self.steps, strict=True):
            x = F.pixel_shuffle(step(x), factor)
        return self.last(x)


class PlainTail(nn.Module):
    """The same for a light backbone: one convolution and one sub-pixel step."""

    def __init__(self, width: int, bands: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(width, bands * scale * scale, 3, padding=1)

    def forward(self, features: Tensor, shallow: Tensor) -> Tensor:
        """Two (N, C, h, w) -> (N, bands, s * h, s * w)."""
        return F.pixel_shuffle(self.conv(features + shallow), self.scale)

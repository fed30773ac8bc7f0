"""HAT, the backbone of SeG-SR: window attention, channel attention, overlapping cross-attention.

Chen et al., *Activating More Pixels in Image Super-Resolution Transformer*, arXiv 2205.04437,
section 3. Written from the paper, with its names: HAB, OCAB, RHAG. Features are (N, C, h, w),
best in channels_last; inside a group the same memory is used as (N, h, w, C).

Shifted windows (Swin, arXiv 2103.14030, section 3.2) are computed without rolling the image and
without masks: the masked softmax over a rolled window equals separate softmaxes over the rectangles
that the window consists of. So the image is cut at 8, 24, 40 ... instead of 0, 16, 32 ..., which
gives smaller windows at the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError
from georsr.models.optimize import cached, pad_heads
from georsr.models.segsr import Backbone, ChannelNorm

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""RGB mean of the training images of HAT and of the published SeG-SR, for values in 0..1."""
CONV_SCALE = 0.01
"""Weight of the convolution branch of a HAB (alpha in HAT, section 3.2)."""


@dataclass(frozen=True)
class WindowSize:
    """Windows of one size, stored one after the other."""

    count: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Pixels of one window."""
        return self.height * self.width


@dataclass(frozen=True)
class WindowPartition:
    """A rearrangement of N images of h x w pixels into windows.

    ``order[i]`` is the flat index (image, row, column) of the i-th pixel in window order;
    ``inverse`` leads back.
    """

    order: Tensor
    inverse: Tensor
    sizes: tuple[WindowSize, ...]


def split_axis(length: int, window_size: int, shift_size: int) -> list[tuple[int, int]]:
    """Return (start, size) of the parts of an axis cut at ``shift_size + k * window_size``."""
    edges = sorted({0, *range(shift_size, length, window_size), length})
    return [(a, b - a) for a, b in pairwise(edges)]


def make_partition(
    n: int, h: int, w: int, window_size: int, shift_size: int, device: torch.device
) -> WindowPartition:
    """Return the partition of ``n`` images of ``h`` x ``w`` pixels into (shifted) windows."""
    pixels = torch.arange(n * h * w, device=device).view(n, h, w)
    rows, columns = split_axis(h, window_size, shift_size), split_axis(w, window_size, shift_size)
    order: list[Tensor] = []
    sizes: list[WindowSize] = []
    for height in sorted({size for _, size in rows}, reverse=True):
        for width in sorted({size for _, size in columns}, reverse=True):
            windows = [
                pixels[:, y : y + height, x : x + width].reshape(n, -1)
                for y, a in rows
                for x, b in columns
                if (a, b) == (height, width)
            ]
            order.append(torch.cat(windows).flatten())
            sizes.append(WindowSize(n * len(windows), height, width))
    joined = torch.cat(order)
    return WindowPartition(joined, torch.argsort(joined), tuple(sizes))


@lru_cache(maxsize=32)
def _cached_partition(
    n: int, h: int, w: int, window_size: int, shift_size: int, device: torch.device
) -> WindowPartition:
    # index tensors created in inference mode could not be used by a later training step
    with torch.inference_mode(False):
        return make_partition(n, h, w, window_size, shift_size, device)


def window_partition(
    n: int, h: int, w: int, window_size: int, shift_size: int, device: torch.device
) -> WindowPartition:
    """Return `make_partition`, cached by size and device except while a compiler traces."""
    if torch.compiler.is_compiling():
        return make_partition(n, h, w, window_size, shift_size, device)
    return _cached_partition(n, h, w, window_size, shift_size, device)


class RelativePositionBias(nn.Module):
    """Learned bias on attention logits: one row of a table per relative position of two pixels.

    Subclasses compute the row of every pair of query and key.

    Parameters
    ----------
    num_positions, num_heads
        Shape of the table.
    """

    is_cached = False

    def __init__(self, num_positions: int, num_heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_positions, num_heads))
        nn.init.normal_(self.table, std=0.02)

    def index(self, height: int, width: int) -> Tensor:
        """Return the row of every (query, key) for a window of that size of queries."""
        raise NotImplementedError

    def optimize_for_inference(self) -> None:
        """Compute the bias once per size of window."""
        self.is_cached = True

    def forward(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """Return the bias (1, heads, queries, keys) for a window of that size of queries."""
        compute = partial(self._compute, height, width, dtype)
        if self.is_cached:
            return cached(self, self.table, (height, width, dtype), compute)
        return compute()

    def _compute(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        bias = self.table[self.index(height, width)].permute(2, 0, 1)[None]
        return bias.to(dtype).contiguous()


class WindowPositionBias(RelativePositionBias):
    """Position bias of self-attention in a window.

    Parameters
    ----------
    window_size
        Height and width of a full window.
    num_heads
        Attention heads.
    """

    def __init__(self, window_size: int, num_heads: int) -> None:
        super().__init__((2 * window_size - 1) ** 2, num_heads)
        self.window_size = window_size

    def index(self, height: int, width: int) -> Tensor:
        """Return the row of every (query, key), (L, L) with L = height * width."""
        y, x = _grid(height, width, self.table.device)
        dy = y[:, None] - y[None, :] + self.window_size - 1
        dx = x[:, None] - x[None, :] + self.window_size - 1
        return dy * (2 * self.window_size - 1) + dx


class OverlapPositionBias(RelativePositionBias):
    """Position bias of a window's pixels against those of a larger window around it.

    Parameters
    ----------
    window_size, overlap_size
        Height and width of the window of the queries, and of that of the keys.
    num_heads
        Attention heads.
    """

    def __init__(self, window_size: int, overlap_size: int, num_heads: int) -> None:
        super().__init__((window_size + overlap_size - 1) ** 2, num_heads)
        self.window_size, self.overlap_size = window_size, overlap_size

    def index(self, height: int, width: int) -> Tensor:
        """Return the row of every (query, key), (height * width, overlap_size^2).

        HAT's offsets begin at window_size - overlap_size + 1, so some rows are counted from the
        end of the table. Trained tables are laid out that way.
        """
        qy, qx = _grid(height, width, self.table.device)
        ky, kx = _grid(self.overlap_size, self.overlap_size, self.table.device)
        first = self.window_size - self.overlap_size + 1
        span = self.window_size + self.overlap_size - 1
        dy = ky[None, :] - qy[:, None] + first
        dx = kx[None, :] - qx[:, None] + first
        return (dy * span + dx) % (span * span)


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return row and column of every pixel of a window, both (height * width,)."""
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    return y, x


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows, (S)W-MSA in HAT, section 3.2.

    Parameters
    ----------
    dim
        C, channels; a multiple of ``num_heads``.
    num_heads
        Attention heads.
    window_size
        Height and width of a window.
    shift_size
        Position of the first cut: 0, or half a window.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, shift_size: int) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.shift_size = num_heads, window_size, shift_size
        self.scale = (dim // num_heads) ** -0.5
        self.relative_position_bias = WindowPositionBias(window_size, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def optimize_for_inference(self) -> None:
        """Pad the heads."""
        pad_heads(self.qkv, self.proj, self.num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        n, h, w, c = x.shape
        partition = window_partition(n, h, w, self.window_size, self.shift_size, x.device)
        qkv = self.qkv(x.reshape(-1, c).index_select(0, partition.order))
        attended: list[Tensor] = []
        start = 0
        for size in partition.sizes:
            part = qkv[start : start + size.count * size.area]
            start += size.count * size.area
            # (windows * L, 3 * heads * d) -> 3 x (windows, heads, L, d)
            parts = part.view(size.count, size.area, 3, self.num_heads, -1)
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            bias = self.relative_position_bias(size.height, size.width, q.dtype)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
            attended.append(out.transpose(1, 2).reshape(len(part), -1))
        joined = self.proj(torch.cat(attended) if len(attended) > 1 else attended[0])
        return joined.index_select(0, partition.inverse).view(n, h, w, c)


class OverlapAttention(nn.Module):
    """Cross-attention of each window to a larger window around it, OCA in HAT, section 3.3.

    Keys and values beyond the tile are zero, as in HAT.

    Parameters
    ----------
    dim, num_heads, window_size
        As in `WindowAttention`.
    overlap_ratio
        The larger window is ``window_size * (1 + overlap_ratio)`` high and wide.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int, overlap_ratio: float = 0.5
    ) -> None:
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.overlap_size = window_size + int(window_size * overlap_ratio)
        self.scale = (dim // num_heads) ** -0.5
        self.relative_position_bias = OverlapPositionBias(window_size, self.overlap_size, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def optimize_for_inference(self) -> None:
        """Pad the heads."""
        pad_heads(self.qkv, self.proj, self.num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        n, h, w, c = x.shape
        size = self.window_size
        partition = window_partition(n, h, w, size, 0, x.device)
        windows = partition.sizes[0].count
        qkv = self.qkv(x)
        inner = qkv.shape[-1] // 3
        q = qkv[..., :inner].reshape(-1, inner).index_select(0, partition.order)
        q = q.view(windows, size**2, self.num_heads, -1).transpose(1, 2)
        margin = (self.overlap_size - size) // 2
        kv = F.pad(qkv[..., inner:], (0, 0, margin, margin, margin, margin))
        # (N, h', w', 2 * heads * d) -> (N, rows, columns, 2 * heads * d, overlap, overlap)
        kv = kv.unfold(1, self.overlap_size, size).unfold(2, self.overlap_size, size)
        # the partition's order of windows: by row and column, then by image
        kv = kv.permute(1, 2, 0, 4, 5, 3)
        kv = kv.reshape(windows, self.overlap_size**2, 2, self.num_heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias(size, size, q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        joined = self.proj(out.transpose(1, 2).reshape(-1, inner))
        return joined.index_select(0, partition.inverse).view(n, h, w, c)


class Mlp(nn.Module):
    """Two linear layers with GELU between: (..., C) -> (..., C)."""

    def __init__(self, dim: int, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        hidden_dim = int(dim * mlp_ratio)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class CAB(nn.Module):
    """Channel attention block: two 3x3 convolutions, and a factor per channel from their mean."""

    def __init__(self, dim: int, compress_ratio: int = 3, squeeze_factor: int = 30) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim // compress_ratio, 3, padding=1)
        self.conv2 = nn.Conv2d(dim // compress_ratio, dim, 3, padding=1)
        self.squeeze = nn.Conv2d(dim, dim // squeeze_factor, 1)
        self.excite = nn.Conv2d(dim // squeeze_factor, dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> features (N, C, h, w) and factors (N, C, 1, 1), not yet multiplied."""
        x = self.conv2(F.gelu(self.conv1(x)))
        pooled = x.mean((2, 3), keepdim=True)
        return x, torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))


class HAB(nn.Module):
    """Hybrid attention block: window attention plus channel attention, then an MLP."""

    def __init__(self, dim: int, num_heads: int, window_size: int, shift_size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size, shift_size)
        self.conv_block = CAB(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        normed = self.norm1(x)
        features, factors = self.conv_block(normed.permute(0, 3, 1, 2))
        x = torch.addcmul(
            x + self.attn(normed),
            features.permute(0, 2, 3, 1),
            CONV_SCALE * factors.permute(0, 2, 3, 1),
        )
        return x + self.mlp(self.norm2(x))


class OCAB(nn.Module):
    """Overlapping cross-attention block: attention to overlapping windows, then an MLP."""

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = OverlapAttention(dim, num_heads, window_size)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class RHAG(nn.Module):
    """Residual hybrid attention group: HABs with alternating shift, an OCAB, a convolution.

    Parameters
    ----------
    dim
        C, channels.
    depth
        Hybrid attention blocks before the OCAB.
    num_heads, window_size
        Attention heads, height and width of a window.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            HAB(dim, num_heads, window_size, shift_size=(i % 2) * window_size // 2)
            for i in range(depth)
        )
        self.overlap_attn = OCAB(dim, num_heads, window_size)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w); h and w multiples of the window size."""
        tokens = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.overlap_attn(tokens)
        return self.conv(tokens.permute(0, 3, 1, 2)) + x


class Upsampler(nn.Module):
    """Convolutions and sub-pixel steps from features to pixels, as in HAT.

    Parameters
    ----------
    embed_dim
        C, channels of the features.
    scale
        2, 3 or 4.
    num_feat
        Channels between.
    """

    mean: Tensor

    def __init__(self, embed_dim: int, scale: int, num_feat: int = 64) -> None:
        super().__init__()
        self.factors = {2: [2], 3: [3], 4: [2, 2]}[scale]
        self.conv_before_upsample = nn.Conv2d(embed_dim, num_feat, 3, padding=1)
        self.upsample = nn.ModuleList(
            nn.Conv2d(num_feat, num_feat * f * f, 3, padding=1) for f in self.factors
        )
        self.conv_last = nn.Conv2d(num_feat, 3, 3, padding=1)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """Features (N, C, h, w) -> (N, 3, s * h, s * w) in 0..1; the image itself is not used."""
        x = F.leaky_relu(self.conv_before_upsample(features), 0.01)
        for factor, conv in zip(self.factors, self.upsample, strict=True):
            x = F.pixel_shuffle(conv(x), factor)
        return self.conv_last(x) + self.mean


class HAT(Backbone):
    """The backbone of HAT and of the published SeG-SR, for RGB.

    Parameters
    ----------
    bands, embed_dim, num_groups, depth, num_heads, window_size
        3, 180, 6, 6, 6 and 16 in HAT and SeG-SR.

    Raises
    ------
    ModelError
        There are not three bands, or the heads do not divide the channels.
    """

    multiple_of = 16
    tile, halo, overlap = 64, 8, 8
    mean: Tensor

    def __init__(
        self,
        bands: int,
        embed_dim: int,
        num_groups: int,
        depth: int,
        *,
        num_heads: int = 6,
        window_size: int = 16,
    ) -> None:
        if bands != 3:
            raise ModelError(f"the backbone hat takes 3 bands, not {bands}")
        if embed_dim % num_heads:
            raise ModelError(
                f"the backbone hat has {embed_dim} channels, expected a multiple of its "
                f"{num_heads} heads"
            )
        super().__init__(bands, embed_dim)
        self.multiple_of = window_size
        self.patch_norm = ChannelNorm(embed_dim)
        for _ in range(num_groups):
            self.groups.append(RHAG(embed_dim, depth, num_heads, window_size))
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)

    def normalize(self, x: Tensor) -> Tensor:
        """Subtract the mean of the training images."""
        return x - self.mean

    def make_upsampler(self, scale: int) -> nn.Module:
        """Return HAT's upsampler; raises `ModelError` for a factor other than 2, 3 and 4."""
        if scale not in (2, 3, 4):
            raise ModelError(f"the backbone hat enlarges by 2, 3 or 4, not by {scale}")
        return Upsampler(self.embed_dim, scale)

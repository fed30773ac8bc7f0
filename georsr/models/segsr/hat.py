"""HAT, the backbone of SeG-SR: window attention, convolution with channel attention, overlap.

Chen et al., *Activating More Pixels in Image Super-Resolution Transformer*, arXiv 2205.04437,
section 3. Written from the paper. Groups take and give (N, C, h, w), best in channels_last, so
that any guidance can act between them; inside, tokens are the same memory seen as (N, h, w, C).

Attention inside windows: self-attention, and cross-attention to a larger window around each.

HAT, arXiv 2205.04437, sections 3.2 and 3.3 ((S)W-MSA and OCA). Features travel as (N, h, w, C).

Windows: which pixel belongs to which attention window, as index arithmetic.

Swin's shifted windows (arXiv 2103.14030, section 3.2) roll the image, cut it, and mask what the
roll brought together. The masked softmax over a rolled window equals separate softmaxes over the
pieces it is made of, and those pieces are rectangles of the image itself: cut it at 8, 24, 40 ...
instead of at 0, 16, 32 ... So there is neither roll nor mask here, and border pieces cost what
their size says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.layers import cached_in_eval


@dataclass(frozen=True)
class Pieces:
    """Windows of one size, stored one after the other."""

    count: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Pixels of one window."""
        return self.height * self.width


@dataclass(frozen=True)
class Layout:
    """A rearrangement of N images of h x w pixels into windows.

    ``order[i]`` is the flat pixel (image, row, column) at place i; ``inverse`` leads back.
    """

    order: Tensor
    inverse: Tensor
    pieces: tuple[Pieces, ...]


def cuts(length: int, window: int, shift: int) -> list[tuple[int, int]]:
    """(start, size) of the pieces of an axis cut at ``shift + k * window``."""
    edges = sorted({0, *range(shift, length, window), length})
    return [(a, b - a) for a, b in pairwise(edges)]


def make_layout(n: int, h: int, w: int, window: int, shift: int, device: torch.device) -> Layout:
    """Layout of ``n`` images of ``h`` x ``w`` pixels; see :class:`Layout`."""
    pixels = torch.arange(n * h * w, device=device).view(n, h, w)
    rows, columns = cuts(h, window, shift), cuts(w, window, shift)
    order: list[Tensor] = []
    pieces: list[Pieces] = []
    for height in sorted({size for _, size in rows}, reverse=True):
        for width in sorted({size for _, size in columns}, reverse=True):
            found = [
                pixels[:, y : y + height, x : x + width].reshape(n, -1)
                for y, a in rows
                for x, b in columns
                if (a, b) == (height, width)
            ]
            order.append(torch.cat(found).flatten())
            pieces.append(Pieces(n * len(found), height, width))
    together = torch.cat(order)
    return Layout(together, torch.argsort(together), tuple(pieces))


@lru_cache(maxsize=32)
def _known_layout(n: int, h: int, w: int, window: int, shift: int, device: torch.device) -> Layout:
    # Index tensors made in inference mode could not serve a later training step.
    with torch.inference_mode(False):
        return make_layout(n, h, w, window, shift, device)


def layout(n: int, h: int, w: int, window: int, shift: int, device: torch.device) -> Layout:
    """:func:`make_layout`, remembered per size and device; traced afresh by compilers."""
    if torch.compiler.is_compiling():
        return make_layout(n, h, w, window, shift, device)
    return _known_layout(n, h, w, window, shift, device)


def bias_index(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Row of the relative-position table for every (query, key) of a ``height`` x ``width`` piece.

    (L, L) with L = height * width, into a table of (2 * window - 1)^2 rows.
    """
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def overlap_index(window: int, reach: int, device: torch.device) -> Tensor:
    """The same for a window's pixels against the larger ``reach`` x ``reach`` window around it.

    (window^2, reach^2) into a table of (window + reach - 1)^2 rows. HAT's offsets begin at
    window - reach + 1, so some rows are counted from the end of the table; kept, because trained
    tables are laid out that way.
    """
    span = window + reach - 1

    def offsets(size: int) -> tuple[Tensor, Tensor]:
        line = torch.arange(size, device=device)
        return line.repeat_interleave(size), line.repeat(size)

    (qy, qx), (ky, kx) = offsets(window), offsets(reach)
    first = window - reach + 1
    dy = ky[None, :] - qy[:, None] + first
    dx = kx[None, :] - qx[:, None] + first
    return (dy * span + dx) % (span * span)


def pad_to_8(head: int, device: torch.device) -> int:
    """Channels to add to each head so that fused attention kernels take it (multiples of 8).

    A head of 30 falls back to the slow kernel on CUDA and is 1.2 to 1.5 times slower on the CPU.
    """
    return -head % 8 if device.type in ("cpu", "cuda") else 0


class PaddedQKV(nn.Linear):
    """A linear layer whose outputs are ``parts * heads`` heads, each padded by zeros.

    (..., C) -> (..., parts * heads * padded head).
    """

    def __init__(self, width: int, heads: int, parts: int = 3) -> None:
        super().__init__(width, parts * width)
        self.head = width // heads

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., parts * heads * padded head)."""
        pad = pad_to_8(self.head, x.device)
        if pad == 0:
            return super().forward(x)

        def padded(values: Tensor) -> Tensor:
            heads = values.unflatten(0, (-1, self.head))
            return F.pad(heads, (0, 0) * (values.dim() - 1) + (0, pad)).flatten(0, 1)

        kernel = cached_in_eval(self, self.weight, "weight", lambda: padded(self.weight))
        offset = cached_in_eval(self, self.bias, "bias", lambda: padded(self.bias))
        return F.linear(x, kernel, offset)


class PaddedProj(nn.Linear):
    """The linear layer after attention: takes padded heads, (..., heads * padded) -> (..., C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, width)
        self.head = width // heads

    def forward(self, x: Tensor) -> Tensor:
        """(..., heads * padded head) -> (..., C)."""
        pad = pad_to_8(self.head, x.device)
        if pad == 0:
            return super().forward(x)

        def padded() -> Tensor:
            return F.pad(self.weight.unflatten(1, (-1, self.head)), (0, pad)).flatten(1, 2)

        return F.linear(x, cached_in_eval(self, self.weight, "weight", padded), self.bias)


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows, with a learned bias per relative position.

    Parameters
    ----------
    width
        C, channels; a multiple of ``heads``.
    heads
        Attention heads.
    window
        Height and width of a window.
    shift
        Where the first cut lies: 0, or half a window (see :mod:`georsr.models.segsr.hat`).
    """

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.scale = (width // heads) ** -0.5
        self.bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads) * 0.02)
        self.qkv = PaddedQKV(width, heads)
        self.proj = PaddedProj(width, heads)

    def bias(self, piece: Pieces, dtype: torch.dtype) -> Tensor:
        """Bias on the logits, (1, heads, L, L): the ``attn_mask`` of one size of window."""
        table = self.bias_table

        def gather() -> Tensor:
            index = bias_index(piece.height, piece.width, self.window, table.device)
            # (L, L, heads) -> (1, heads, L, L)
            return table[index].permute(2, 0, 1)[None].to(dtype).contiguous()

        return cached_in_eval(self, table, (piece.height, piece.width, dtype), gather)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        n, h, w, c = x.shape
        plan = layout(n, h, w, self.window, self.shift, x.device)
        qkv = self.qkv(x.reshape(-1, c).index_select(0, plan.order))
        attended: list[Tensor] = []
        start = 0
        for piece in plan.pieces:
            part = qkv[start : start + piece.count * piece.area]
            start += piece.count * piece.area
            # (windows * L, 3 * heads * d) -> 3 x (windows, heads, L, d)
            q, k, v = part.view(piece.count, piece.area, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            bias = self.bias(piece, q.dtype)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
            attended.append(out.transpose(1, 2).reshape(len(part), -1))
        mixed = self.proj(torch.cat(attended) if len(attended) > 1 else attended[0])
        return mixed.index_select(0, plan.inverse).view(n, h, w, c)


class OverlapAttention(nn.Module):
    """Cross-attention: each window asks a window half again as large around it.

    Keys and values beyond the tile are zero, as in HAT.

    Parameters
    ----------
    width, heads, window
        As in :class:`WindowAttention`.
    overlap
        The larger window is ``window * (1 + overlap)`` high and wide.
    """

    def __init__(self, width: int, heads: int, window: int, overlap: float = 0.5) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.reach = window + int(window * overlap)
        self.scale = (width // heads) ** -0.5
        self.bias_table = nn.Parameter(torch.randn((window + self.reach - 1) ** 2, heads) * 0.02)
        self.qkv = PaddedQKV(width, heads)
        self.proj = PaddedProj(width, heads)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """Bias on the logits, (1, heads, window^2, reach^2)."""
        table = self.bias_table

        def gather() -> Tensor:
            index = overlap_index(self.window, self.reach, table.device)
            return table[index].permute(2, 0, 1)[None].to(dtype).contiguous()

        return cached_in_eval(self, table, dtype, gather)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        n, h, w, c = x.shape
        plan = layout(n, h, w, self.window, 0, x.device)
        windows = plan.pieces[0].count
        qkv = self.qkv(x)
        inner = qkv.shape[-1] // 3
        q = qkv[..., :inner].reshape(-1, inner).index_select(0, plan.order)
        q = q.view(windows, self.window**2, self.heads, -1).transpose(1, 2)
        margin = (self.reach - self.window) // 2
        kv = F.pad(qkv[..., inner:], (0, 0, margin, margin, margin, margin))
        # (N, h', w', 2 * heads * d) -> (N, rows, columns, 2 * heads * d, reach, reach)
        kv = kv.unfold(1, self.reach, self.window).unfold(2, self.reach, self.window)
        # the layout's order of windows: place by place, image by image
        kv = kv.permute(1, 2, 0, 4, 5, 3).reshape(windows, self.reach**2, 2, self.heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4)
        bias = self.bias(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        mixed = self.proj(out.transpose(1, 2).reshape(-1, inner))
        return mixed.index_select(0, plan.inverse).view(n, h, w, c)


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


class HAB(nn.Module):
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


class OCAB(nn.Module):
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


class RHAG(nn.Module):
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
            HAB(width, heads, window, (i % 2) * window // 2) for i in range(blocks)
        )
        self.overlap = OCAB(width, heads, window)
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
            RHAG(width, heads, window, blocks, entry=i == 0) for i in range(groups)
        )


class Upsampler(nn.Module):
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


class PlainUpsampler(nn.Module):
    """The same for a light backbone: one convolution and one sub-pixel step."""

    def __init__(self, width: int, bands: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(width, bands * scale * scale, 3, padding=1)

    def forward(self, features: Tensor, shallow: Tensor) -> Tensor:
        """Two (N, C, h, w) -> (N, bands, s * h, s * w)."""
        return F.pixel_shuffle(self.conv(features + shallow), self.scale)

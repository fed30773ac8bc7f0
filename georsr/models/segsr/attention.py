"""Attention inside windows: self-attention, and cross-attention to a larger window around each.

HAT, arXiv 2205.04437, sections 3.2 and 3.3 ((S)W-MSA and OCA). Features travel as (N, h, w, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.segsr.derived import derived
from georsr.models.segsr.windows import Pieces, bias_index, layout, overlap_index


def head_padding(head: int, device: torch.device) -> int:
    """Channels to add to each head so that fused attention kernels take it (multiples of 8).

    A head of 30 falls back to the slow kernel on CUDA and is 1.2 to 1.5 times slower on the CPU.
    """
    return -head % 8 if device.type in ("cpu", "cuda") else 0


class ToHeads(nn.Linear):
    """A linear layer whose outputs are ``parts * heads`` heads, each padded by zeros.

    (..., C) -> (..., parts * heads * padded head).
    """

    def __init__(self, width: int, heads: int, parts: int = 3) -> None:
        super().__init__(width, parts * width)
        self.head = width // heads

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., parts * heads * padded head)."""
        pad = head_padding(self.head, x.device)
        if pad == 0:
            return super().forward(x)

        def padded(values: Tensor) -> Tensor:
            heads = values.unflatten(0, (-1, self.head))
            return F.pad(heads, (0, 0) * (values.dim() - 1) + (0, pad)).flatten(0, 1)

        kernel = derived(self, self.weight, "weight", lambda: padded(self.weight))
        offset = derived(self, self.bias, "bias", lambda: padded(self.bias))
        return F.linear(x, kernel, offset)


class FromHeads(nn.Linear):
    """The linear layer after attention: takes padded heads, (..., heads * padded) -> (..., C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, width)
        self.head = width // heads

    def forward(self, x: Tensor) -> Tensor:
        """(..., heads * padded head) -> (..., C)."""
        pad = head_padding(self.head, x.device)
        if pad == 0:
            return super().forward(x)

        def padded() -> Tensor:
            return F.pad(self.weight.unflatten(1, (-1, self.head)), (0, pad)).flatten(1, 2)

        return F.linear(x, derived(self, self.weight, "weight", padded), self.bias)


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
        Where the first cut lies: 0, or half a window (see :mod:`georsr.models.segsr.windows`).
    """

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.scale = (width // heads) ** -0.5
        self.bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads) * 0.02)
        self.qkv = ToHeads(width, heads)
        self.proj = FromHeads(width, heads)

    def bias(self, piece: Pieces, dtype: torch.dtype) -> Tensor:
        """Bias on the logits, (1, heads, L, L): the ``attn_mask`` of one size of window."""
        table = self.bias_table

        def gather() -> Tensor:
            index = bias_index(piece.height, piece.width, self.window, table.device)
            # (L, L, heads) -> (1, heads, L, L)
            return table[index].permute(2, 0, 1)[None].to(dtype).contiguous()

        return derived(self, table, (piece.height, piece.width, dtype), gather)

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
        self.qkv = ToHeads(width, heads)
        self.proj = FromHeads(width, heads)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """Bias on the logits, (1, heads, window^2, reach^2)."""
        table = self.bias_table

        def gather() -> Tensor:
            index = overlap_index(self.window, self.reach, table.device)
            return table[index].permute(2, 0, 1)[None].to(dtype).contiguous()

        return derived(self, table, dtype, gather)

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

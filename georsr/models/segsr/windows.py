"""Windows: which pixel belongs to which attention window, as index arithmetic.

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
from torch import Tensor


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

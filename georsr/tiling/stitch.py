"""Register: joins tiles into finished output blocks while holding little more than one block row.

Tiles arrive in plan order. A tile is blended with its left neighbour first, then with the row
above, so every output pixel is the same expression of the same tiles whatever happened between.
What is finished goes at once, converted by the caller, into output blocks; a block leaves when its
last pixel has arrived. Held between tiles: one blended zone of the previous tile, one of the
previous grid row, and the blocks not yet complete (at most one block row beyond the current tile).

Blending: neighbouring tiles hand over with weights that sum to one by construction.

Padding: what a tile holds where it reaches past the image.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from georsr.tiling.grid import Tile, TileGrid
from georsr.window import AnyArray, FloatArray, Window


def raised_cosine(length: int) -> FloatArray:
    """Weights of the later tile over ``length`` blended pixels: (length,), in 0..1, rising.

    Raised cosine at pixel centres: smooth at both ends, never exactly 0 or 1.
    """
    phase = (np.arange(length, dtype=np.float64) + 0.5) / max(length, 1)
    return (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)


def blend(earlier: FloatArray, later: FloatArray, weights: FloatArray) -> FloatArray:
    """``earlier + (later - earlier) * weights``: exact where both agree, for any weights.

    Parameters
    ----------
    earlier, later
        (..., H, W) of equal shape.
    weights
        Broadcastable to them, in 0..1.
    """
    difference = later - earlier
    difference *= weights
    difference += earlier
    return difference


def pad_to(patch: AnyArray, height: int, width: int) -> AnyArray:
    """Extend (..., h, w) at the bottom and right to (..., height, width) by reflection.

    Reflection repeats as often as needed and does not repeat the edge pixel; an axis of one
    pixel, which has nothing to reflect, is repeated.
    """
    for axis, wanted in ((patch.ndim - 2, height), (patch.ndim - 1, width)):
        missing = wanted - patch.shape[axis]
        if missing > 0:
            pad = [(0, 0)] * patch.ndim
            pad[axis] = (0, missing)
            patch = np.pad(patch, pad, mode="reflect" if patch.shape[axis] > 1 else "edge")
    return patch


BUFFER_BYTES = 2**20
"""Bytes that blocks are cut from, in pages of their own (a larger block has a slab for itself). In
the heap, thousands of long-lived blocks among short-lived larger arrays would leave gaps of several
times what is in use. A slab goes when the last of its blocks does, which are neighbours."""

Finish = Callable[[FloatArray | None, Window], AnyArray]
"""(values (C, H, W) float32, their output window) -> (P, H, W) in the product's dtype. No values
where no pixel is valid, whatever they are. A view of one pixel that repeats in both directions is
stored as this one pixel, until a block gets another."""


@dataclass
class _BlockBuffer:
    """A block to be filled.

    It holds no array: the few bytes of each array's shape lie in the heap, and those of a row of
    blocks, one after each tile, kept what the tiles before had freed from being used again.
    """

    window: Window
    pixel: bytes | None = None
    """What every pixel stored so far is, if that is one and the same."""
    slab: mmap.mmap | None = None
    """Where the pixels lie once they differ."""
    start: int = 0
    """Of its bytes in the slab."""
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.missing = self.window.height * self.window.width

    def pixels(self, planes: int, dtype: np.dtype[np.generic]) -> AnyArray:
        """(P, window.height, window.width); a view of one pixel if there is no other."""
        shape = planes, self.window.height, self.window.width
        if self.slab is not None:
            return np.ndarray(shape, dtype, self.slab, self.start)
        assert self.pixel is not None, "something was stored"
        return np.broadcast_to(np.frombuffer(self.pixel, dtype)[:, None, None], shape)


class TileStitcher:
    """Collects tiles, hands out finished blocks.

    Parameters
    ----------
    plan
        The tiles that will come, in order.
    bands
        Bands of the tiles.
    planes, dtype
        Bands and dtype of what ``finish`` returns.
    block
        Height and width of output blocks in pixels; those at the edges are cut.
    top
        First output row wanted, a multiple of ``block``. Tiles may then come from grid row
        ``plan.first_row_for(top)`` on, and make the same pixels as if all had come.
    """

    def __init__(
        self,
        plan: TileGrid,
        bands: int,
        planes: int,
        dtype: np.dtype[np.generic],
        block: int,
        top: int = 0,
    ) -> None:
        self.plan, self.planes, self.dtype, self.block = plan, planes, dtype, block
        self._wanted = Window(top, 0, plan.out_height - top, plan.out_width)
        s = plan.scale
        self._weights = raised_cosine(plan.overlap * s)
        self._first_column = plan.columns[0].out_start * s
        width = plan.columns[-1].out_stop * s - self._first_column
        self._above = np.zeros((bands, plan.overlap * s, width), np.float32)
        self._left: FloatArray | None = None
        self._blocks: dict[tuple[int, int], _BlockBuffer] = {}
        self._slab = mmap.mmap(-1, 1)
        self._used = len(self._slab)

    @property
    def empty(self) -> bool:
        """Whether every block begun has left."""
        return not self._blocks

    def add(
        self, tile: Tile, pixels: FloatArray | None, finish: Finish
    ) -> Iterator[tuple[Window, AnyArray]]:
        """Take one tile in plan order.

        Parameters
        ----------
        tile
            Which one.
        pixels
            (C, s * tile.made.height, s * tile.made.width) float32, product units. Not kept, but
            its values may be overwritten. None: no pixel of what the tile makes is valid, the
            zones it shares with its neighbours included, so that nothing is blended there.
        finish
            Turns finished values into the product's dtype.

        Yields
        ------
        (Window, ndarray)
            Output window of a finished block and its (P, H, W) pixels; where all are one and the
            same, a view of one that repeats and cannot be written.
        """
        s = self.plan.scale
        made = tile.output_window.scaled(s)
        if pixels is None:
            self._left = None
            made = Window(
                made.top,
                made.left,
                made.height - tile.y.overlap_after * s,
                made.width - tile.x.overlap_after * s,
            )
            yield from self._store(made, finish(None, made))
            return
        values, made = self._join_left(tile, pixels, made)
        values, made = self._join_above(tile, values, made)
        if values.size:
            yield from self._store(made, finish(values, made))

    def _join_left(self, tile: Tile, values: FloatArray, made: Window) -> tuple[FloatArray, Window]:
        """Blend with the previous tile's right zone; keep back this tile's own."""
        s = self.plan.scale
        lead, trail = tile.x.overlap_before * s, tile.x.overlap_after * s
        if lead and self._left is not None:  # else what is shared has no valid pixel
            values[:, :, :lead] = blend(self._left, values[:, :, :lead], self._weights)
        width = made.width - trail
        self._left = values[:, :, width:].copy() if trail else None
        return values[:, :, :width], Window(made.top, made.left, made.height, width)

    def _join_above(
        self, tile: Tile, values: FloatArray, made: Window
    ) -> tuple[FloatArray, Window]:
        """Blend with the previous grid row's lower zone; keep back this row's own."""
        s = self.plan.scale
        lead, trail = tile.y.overlap_before * s, tile.y.overlap_after * s
        columns = slice(made.left - self._first_column, made.right - self._first_column)
        if lead:
            values[:, :lead] = blend(
                self._above[:, :, columns], values[:, :lead], self._weights[:, None]
            )
        height = made.height - trail
        if trail:
            self._above[:, :, columns] = values[:, height:]
        return values[:, :height], Window(made.top, made.left, height, made.width)

    def _store(self, made: Window, product: AnyArray) -> Iterator[tuple[Window, AnyArray]]:
        """Copy finished pixels into their blocks; yield and forget those now complete."""
        b, inside = self.block, made.intersection(self._wanted)
        if inside is None:
            return
        one = product[:, 0, 0].astype(self.dtype) if product.strides[1:] == (0, 0) else None
        pixel = None if one is None else one.tobytes()
        for block_row in range(inside.top // b, (inside.bottom - 1) // b + 1):
            for block_column in range(inside.left // b, (inside.right - 1) // b + 1):
                key = (block_row, block_column)
                block = self._blocks.get(key) or self._begin(key)
                part = inside.intersection(block.window)
                assert part is not None, "the loop visits only blocks that touch"
                if pixel is not None and block.slab is None and block.pixel in (None, pixel):
                    block.pixel = pixel
                else:
                    here, there = part.relative_to(block.window), part.relative_to(made)
                    pixels = self._opened(block)
                    pixels[(slice(None), *here.slices)] = product[(slice(None), *there.slices)]
                block.missing -= part.height * part.width
                if block.missing == 0:
                    del self._blocks[key]
                    yield block.window, block.pixels(self.planes, self.dtype)

    def _begin(self, key: tuple[int, int]) -> _BlockBuffer:
        top, left = key[0] * self.block, key[1] * self.block
        height = min(self.block, self.plan.out_height - top)
        width = min(self.block, self.plan.out_width - left)
        block = self._blocks[key] = _BlockBuffer(Window(top, left, height, width))
        return block

    def _opened(self, block: _BlockBuffer) -> AnyArray:
        """The block's pixels, to be written."""
        if block.slab is None:
            size = self.planes * block.window.height * block.window.width * self.dtype.itemsize
            if len(self._slab) - self._used < size:
                self._slab, self._used = (
                    mmap.mmap(-1, max(BUFFER_BYTES, size), access=mmap.ACCESS_COPY),
                    0,
                )
            one = None if block.pixel is None else block.pixels(self.planes, self.dtype)
            block.slab, block.start = self._slab, self._used
            self._used += size
            if one is not None:
                block.pixels(self.planes, self.dtype)[:] = one
        return block.pixels(self.planes, self.dtype)

"""Join tiles to blocks: blend overlapping tiles, then collect finished pixels in output blocks.

Tiles come in the order of the grid. `TileStitcher` blends a tile with its left neighbour first,
then with the row above, so that an output pixel is always the same expression of the same tiles.
It keeps the overlap with the previous tile and with the previous row, nothing else. The caller
converts the blended pixels to the output's data type; `BlockAssembler` collects them and keeps the
blocks that are not complete, at most one row of blocks beyond the current tile.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from georsr.tiling.grid import Tile, TileGrid
from georsr.window import AnyArray, FloatArray, Window


def raised_cosine(length: int) -> FloatArray:
    """Return the weights of the later tile over ``length`` blended pixels, rising from 0 to 1.

    They are a raised cosine at pixel centres, smooth at both ends and never exactly 0 or 1.
    """
    phase = (np.arange(length, dtype=np.float64) + 0.5) / max(length, 1)
    return (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)


def blend(earlier: FloatArray, later: FloatArray, weights: FloatArray) -> FloatArray:
    """Return ``earlier + (later - earlier) * weights``, which is exact where both are equal.

    Parameters
    ----------
    earlier, later
        Pixels of both tiles, (..., H, W) of equal shape.
    weights
        Weights of ``later`` in 0..1, broadcastable to the pixels.
    """
    difference = later - earlier
    difference *= weights
    difference += earlier
    return difference


def pad_to(patch: AnyArray, height: int, width: int) -> AnyArray:
    """Extend (..., h, w) at the bottom and right to (..., height, width) by reflection.

    The edge pixel is not repeated, and reflection is repeated as often as needed. An axis of one
    pixel is extended by repeating it.
    """
    for axis, size in ((patch.ndim - 2, height), (patch.ndim - 1, width)):
        missing = size - patch.shape[axis]
        if missing > 0:
            pad = [(0, 0)] * patch.ndim
            pad[axis] = (0, missing)
            patch = np.pad(patch, pad, mode="reflect" if patch.shape[axis] > 1 else "edge")
    return patch


BUFFER_BYTES = 2**20
"""Size of the memory-mapped buffers that blocks are cut from; a larger block has its own buffer. In
the heap, thousands of long-lived blocks among short-lived larger arrays would leave gaps of several
times what is in use. A buffer is freed with the last of its blocks, which are neighbours."""


@dataclass
class _BlockBuffer:
    """A block that is being filled.

    It has no array as an attribute: the small array objects of a row of blocks, allocated between
    tiles, would keep the heap from reusing the memory of earlier tiles.
    """

    window: Window
    pixel: bytes | None = None
    """Value of all pixels stored so far, if they are equal."""
    buffer: mmap.mmap | None = None
    """Buffer of the pixels, once they differ."""
    start: int = 0
    """Offset of the pixels in the buffer, in bytes."""
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.missing = self.window.height * self.window.width

    def pixels(self, planes: int, dtype: np.dtype[np.generic]) -> AnyArray:
        """Return the pixels, (P, height, width); a view of one pixel if they are equal."""
        shape = planes, self.window.height, self.window.width
        if self.buffer is not None:
            return np.ndarray(shape, dtype, self.buffer, self.start)
        assert self.pixel is not None, "the block has pixels"
        return np.broadcast_to(np.frombuffer(self.pixel, dtype)[:, None, None], shape)


class TileStitcher:
    """Blends overlapping tiles that arrive in the order of the grid.

    Parameters
    ----------
    grid
        Grid of the tiles. They may come from any row on: the pixels are the same.
    bands
        Number of bands of the tiles.
    """

    def __init__(self, grid: TileGrid, bands: int) -> None:
        self.scale = grid.scale
        self._weights = raised_cosine(grid.overlap * self.scale)
        self._first_column = grid.columns[0].out_start * self.scale
        width = grid.columns[-1].out_stop * self.scale - self._first_column
        self._above_shape = bands, grid.overlap * self.scale, width
        self._above: FloatArray | None = None
        self._left: FloatArray | None = None

    def add(self, tile: Tile, pixels: FloatArray | None) -> tuple[Window, FloatArray | None]:
        """Blend one tile with its left and upper neighbours.

        Parameters
        ----------
        tile
            Position of the tile.
        pixels
            (C, s * height, s * width) of the tile's output window, in source units, all of one
            floating-point type; the array may be overwritten. None if no pixel of the tile is
            valid, including those that overlap with its neighbours, so that nothing is blended.

        Returns
        -------
        Window
            Output pixels that no later tile changes; it may have no pixel.
        ndarray or None
            (C, height, width) of the window; None if no pixel is valid.
        """
        window = tile.output_window.scaled(self.scale)
        if pixels is None:
            self._left = None
            height = window.height - tile.y.overlap_after * self.scale
            width = window.width - tile.x.overlap_after * self.scale
            return Window(window.top, window.left, height, width), None
        values, window = self._blend_left(tile, pixels, window)
        values, window = self._blend_above(tile, values, window)
        return window, values

    def _blend_left(
        self, tile: Tile, values: FloatArray, window: Window
    ) -> tuple[FloatArray, Window]:
        """Blend with the right overlap of the previous tile, and keep that of this tile."""
        s = self.scale
        before, after = tile.x.overlap_before * s, tile.x.overlap_after * s
        if before and self._left is not None:  # else the overlap has no valid pixel
            values[:, :, :before] = blend(self._left, values[:, :, :before], self._weights)
        width = window.width - after
        self._left = values[:, :, width:].copy() if after else None
        return values[:, :, :width], Window(window.top, window.left, window.height, width)

    def _blend_above(
        self, tile: Tile, values: FloatArray, window: Window
    ) -> tuple[FloatArray, Window]:
        """Blend with the lower overlap of the previous row of tiles, and keep that of this row."""
        s = self.scale
        before, after = tile.y.overlap_before * s, tile.y.overlap_after * s
        columns = slice(window.left - self._first_column, window.right - self._first_column)
        if self._above is None:
            self._above = np.zeros(self._above_shape, values.dtype)
        if before:
            values[:, :before] = blend(
                self._above[:, :, columns], values[:, :before], self._weights[:, None]
            )
        height = window.height - after
        if after:
            self._above[:, :, columns] = values[:, height:]
        return values[:, :height], Window(window.top, window.left, height, window.width)


class BlockAssembler:
    """Collects output pixels into blocks, each of which is returned once it is complete.

    Parameters
    ----------
    height, width
        Size of the output in pixels.
    planes, dtype
        Number of planes and data type of the output.
    blocksize
        Height and width of blocks in pixels; those at the edges are cut.
    top
        First output row to collect, a multiple of ``blocksize``; pixels above it are ignored.
    """

    def __init__(
        self,
        height: int,
        width: int,
        planes: int,
        dtype: np.dtype[np.generic],
        blocksize: int,
        top: int = 0,
    ) -> None:
        self.height, self.width, self.planes = height, width, planes
        self.dtype, self.blocksize = dtype, blocksize
        self._wanted = Window(top, 0, height - top, width)
        self._blocks: dict[tuple[int, int], _BlockBuffer] = {}
        self._buffer = mmap.mmap(-1, 1)
        self._used = len(self._buffer)

    @property
    def n_incomplete(self) -> int:
        """Number of blocks that have some of their pixels."""
        return len(self._blocks)

    @property
    def buffer_bytes(self) -> int:
        """Size of the newest buffer that blocks are cut from; 1 before there is any."""
        return len(self._buffer)

    def add(self, window: Window, pixels: AnyArray) -> Iterator[tuple[Window, AnyArray]]:
        """Copy pixels into their blocks.

        Parameters
        ----------
        window
            Position of the pixels in the output. No pixel may come twice.
        pixels
            (P, height, width) of the output's data type. A broadcast view of one pixel is stored
            as this one pixel, until a block gets another.

        Yields
        ------
        (Window, ndarray)
            Output window of a complete block and its (P, height, width) pixels. If they are all
            the same, the array is a read-only broadcast view of one pixel.
        """
        size, inside = self.blocksize, window.intersection(self._wanted)
        if inside is None:
            return
        constant = pixels[:, 0, 0].astype(self.dtype) if pixels.strides[1:] == (0, 0) else None
        pixel = None if constant is None else constant.tobytes()
        for block_row in range(inside.top // size, (inside.bottom - 1) // size + 1):
            for block_column in range(inside.left // size, (inside.right - 1) // size + 1):
                key = (block_row, block_column)
                block = self._blocks.get(key) or self._begin(key)
                part = inside.intersection(block.window)
                assert part is not None, "the loop visits only blocks that intersect"
                if pixel is not None and block.buffer is None and block.pixel in (None, pixel):
                    block.pixel = pixel
                else:
                    target = (slice(None), *part.relative_to(block.window).slices)
                    source = (slice(None), *part.relative_to(window).slices)
                    self._allocated(block)[target] = pixels[source]
                block.missing -= part.height * part.width
                if block.missing == 0:
                    del self._blocks[key]
                    yield block.window, block.pixels(self.planes, self.dtype)

    def _begin(self, key: tuple[int, int]) -> _BlockBuffer:
        top, left = key[0] * self.blocksize, key[1] * self.blocksize
        height = min(self.blocksize, self.height - top)
        width = min(self.blocksize, self.width - left)
        block = self._blocks[key] = _BlockBuffer(Window(top, left, height, width))
        return block

    def _allocated(self, block: _BlockBuffer) -> AnyArray:
        """Return the pixels of a block, writable."""
        if block.buffer is None:
            size = self.planes * block.window.height * block.window.width * self.dtype.itemsize
            if len(self._buffer) - self._used < size:
                self._buffer = mmap.mmap(-1, max(BUFFER_BYTES, size), access=mmap.ACCESS_COPY)
                self._used = 0
            constant = None if block.pixel is None else block.pixels(self.planes, self.dtype)
            block.buffer, block.start = self._buffer, self._used
            self._used += size
            if constant is not None:
                block.pixels(self.planes, self.dtype)[:] = constant
        return block.pixels(self.planes, self.dtype)

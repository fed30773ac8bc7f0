"""Compute a grid of overlapping tiles, and spread windows over a raster, in integer arithmetic.

A tile has an input window, which the network reads, and a smaller output window, for which it
computes pixels. The grid is anchored to the image's top left corner, so that a pixel is always
computed from the same tiles on every machine.

Along one axis, tile k starts at ``k * stride``. The last tile is moved back so that it ends at the
image's edge, or less than ``multiple_of`` pixels beyond it. Neighbouring tiles are blended over
``overlap`` pixels in the middle of the pixels that both read. At least ``halo`` pixels at the inner
edges of a tile are discarded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from georsr.errors import UsageError
from georsr.window import Window


@dataclass(frozen=True)
class Span:
    """Extent of one tile along one axis, in input pixels.

    The tile reads ``start .. start + size``, of which pixels outside the image are padding. It
    computes ``out_start .. out_stop``. The first ``overlap_before`` of these pixels are blended
    with the previous tile, the last ``overlap_after`` with the next.
    """

    start: int
    size: int
    out_start: int
    out_stop: int
    overlap_before: int
    overlap_after: int


MAX_TILES = 1_000_000
"""Largest number of tiles along one axis: each takes memory, also of a raster of one row."""


def ceil_to(value: int, multiple: int) -> int:
    """Round ``value`` up to a multiple of ``multiple``."""
    return -(-value // multiple) * multiple


def axis_spans(
    length: int, tile: int, halo: int, overlap: int, multiple_of: int
) -> tuple[Span, ...]:
    """Divide an axis of ``length`` pixels into tiles, as the module's docstring explains."""
    if length <= tile:
        return (Span(0, min(tile, ceil_to(length, multiple_of)), 0, length, 0, 0),)
    stride = tile - 2 * halo - overlap
    last = ceil_to(length - tile, multiple_of)
    starts = [*range(0, last, stride), last]
    boundaries = []
    for left, right in pairwise(starts):
        # The blended pixels are in the middle of the pixels that both tiles read.
        shared = left + tile - right
        boundaries.append(right + (shared - overlap) // 2)
    spans = []
    for k, start in enumerate(starts):
        first, final = k == 0, k == len(starts) - 1
        spans.append(
            Span(
                start=start,
                size=tile,
                out_start=0 if first else boundaries[k - 1],
                out_stop=length if final else boundaries[k] + overlap,
                overlap_before=0 if first else overlap,
                overlap_after=0 if final else overlap,
            )
        )
    return tuple(spans)


@dataclass(frozen=True)
class Tile:
    """A tile of the grid: the crossing of a row span and a column span."""

    index: int
    """Position in the order of the grid: row by row, left to right."""
    row: int
    column: int
    y: Span
    x: Span

    @property
    def input_window(self) -> Window:
        """Return the window that the network reads, in input pixels; it may exceed the image."""
        return Window(self.y.start, self.x.start, self.y.size, self.x.size)

    @property
    def output_window(self) -> Window:
        """Return the window for which the tile computes the output, in input pixels."""
        return Window(
            self.y.out_start,
            self.x.out_start,
            self.y.out_stop - self.y.out_start,
            self.x.out_stop - self.x.out_start,
        )


@dataclass(frozen=True)
class TileGrid:
    """Grid of the tiles of an image.

    Parameters
    ----------
    height, width
        Size of the input in pixels.
    scale
        Output pixels per input pixel along each axis.
    tile, halo, overlap, multiple_of
        As in :class:`georsr.models.spec.ModelSpec`, in input pixels.
    rows, columns
        Spans of the tiles along both axes.
    image
        Extent of the complete image relative to the grid's corner; None if the grid covers it.
    """

    height: int
    width: int
    scale: int
    tile: int
    halo: int
    overlap: int
    multiple_of: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    image: Window | None = None

    @property
    def out_height(self) -> int:
        """Return the number of rows of the output."""
        return self.height * self.scale

    @property
    def out_width(self) -> int:
        """Return the number of columns of the output."""
        return self.width * self.scale

    def tiles_in_pixels(self, pixels: int) -> int:
        """Return the number of tiles to which ``pixels`` finished output pixels amount."""
        return len(self) * pixels // (self.out_height * self.out_width)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def tile_at(self, row: int, column: int) -> Tile:
        """Return the tile in a row and a column of the grid."""
        index = row * len(self.columns) + column
        return Tile(index, row, column, self.rows[row], self.columns[column])

    def __iter__(self) -> Iterator[Tile]:
        for row in range(len(self.rows)):
            yield from self.tiles_in_row(row)

    def tiles_in_row(self, row: int) -> Iterator[Tile]:
        """Yield the tiles of one row of the grid, left to right."""
        for column in range(len(self.columns)):
            yield self.tile_at(row, column)

    def first_row_for(self, out_row: int) -> int:
        """Return the first row of the grid that computes output row ``out_row`` or a later one."""
        return next(i for i, span in enumerate(self.rows) if span.out_stop * self.scale > out_row)

    @property
    def image_window(self) -> Window:
        """Return the extent of the complete image, relative to the grid's corner."""
        return self.image or Window(0, 0, self.height, self.width)

    def row_window(self, row: int) -> Window:
        """Return the window of the image that one row of tiles reads."""
        image = self.image_window
        span, first, last = self.rows[row], self.columns[0], self.columns[-1]
        bottom = min(span.start + span.size, image.bottom)
        right = min(last.start + last.size, image.right)
        return Window(span.start, first.start, bottom - span.start, right - first.start)

    @property
    def read_extent(self) -> Window:
        """Return the window of the image that all tiles read."""
        first, last = self.row_window(0), self.row_window(len(self.rows) - 1)
        return Window(first.top, first.left, last.bottom - first.top, first.width)

    def subgrid(self, window: Window) -> TileGrid:
        """Return the grid of the tiles that intersect a window, which compute the same pixels.

        The window lies inside the image, and the new grid is relative to its corner. The input and
        output windows of its tiles may exceed the window.
        """
        return replace(
            self,
            height=window.height,
            width=window.width,
            rows=_crop_spans(self.rows, window.top, window.bottom),
            columns=_crop_spans(self.columns, window.left, window.right),
            image=self.image_window.moved(-window.top, -window.left),
        )


def _crop_spans(spans: tuple[Span, ...], start: int, stop: int) -> tuple[Span, ...]:
    """Return the spans that intersect ``start .. stop``, relative to ``start``.

    Pixels that two tiles blend belong to both. If one of the tiles does not intersect, neither do
    these pixels, and they are not blended.
    """
    intersecting = [span for span in spans if span.out_start < stop and span.out_stop > start]
    last = len(intersecting) - 1
    return tuple(
        Span(
            start=span.start - start,
            size=span.size,
            out_start=span.out_start - start,
            out_stop=span.out_stop - start,
            overlap_before=span.overlap_before if k > 0 else 0,
            overlap_after=span.overlap_after if k < last else 0,
        )
        for k, span in enumerate(intersecting)
    )


def make_grid(
    height: int,
    width: int,
    *,
    scale: int,
    tile: int,
    halo: int,
    overlap: int,
    multiple_of: int = 1,
) -> TileGrid:
    """Compute the grid of tiles of an image; see `TileGrid` for the parameters.

    Raises
    ------
    UsageError
        The tile is too small for its halo and overlap, or not a multiple of ``multiple_of``.
    """
    if height < 1 or width < 1:
        raise UsageError(f"raster of {height} rows and {width} columns has no pixels")
    if tile % multiple_of:
        raise UsageError(
            f"tile {tile} is not a multiple of {multiple_of}, which this model needs: "
            f"use {ceil_to(tile, multiple_of)}"
        )
    # A tile needs space for blending on both sides and one pixel of its own. The last tile is moved
    # back, so that its boundary is up to half an overlap before those of the others.
    smallest = ceil_to(2 * halo + max(3 * overlap, 1), multiple_of)
    if tile < smallest:
        raise UsageError(
            f"tile {tile} is too small for halo {halo} and overlap {overlap}: "
            f"use at least {smallest}"
        )
    stride = tile - 2 * halo - overlap
    if max(height, width) > MAX_TILES * stride:
        raise UsageError(
            f"raster of {height} rows and {width} columns takes more than {MAX_TILES} tiles of "
            f"{tile} along one side: use larger tiles"
        )
    if stride % multiple_of:
        raise UsageError(
            f"tile {tile} less twice halo {halo} less overlap {overlap} is not a multiple of "
            f"{multiple_of}, which this model needs"
        )
    return TileGrid(
        height,
        width,
        scale,
        tile,
        halo,
        overlap,
        multiple_of,
        axis_spans(height, tile, halo, overlap, multiple_of),
        axis_spans(width, tile, halo, overlap, multiple_of),
    )


def spread_starts(length: int, size: int, count: int) -> list[int]:
    """Return the starts of up to ``count`` windows of ``size`` pixels along an axis.

    They are evenly spread from one end to the other; a single window is in the middle.
    """
    last = max(0, length - size)
    if count == 1:
        return [last // 2]
    return sorted({round(i * last / (count - 1)) for i in range(count)})


def spread_windows(height: int, width: int, size: int, max_per_axis: int) -> Iterator[Window]:
    """Yield windows of a grid of ``size`` pixels, evenly spread, in row-major order.

    Parameters
    ----------
    height, width
        Size of the raster in pixels.
    size
        Height and width of a window; those at the bottom and right edges are smaller.
    max_per_axis
        Most windows along each axis, at least 2.
    """

    def starts(length: int) -> list[int]:
        count = -(-length // size)
        if count <= max_per_axis:
            return [i * size for i in range(count)]
        last = max_per_axis - 1
        return sorted({round(i * (count - 1) / last) * size for i in range(max_per_axis)})

    for top in starts(height):
        for left in starts(width):
            yield Window(top, left, min(size, height - top), min(size, width - left))

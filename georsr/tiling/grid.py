"""TilePlan: which windows the network sees and which output pixels each of them makes.

All arithmetic is on integers and knows neither torch nor rasterio. The grid is anchored to the
image's top left corner, so the same pixel is always made from the same tiles, whoever computes.

Along one axis, tile k starts at ``k * stride``; the last one is moved back so that it ends at (or,
where starts must be multiples of ``multiple_of``, less than one multiple past) the image's edge.
Neighbours hand over in the middle of what they share: ``overlap`` pixels are blended there, and at
least ``halo`` pixels at a tile's inner edges are never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from georsr.errors import UsageError
from georsr.window import Window


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in input pixels of the image.

    The tile reads ``start .. start + size`` (of which pixels beyond the image are padding) and
    makes ``begin .. end``; its first ``lead`` made pixels are blended with the previous tile, its
    last ``trail`` with the next.
    """

    start: int
    size: int
    out_start: int
    out_stop: int
    overlap_before: int
    overlap_after: int


def ceil_to(value: int, multiple: int) -> int:
    """Smallest multiple of ``multiple`` not below ``value``."""
    return -(-value // multiple) * multiple


def axis_spans(
    length: int, tile: int, halo: int, overlap: int, multiple_of: int
) -> tuple[Span, ...]:
    """Cut one axis of ``length`` pixels into tiles; see the module's text for the rule."""
    if length <= tile:
        return (Span(0, min(tile, ceil_to(length, multiple_of)), 0, length, 0, 0),)
    stride = tile - 2 * halo - overlap
    last = ceil_to(length - tile, multiple_of)
    starts = [*range(0, last, stride), last]
    seams = []
    for left, right in pairwise(starts):
        # The blended zone is centred in what the two tiles share.
        shared = left + tile - right
        seams.append(right + (shared - overlap) // 2)
    spans = []
    for k, start in enumerate(starts):
        first, final = k == 0, k == len(starts) - 1
        spans.append(
            Span(
                start=start,
                size=tile,
                out_start=0 if first else seams[k - 1],
                out_stop=length if final else seams[k] + overlap,
                overlap_before=0 if first else overlap,
                overlap_after=0 if final else overlap,
            )
        )
    return tuple(spans)


@dataclass(frozen=True)
class Tile:
    """One call of the network: a row span crossed with a column span."""

    index: int
    """Position in plan order (row by row, left to right)."""
    row: int
    column: int
    y: Span
    x: Span

    @property
    def input_window(self) -> Window:
        """Window the network sees, in input pixels; may reach past the image's edge."""
        return Window(self.y.start, self.x.start, self.y.size, self.x.size)

    @property
    def output_window(self) -> Window:
        """Input pixels whose output this tile contributes to."""
        return Window(
            self.y.out_start,
            self.x.out_start,
            self.y.out_stop - self.y.out_start,
            self.x.out_stop - self.x.out_start,
        )


@dataclass(frozen=True)
class TileGrid:
    """The whole image's tiles.

    Parameters
    ----------
    height, width
        Size of the input in pixels.
    scale
        Output pixels per input pixel.
    tile, halo, overlap, multiple_of
        As in :class:`georsr.models.spec.ModelSpec`, in input pixels.
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
    """The whole image, where the plan covers a part of it: counted from the part's corner."""

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return self.height * self.scale

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return self.width * self.scale

    def tiles_in_pixels(self, pixels: int) -> int:
        """Return the number of tiles to which ``pixels`` finished output pixels amount."""
        return len(self) * pixels // (self.out_height * self.out_width)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def tile_at(self, row: int, column: int) -> Tile:
        """Tile in grid row ``row`` and grid column ``column``."""
        index = row * len(self.columns) + column
        return Tile(index, row, column, self.rows[row], self.columns[column])

    def __iter__(self) -> Iterator[Tile]:
        for row in range(len(self.rows)):
            yield from self.tiles_in_row(row)

    def tiles_in_row(self, row: int) -> Iterator[Tile]:
        """Tiles of one grid row, left to right."""
        for column in range(len(self.columns)):
            yield self.tile_at(row, column)

    def first_row_for(self, out_row: int) -> int:
        """First grid row that makes pixels of the output's row ``out_row`` or of a later one."""
        return next(i for i, span in enumerate(self.rows) if span.out_stop * self.scale > out_row)

    @property
    def image_window(self) -> Window:
        """Where there are pixels to read, counted from the plan's corner."""
        return self.image or Window(0, 0, self.height, self.width)

    def row_window(self, row: int) -> Window:
        """Window of the image that a grid row of tiles reads."""
        image = self.image_window
        span, first, last = self.rows[row], self.columns[0], self.columns[-1]
        bottom = min(span.start + span.size, image.bottom)
        right = min(last.start + last.size, image.right)
        return Window(span.start, first.start, bottom - span.start, right - first.start)

    @property
    def read_extent(self) -> Window:
        """Window of the image that all tiles together read."""
        first, last = self.row_window(0), self.row_window(len(self.rows) - 1)
        return Window(first.top, first.left, last.bottom - first.top, first.width)

    def subgrid(self, window: Window) -> TileGrid:
        """The plan of a part of the image: its tiles that touch, which make the same pixels.

        Parameters
        ----------
        window
            Inside the image. The new plan counts from its corner; what its tiles read and make may
            reach outside.
        """
        return replace(
            self,
            height=window.height,
            width=window.width,
            rows=_cropped(self.rows, window.top, window.bottom),
            columns=_cropped(self.columns, window.left, window.right),
            image=self.image_window.moved(-window.top, -window.left),
        )


def _cropped(spans: tuple[Span, ...], start: int, stop: int) -> tuple[Span, ...]:
    """Spans that touch ``start .. stop``, counted from ``start``; they may reach beyond.

    A blended zone belongs to both of its tiles: where one of them does not touch, neither does the
    zone, and it is not blended.
    """
    touching = [span for span in spans if span.out_start < stop and span.out_stop > start]
    last = len(touching) - 1
    return tuple(
        Span(
            start=span.start - start,
            size=span.size,
            out_start=span.out_start - start,
            out_stop=span.out_stop - start,
            overlap_before=span.overlap_before if k > 0 else 0,
            overlap_after=span.overlap_after if k < last else 0,
        )
        for k, span in enumerate(touching)
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
    """Plan an image.

    Raises
    ------
    UsageError
        The tile is too small for its halo and overlap, or not a multiple of ``multiple_of``.
    """
    if height < 1 or width < 1:
        raise UsageError(f"raster of {height} rows and {width} columns: nothing to do")
    if tile % multiple_of:
        raise UsageError(
            f"tile {tile} is not a multiple of {multiple_of}, which this model needs: "
            f"use {ceil_to(tile, multiple_of)}"
        )
    # A tile needs room for a blended zone on either side and one pixel of its own; the last tile,
    # moved back, meets its neighbour up to half an overlap earlier than the others.
    smallest = ceil_to(2 * halo + max(3 * overlap, 1), multiple_of)
    if tile < smallest:
        raise UsageError(
            f"tile {tile} is too small for halo {halo} and overlap {overlap}: "
            f"use at least {smallest}"
        )
    if (tile - 2 * halo - overlap) % multiple_of:
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

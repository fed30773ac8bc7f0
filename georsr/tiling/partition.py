"""Divide an output into rectangles for tasks, parts or chunks, and order its blocks.

Each rectangle consists of complete blocks and is computed independently. A tile across the border
of two rectangles is computed twice. Large and square rectangles repeat few tiles; small ones keep
more workers busy; low ones let a row of blocks be written earlier.

Blocks are written in the order in which a single pass over the tiles completes them, so that the
file does not depend on who computes which block.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import groupby, product

from georsr.tiling.grid import Span, TileGrid, ceil_to
from georsr.window import Window

MAX_REPEATED_WORK = 0.25
"""Largest fraction of the tiles that is computed twice with the chunks of `chunk_side`, if one tile
crosses each border; borders inside overlaps can repeat more."""


def chunk_sizes(length: int, size: int) -> tuple[int, ...]:
    """Divide an axis into chunks of ``size``; the last one may be smaller."""
    full, rest = divmod(length, size)
    return (size,) * full + ((rest,) if rest else ())


def chunk_side(grid: TileGrid, multiple: int, pixel_bytes: int, max_bytes: int) -> int:
    """Return the size of square chunks in output pixels, the smallest with little repeated work.

    Parameters
    ----------
    grid
        Tiles of the complete output.
    multiple
        The size is a multiple of this and of the scale.
    pixel_bytes
        Size in bytes of one output pixel with all bands.
    max_bytes
        Largest size in bytes of a chunk, unless the smallest possible chunk is larger. It takes
        precedence over the limit of repeated work, `MAX_REPEATED_WORK`.
    """
    step = math.lcm(multiple, grid.scale)
    # n borders on an axis of n chunks or more repeat at most this fraction of it
    size = (grid.tile - 2 * grid.halo) / (math.sqrt(1 + MAX_REPEATED_WORK) - 1)
    preferred = ceil_to(math.ceil(size * grid.scale), step)
    largest = math.isqrt(max_bytes // pixel_bytes) // step * step
    return max(step, min(preferred, largest))


def completion_order(grid: TileGrid, block: int, first_row: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (block row, block column) of every block in the order in which blocks are complete.

    ``block`` is their height and width in output pixels, ``first_row`` the first row of blocks.
    """
    row_groups = _completed_together(grid.rows, grid.scale, grid.out_height, block)
    column_groups = _completed_together(grid.columns, grid.scale, grid.out_width, block)
    for rows in row_groups:
        for columns in column_groups:
            yield from ((row, column) for row in rows if row >= first_row for column in columns)


def _completed_together(
    spans: Sequence[Span], scale: int, length: int, block: int
) -> list[list[int]]:
    """Group the blocks of an axis by the span that computes their last pixel."""
    ends = [span.out_stop - span.overlap_after for span in spans]
    k, owners = 0, []
    for start in range(0, length, block):
        last = (min(start + block, length) - 1) // scale
        while ends[k] <= last:
            k += 1
        owners.append(k)
    return [list(group) for _, group in groupby(range(len(owners)), owners.__getitem__)]


MAX_TASK_TILES = 256
"""Largest number of tiles in a task, if possible."""
TASK_OVERHEAD_TILES = 4
"""Cost of a task besides its tiles, in tiles: sending it, opening a file, returning the result."""
EXACT_SCHEDULE_LIMIT = 8
"""Number of tasks per worker up to which the schedule is simulated; with more it is estimated."""
WORKER_SPEED_SPREAD = 0.1
"""Assumed relative difference in speed between the slowest and the fastest worker."""
ASSUMED_WORKERS = 2
"""Number of workers for which the size of parts is chosen. It is fixed, so that parts do not depend
on the number of workers; a small number gives large parts, which repeat few tiles."""


@dataclass(frozen=True)
class TaskGrid:
    """Rectangles of equal size that cover an output, in row-major order.

    Attributes
    ----------
    height, width : int
        Size of the output in pixels.
    top : int
        First row of the output that is covered.
    task_height, task_width : int
        Size of a rectangle in pixels; those at the bottom and right edges are smaller.
    """

    height: int
    width: int
    top: int
    task_height: int
    task_width: int

    @property
    def rows(self) -> int:
        """Number of rows of rectangles."""
        return -(-(self.height - self.top) // self.task_height)

    @property
    def columns(self) -> int:
        """Number of columns of rectangles."""
        return -(-self.width // self.task_width)

    def __len__(self) -> int:
        return self.rows * self.columns

    def window(self, number: int) -> Window:
        """Return a rectangle in output pixels."""
        row, column = divmod(number, self.columns)
        top, left = self.top + row * self.task_height, column * self.task_width
        return Window(
            top,
            left,
            min(self.task_height, self.height - top),
            min(self.task_width, self.width - left),
        )

    def index_at(self, y: int, x: int) -> int:
        """Return the number of the rectangle that contains an output pixel."""
        return (y - self.top) // self.task_height * self.columns + x // self.task_width

    def __iter__(self) -> Iterator[Window]:
        return map(self.window, range(len(self)))


def task_grid(
    grid: TileGrid, block: int, n_workers: int, row_bytes: int, max_bytes: int, top: int = 0
) -> TaskGrid:
    """Divide an output into the rectangles of tasks for several workers.

    Parameters
    ----------
    grid
        Tiles of the output.
    block
        Height and width of the output's blocks in pixels.
    n_workers
        Number of workers that compute at the same time.
    row_bytes
        Size in bytes of one row of output pixels.
    max_bytes
        Largest size in bytes of a row of rectangles, unless the smallest possible row is larger:
        all of it may have to be kept in memory until its first rectangle is complete.
    top
        First output row that is needed; the rectangles start there or slightly above.
    """
    step = math.lcm(block, grid.scale)
    top = top // step * step
    max_height = max(step, max_bytes // row_bytes)
    row_splits = _axis_splits(grid.rows, grid.scale, grid.out_height, step, top)
    column_splits = _axis_splits(grid.columns, grid.scale, grid.out_width, step)
    row_splits = [split for split in row_splits if split.size <= max_height]
    return _cheapest(
        grid, row_splits, column_splits, lambda y, x: _simulated_duration(y, x, n_workers), top
    )


def parts_grid(grid: TileGrid, block: int) -> TaskGrid:
    """Divide an output into the rectangles of parts, which are written to separate files."""
    step = math.lcm(block, grid.scale)
    row_splits = _axis_splits(grid.rows, grid.scale, grid.out_height, step)
    column_splits = _axis_splits(grid.columns, grid.scale, grid.out_width, step)
    return _cheapest(
        grid, row_splits, column_splits, lambda y, x: _estimated_duration(y, x, ASSUMED_WORKERS)
    )


@dataclass(frozen=True)
class _AxisSplit:
    """A division of an axis into intervals of equal size."""

    size: int
    """Length of an interval in output pixels; the last one may be shorter."""
    n_spans: tuple[int, ...]
    """Number of tile spans that intersect each interval."""

    @property
    def count(self) -> int:
        """Number of intervals."""
        return len(self.n_spans)

    @property
    def total(self) -> int:
        """Number of spans of all intervals, some counted twice."""
        return sum(self.n_spans)

    @property
    def largest(self) -> int:
        """Largest number of spans of an interval."""
        return max(self.n_spans)


def _axis_splits(
    spans: Sequence[Span], scale: int, length: int, step: int, start: int = 0
) -> list[_AxisSplit]:
    """Return the ways to divide an axis, from ``start`` on, into multiples of ``step`` pixels."""
    length -= start
    starts, stops = (
        [getattr(span, name) * scale for span in spans] for name in ("out_start", "out_stop")
    )
    steps = -(-length // step)
    splits = []
    for size in sorted({-(-steps // count) * step for count in range(1, steps + 1)}):
        n_spans = tuple(
            bisect_left(starts, start + min(first + size, length))
            - bisect_right(stops, start + first)
            for first in range(0, length, size)
        )
        splits.append(_AxisSplit(size, n_spans))
    return splits


def _cheapest(
    grid: TileGrid,
    row_splits: list[_AxisSplit],
    column_splits: list[_AxisSplit],
    duration: Callable[[_AxisSplit, _AxisSplit], float],
    top: int = 0,
) -> TaskGrid:
    """Return the grid that takes the least time."""

    def cost(pair: tuple[_AxisSplit, _AxisSplit]) -> tuple[int, float, int]:
        y, x = pair
        # if even the smallest task has too many tiles, the excess is as small as possible
        excess = max(0, y.largest * x.largest - MAX_TASK_TILES)
        return (excess, duration(y, x), x.total)

    y, x = min(product(row_splits, column_splits), key=cost)
    return TaskGrid(grid.out_height, grid.out_width, top, y.size, x.size)


def _estimated_duration(y: _AxisSplit, x: _AxisSplit, n_workers: int) -> float:
    """Estimate the time until all tasks are complete, in tiles.

    Work is distributed evenly, except that at the end each worker waits for half a task on average.
    Large tasks repeat few tiles, small ones waste little time at the end.
    """
    total = y.total * x.total + TASK_OVERHEAD_TILES * y.count * x.count
    return total / n_workers + y.largest * x.largest / 2 * (1 - 1 / n_workers)


def _simulated_duration(y: _AxisSplit, x: _AxisSplit, n_workers: int) -> float:
    """Simulate a few tasks, each given to the first free worker; return the time in tiles."""
    if y.count * x.count > EXACT_SCHEDULE_LIMIT * n_workers:
        return _estimated_duration(y, x, n_workers)
    last = max(1, n_workers - 1)
    # (time at which the worker is free, time per tile), a heap
    workers = [(0.0, 1 + WORKER_SPEED_SPREAD * worker / last) for worker in range(n_workers)]
    for rows, columns in product(y.n_spans, x.n_spans):
        time, tile_time = workers[0]
        heapreplace(workers, (time + tile_time * (rows * columns + TASK_OVERHEAD_TILES), tile_time))
    return max(workers)[0]

"""Supertiles: a product cut into rectangles, each the work of many tiles, for many machines.

A rectangle is made of whole blocks, so that blocks are encoded where they are made; the tiles
across its borders are made once on either side. Large ones repeat little, and so do square ones;
small ones keep many machines busy, and flat ones little waiting for their neighbours in a row.

Parts: a product cut into rectangles that are made independently of each other.

A tile that lies across a border is made once for either part. Along one axis a border is crossed
by one tile, or by two where it lies in their overlap; the larger the parts, the fewer borders.

Order: in which one pass over the tiles finishes the blocks of a product.

It is the order of blocks in a file, so that whoever makes them, the file is the same. A block is
finished by the tile that makes its last pixel; what neighbours share is made by the later one.
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
"""Share of the tiles that `chunk_side` lets be made more than once, where one tile crosses each
border; borders inside overlaps can make it more."""


def chunk_sizes(length: int, size: int) -> tuple[int, ...]:
    """An axis in pieces of ``size``, the last one as long as what is left."""
    whole, rest = divmod(length, size)
    return (size,) * whole + ((rest,) if rest else ())


def chunk_side(plan: TileGrid, multiple: int, pixel_bytes: int, max_bytes: int) -> int:
    """Side of square parts in output pixels: as small as keeps repeated work below `REPEATED`.

    Parameters
    ----------
    plan
        The whole product's tiles.
    multiple
        The side is a multiple of this and of the scale.
    pixel_bytes
        Size of one output pixel, all bands.
    max_bytes
        Size that a part does not exceed, whatever is then repeated; but for the smallest possible.
    """
    step = math.lcm(multiple, plan.scale)
    # n borders on an axis of n sides or more repeat at most this share of it
    across = (plan.tile - 2 * plan.halo) / (math.sqrt(1 + MAX_REPEATED_WORK) - 1)
    side = ceil_to(math.ceil(across * plan.scale), step)
    affordable = math.isqrt(max_bytes // pixel_bytes) // step * step
    return max(step, min(side, affordable))


def completion_order(plan: TileGrid, block: int, first_row: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (block row, block column) of every block in the order in which blocks are complete.

    Parameters
    ----------
    plan
        The tiles.
    block
        Height and width of blocks in output pixels.
    first_row
        Block row to begin with.
    """
    down = _finished_together(plan.rows, plan.scale, plan.out_height, block)
    across = _finished_together(plan.columns, plan.scale, plan.out_width, block)
    for rows in down:
        wanted = [row for row in rows if row >= first_row]
        for columns in across:
            yield from ((row, column) for row in wanted for column in columns)


def _finished_together(
    spans: Sequence[Span], scale: int, length: int, block: int
) -> list[list[int]]:
    """The blocks of an axis, those together whose last pixel the same span makes."""
    ends = [span.out_stop - span.overlap_after for span in spans]
    k, owners = 0, []
    for start in range(0, length, block):
        last = (min(start + block, length) - 1) // scale
        while ends[k] <= last:
            k += 1
        owners.append(k)
    return [list(group) for _, group in groupby(range(len(owners)), owners.__getitem__)]


MAX_TASK_TILES = 256
"""Tiles of a super-tile; about 64 where a product is small for the machines it is shared by."""
TASK_OVERHEAD_TILES = 4
"""What a super-tile costs besides its tiles, in tiles: it is sent, opens a file, and comes back."""
EXACT_SCHEDULE_LIMIT = 8
"""Rectangles for each machine, up to which it counts who makes which one, and who waits at the
end."""
WORKER_SPEED_SPREAD = 0.1
"""How much longer the slowest machine is taken to need for a tile than the fastest one."""
ASSUMED_WORKERS = 2
"""For which parts are cut: whoever makes them, they are the same; few are large, and repeat
little."""


@dataclass(frozen=True)
class TaskGrid:
    """Rectangles of equal size over a product, row by row.

    Attributes
    ----------
    height, width : int
        Of the product, pixels.
    top : int
        First row of the product that is covered.
    task_height, task_width : int
        Of a rectangle, pixels; those at the edges are cut.
    """

    height: int
    width: int
    top: int
    task_height: int
    task_width: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return -(-(self.height - self.top) // self.task_height)

    @property
    def columns(self) -> int:
        """Number of columns."""
        return -(-self.width // self.task_width)

    def __len__(self) -> int:
        return self.rows * self.columns

    def window(self, number: int) -> Window:
        """A rectangle, in pixels of the product."""
        row, column = divmod(number, self.columns)
        top, left = self.top + row * self.task_height, column * self.task_width
        return Window(
            top,
            left,
            min(self.task_height, self.height - top),
            min(self.task_width, self.width - left),
        )

    def index_at(self, y: int, x: int) -> int:
        """The rectangle that a pixel of the product lies in."""
        return (y - self.top) // self.task_height * self.columns + x // self.task_width

    def __iter__(self) -> Iterator[Window]:
        return map(self.window, range(len(self)))


def task_grid(
    plan: TileGrid, block: int, machines: int, row_bytes: int, max_bytes: int, top: int = 0
) -> TaskGrid:
    """The rectangles for a file that is written in `georsr.tiling.partition`.

    Parameters
    ----------
    plan
        The product's tiles.
    block
        Height and width of the product's blocks.
    machines
        How many work at once.
    row_bytes
        Size of one row of pixels of the product.
    max_bytes
        Size that a row of rectangles does not exceed, because all of it may wait for its first
        one; but for the smallest possible.
    top
        First row of the product that is wanted; rectangles begin there or a little above.
    """
    step = math.lcm(block, plan.scale)
    top = top // step * step
    highest = max(step, max_bytes // row_bytes)
    down = _axis_splits(plan.rows, plan.scale, plan.out_height, step, top)
    across = _axis_splits(plan.columns, plan.scale, plan.out_width, step)
    low = [cut for cut in down if cut.side <= highest]
    return _cheapest(plan, low, across, lambda y, x: _seconds(y, x, machines), top)


def parts_grid(plan: TileGrid, block: int) -> TaskGrid:
    """The rectangles for parts that are files of their own."""
    step = math.lcm(block, plan.scale)
    down = _axis_splits(plan.rows, plan.scale, plan.out_height, step)
    across = _axis_splits(plan.columns, plan.scale, plan.out_width, step)
    return _cheapest(plan, down, across, lambda y, x: _average(y, x, ASSUMED_WORKERS))


@dataclass(frozen=True)
class _AxisSplit:
    """An axis cut into pieces.

    Attributes
    ----------
    side : int
        Length of a piece in output pixels.
    touched : tuple of int
        Spans that each piece touches.
    """

    side: int
    touched: tuple[int, ...]

    @property
    def count(self) -> int:
        """Of pieces."""
        return len(self.touched)

    @property
    def total(self) -> int:
        """Spans that all pieces touch."""
        return sum(self.touched)

    @property
    def most(self) -> int:
        """Spans that one piece touches."""
        return max(self.touched)


def _axis_splits(
    spans: Sequence[Span], scale: int, length: int, step: int, start: int = 0
) -> list[_AxisSplit]:
    """Ways to cut an axis of output pixels from ``start`` on into even pieces of whole steps."""
    length -= start
    begins, ends = (
        [getattr(span, name) * scale for span in spans] for name in ("out_start", "out_stop")
    )
    steps = -(-length // step)
    cuts = []
    for side in sorted({-(-steps // pieces) * step for pieces in range(1, steps + 1)}):
        touched = tuple(
            bisect_left(begins, start + min(first + side, length))
            - bisect_right(ends, start + first)
            for first in range(0, length, side)
        )
        cuts.append(_AxisSplit(side, touched))
    return cuts


def _cheapest(
    plan: TileGrid,
    down: list[_AxisSplit],
    across: list[_AxisSplit],
    seconds: Callable[[_AxisSplit, _AxisSplit], float],
    top: int = 0,
) -> TaskGrid:
    """The cuts that end first."""

    def cost(pair: tuple[_AxisSplit, _AxisSplit]) -> tuple[int, float, int]:
        y, x = pair
        # tiles that are large against the blocks leave no choice
        excess = max(0, y.most * x.most - MAX_TASK_TILES)
        return (excess, seconds(y, x), x.total)

    y, x = min(product(down, across), key=cost)
    return TaskGrid(plan.out_height, plan.out_width, top, y.side, x.side)


def _average(y: _AxisSplit, x: _AxisSplit, machines: int) -> float:
    """When all is done: work is shared evenly, but for the last piece of each machine.

    Half of it, on average. Few tiles are made twice where pieces are large, and little time is
    lost at the end where they are small.
    """
    total = y.total * x.total + TASK_OVERHEAD_TILES * y.count * x.count
    return total / machines + y.most * x.most / 2 * (1 - 1 / machines)


def _seconds(y: _AxisSplit, x: _AxisSplit, machines: int) -> float:
    """When all is done: of few pieces not before each was made, in turn, by who was free first."""
    if y.count * x.count > EXACT_SCHEDULE_LIMIT * machines:
        return _average(y, x, machines)
    last = max(1, machines - 1)
    free = [(0.0, 1 + WORKER_SPEED_SPREAD * machine / last) for machine in range(machines)]
    for tall, wide in product(y.touched, x.touched):
        since, pace = free[0]
        heapreplace(free, (since + pace * (tall * wide + TASK_OVERHEAD_TILES), pace))
    return max(free)[0]

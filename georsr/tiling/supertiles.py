"""Supertiles: a product cut into rectangles, each the work of many tiles, for many machines.

A rectangle is made of whole blocks, so that blocks are encoded where they are made; the tiles
across its borders are made once on either side. Large ones repeat little, and so do square ones;
small ones keep many machines busy, and flat ones little waiting for their neighbours in a row.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import product

from georsr.tiling.plan import Span, TilePlan
from georsr.types import Window

MOST = 256
"""Tiles of a super-tile; about 64 where a product is small for the machines it is shared by."""
PER_TASK = 4
"""What a super-tile costs besides its tiles, in tiles: it is sent, opens a file, and comes back."""
FEW = 8
"""Rectangles for each machine, up to which it counts who makes which one, and who waits at the
end."""
UNLIKE = 0.1
"""How much longer the slowest machine is taken to need for a tile than the fastest one."""
MACHINES = 2
"""For which parts are cut: whoever makes them, they are the same; few are large, and repeat
little."""


@dataclass(frozen=True)
class Grid:
    """Rectangles of equal size over a product, row by row.

    Attributes
    ----------
    height, width : int
        Of the product, pixels.
    top : int
        First row of the product that is covered.
    side_y, side_x : int
        Of a rectangle, pixels; those at the edges are cut.
    """

    height: int
    width: int
    top: int
    side_y: int
    side_x: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return -(-(self.height - self.top) // self.side_y)

    @property
    def columns(self) -> int:
        """Number of columns."""
        return -(-self.width // self.side_x)

    def __len__(self) -> int:
        return self.rows * self.columns

    def window(self, number: int) -> Window:
        """A rectangle, in pixels of the product."""
        row, column = divmod(number, self.columns)
        top, left = self.top + row * self.side_y, column * self.side_x
        return Window(
            top, left, min(self.side_y, self.height - top), min(self.side_x, self.width - left)
        )

    def owner(self, y: int, x: int) -> int:
        """The rectangle that a pixel of the product lies in."""
        return (y - self.top) // self.side_y * self.columns + x // self.side_x

    def __iter__(self) -> Iterator[Window]:
        return map(self.window, range(len(self)))


def supertiles(
    plan: TilePlan, block: int, machines: int, row_bytes: int, most_bytes: int, top: int = 0
) -> Grid:
    """The rectangles for a file that is written in `georsr.tiling.order`.

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
    most_bytes
        Size that a row of rectangles does not exceed, because all of it may wait for its first
        one; but for the smallest possible.
    top
        First row of the product that is wanted; rectangles begin there or a little above.
    """
    step = math.lcm(block, plan.scale)
    top = top // step * step
    highest = max(step, most_bytes // row_bytes)
    down = _cuts(plan.rows, plan.scale, plan.out_height, step, top)
    across = _cuts(plan.columns, plan.scale, plan.out_width, step)
    low = [cut for cut in down if cut.side <= highest]
    return _best(plan, low, across, lambda y, x: _seconds(y, x, machines), top)


def part_grid(plan: TilePlan, block: int) -> Grid:
    """The rectangles for parts that are files of their own."""
    step = math.lcm(block, plan.scale)
    down = _cuts(plan.rows, plan.scale, plan.out_height, step)
    across = _cuts(plan.columns, plan.scale, plan.out_width, step)
    return _best(plan, down, across, lambda y, x: _average(y, x, MACHINES))


@dataclass(frozen=True)
class _Cut:
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


def _cuts(spans: Sequence[Span], scale: int, length: int, step: int, start: int = 0) -> list[_Cut]:
    """Ways to cut an axis of output pixels from ``start`` on into even pieces of whole steps."""
    length -= start
    begins, ends = ([getattr(span, name) * scale for span in spans] for name in ("begin", "end"))
    steps = -(-length // step)
    cuts = []
    for side in sorted({-(-steps // pieces) * step for pieces in range(1, steps + 1)}):
        touched = tuple(
            bisect_left(begins, start + min(first + side, length))
            - bisect_right(ends, start + first)
            for first in range(0, length, side)
        )
        cuts.append(_Cut(side, touched))
    return cuts


def _best(
    plan: TilePlan,
    down: list[_Cut],
    across: list[_Cut],
    seconds: Callable[[_Cut, _Cut], float],
    top: int = 0,
) -> Grid:
    """The cuts that end first."""

    def cost(pair: tuple[_Cut, _Cut]) -> tuple[int, float, int]:
        y, x = pair
        # tiles that are large against the blocks leave no choice
        excess = max(0, y.most * x.most - MOST)
        return (excess, seconds(y, x), x.total)

    y, x = min(product(down, across), key=cost)
    return Grid(plan.out_height, plan.out_width, top, y.side, x.side)


def _average(y: _Cut, x: _Cut, machines: int) -> float:
    """When all is done: work is shared evenly, but for the last piece of each machine.

    Half of it, on average. Few tiles are made twice where pieces are large, and little time is
    lost at the end where they are small.
    """
    total = y.total * x.total + PER_TASK * y.count * x.count
    return total / machines + y.most * x.most / 2 * (1 - 1 / machines)


def _seconds(y: _Cut, x: _Cut, machines: int) -> float:
    """When all is done: of few pieces not before each was made, in turn, by who was free first."""
    if y.count * x.count > FEW * machines:
        return _average(y, x, machines)
    last = max(1, machines - 1)
    free = [(0.0, 1 + UNLIKE * machine / last) for machine in range(machines)]
    for tall, wide in product(y.touched, x.touched):
        since, pace = free[0]
        heapreplace(free, (since + pace * (tall * wide + PER_TASK), pace))
    return max(free)[0]

"""Order: in which one pass over the tiles finishes the blocks of a product.

It is the order of blocks in a file, so that whoever makes them, the file is the same. A block is
finished by the tile that makes its last pixel; what neighbours share is made by the later one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from georsr.tiling.plan import Span, TilePlan


def block_order(plan: TilePlan, block: int, first_row: int = 0) -> Iterator[tuple[int, int]]:
    """(block row, block column) of every block, as `georsr.tiling.register.Register` yields them.

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
    ends = [span.end - span.trail for span in spans]
    k, owners = 0, []
    for start in range(0, length, block):
        last = (min(start + block, length) - 1) // scale
        while ends[k] <= last:
            k += 1
        owners.append(k)
    return [list(group) for _, group in groupby(range(len(owners)), owners.__getitem__)]

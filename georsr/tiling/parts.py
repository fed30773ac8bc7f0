"""Parts: a product cut into rectangles that are made independently of each other.

A tile that lies across a border is made once for either part. Along one axis a border is crossed
by one tile, or by two where it lies in their overlap; the larger the parts, the fewer borders.
"""

from __future__ import annotations

import math

from georsr.tiling.plan import TilePlan, ceil_to

REPEATED = 0.25
"""Share of the tiles that `part_side` lets be made more than once, where one tile crosses each
border; borders inside overlaps can make it more."""


def even_sizes(length: int, size: int) -> tuple[int, ...]:
    """An axis in pieces of ``size``, the last one as long as what is left."""
    whole, rest = divmod(length, size)
    return (size,) * whole + ((rest,) if rest else ())


def part_side(plan: TilePlan, multiple: int, pixel_bytes: int, most_bytes: int) -> int:
    """Side of square parts in output pixels: as small as keeps repeated work below `REPEATED`.

    Parameters
    ----------
    plan
        The whole product's tiles.
    multiple
        The side is a multiple of this and of the scale.
    pixel_bytes
        Size of one output pixel, all bands.
    most_bytes
        Size that a part does not exceed, whatever is then repeated; but for the smallest possible.
    """
    step = math.lcm(multiple, plan.scale)
    # n borders on an axis of n sides or more repeat at most this share of it
    across = (plan.tile - 2 * plan.halo) / (math.sqrt(1 + REPEATED) - 1)
    side = ceil_to(math.ceil(across * plan.scale), step)
    affordable = math.isqrt(most_bytes // pixel_bytes) // step * step
    return max(step, min(side, affordable))

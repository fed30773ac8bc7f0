"""Blocks of a raster kept out of training: pure arithmetic on windows."""

from __future__ import annotations

import math
from itertools import pairwise

from georsr.types import Window

GOLDEN = (math.sqrt(5) - 1) / 2


def blocks_of(area: Window, side: int) -> list[Window]:
    """Divide an area into blocks of about ``side`` x ``side``, row by row.

    All blocks of an area differ by one pixel at most in height and in width; an area smaller
    than one and a half blocks along an axis is not divided along it.
    """
    rows, columns = _edges(area.height, side), _edges(area.width, side)
    return [
        Window(area.top + top, area.left + left, bottom - top, right - left)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def _edges(length: int, side: int) -> list[int]:
    count = max(1, round(length / side))
    return [length * i // count for i in range(count + 1)]


def is_held_out(number: int, share: float) -> bool:
    """Whether block ``number`` (from 0) is for validation.

    Multiples of the golden ratio fall evenly over 0..1, so the blocks held out are spread over
    rows and columns, their part of any run of blocks is near ``share``, and a block's fate does
    not depend on how many come after it. Block 0 is held out for every ``share`` above 0.
    """
    return (number * GOLDEN) % 1.0 < share

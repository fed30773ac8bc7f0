"""Curves: a line rounded at its corners, and each pixel's place along and across it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from canvas import Canvas, Patch, Point
from dice import Array


def rounded(points: list[Point], passes: int = 3) -> list[Point]:
    """Cut the corners of a polyline (Chaikin); the end points stay."""
    for _ in range(passes):
        cut = [points[0]]
        for (ax, ay), (bx, by) in pairwise(points):
            cut += [(0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by)]
            cut += [(0.25 * ax + 0.75 * bx, 0.25 * ay + 0.75 * by)]
        points = [*cut, points[-1]]
    return points


def follow(canvas: Canvas, points: list[Point], reach: float) -> tuple[Patch, Array, Array]:
    """Measure the canvas along a polyline.

    Returns
    -------
    tuple
        The whole canvas as a patch; metres along the line; signed metres across it, positive to
        its right. Further away than ``reach`` both are meaningless and the latter is 1e6.
    """
    whole = canvas.everything()
    along, across = np.zeros(canvas.shape), np.full(canvas.shape, 1e6)
    start = 0.0
    for (ax, ay), (bx, by) in pairwise(points):
        length = math.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
        ux, uy = (bx - ax) / length, (by - ay) / length
        box = canvas.patch((ax + bx) / 2, (ay + by) / 2, 0, *_half(ax, ay, bx, by, reach))
        x, y = box.u + ((ax + bx) / 2 - ax), box.v + ((ay + by) / 2 - ay)
        t = np.clip(x * ux + y * uy, 0, length)
        off_x, off_y = x - t * ux, y - t * uy
        distance = np.sqrt(off_x * off_x + off_y * off_y)
        side = np.where(ux * y - uy * x < 0, -1.0, 1.0)
        here, there = across[box.rows, box.columns], along[box.rows, box.columns]
        nearer = (distance < abs(here)) & (distance <= reach)
        here[...] = np.where(nearer, side * distance, here)
        there[...] = np.where(nearer, start + t, there)
        start += length
    return whole, along, across


def _half(ax: float, ay: float, bx: float, by: float, reach: float) -> Point:
    return abs(bx - ax) / 2 + reach, abs(by - ay) / 2 + reach


def place(points: list[Point], along: float, across: float = 0.0) -> tuple[float, float, float]:
    """Point at a distance along the polyline and to its right, and its heading in degrees."""
    for (ax, ay), (bx, by) in pairwise(points):
        length = math.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
        if along <= length:
            break
        along -= length
    ux, uy = (bx - ax) / length, (by - ay) / length
    heading = round(math.degrees(math.atan2(uy, ux)), 6)
    return ax + ux * along - uy * across, ay + uy * along + ux * across, heading


def length_of(points: list[Point]) -> float:
    """Length of a polyline in metres."""
    return sum(
        math.sqrt((bx - ax) ** 2 + (by - ay) ** 2) for (ax, ay), (bx, by) in pairwise(points)
    )

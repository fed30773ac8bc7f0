"""Plants: trees, hedges and what grows on a parcel."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from canvas import Canvas, Patch, tint
from dice import Array, wave
from shapely.geometry import Polygon

LEAVES = (
    (0.050, 0.082, 0.026),
    (0.060, 0.092, 0.030),
    (0.042, 0.070, 0.026),
    (0.076, 0.098, 0.034),
)
NEEDLES = (0.026, 0.044, 0.022)


def tree(canvas: Canvas, x: float, y: float, radius: float, tall: float) -> None:
    """Crown made of many small domes, so that light and shadow fall as on leaves."""
    dice = canvas.dice
    conifer = dice.chance(0.15)
    colour = np.asarray(NEEDLES if conifer else dice.pick(LEAVES))
    lobes = round(5 + 3.0 * radius * radius)
    spots = 2 * dice.array(lobes, 2) - 1
    sizes, shades = dice.array(lobes), dice.grain(lobes)
    for (a, b), size, shade in zip(spots, sizes, shades, strict=True):
        # a disc from a square without angles: points of the corners move to the middle
        away = math.sqrt(a * a + b * b)
        if away > 1:
            a, b, away = a * 0.4, b * 0.4, away * 0.4
        lobe = (0.26 + 0.20 * size) * min(radius, 3.2)
        dx, dy = x + a * (radius - 0.6 * lobe), y + b * (radius - 0.6 * lobe)
        patch = canvas.patch(dx, dy, 0, lobe, lobe)
        ragged = 0.22 * lobe * canvas.noise(patch.u * 1.7 + dx, patch.v * 1.7 + dy)
        distance = np.sqrt(patch.u * patch.u + patch.v * patch.v) + ragged
        fall = (1.1 if conifer else 0.5) * away * away * tall * 0.55
        rise = tall - fall + 0.9 * lobe * (size - 0.5) - distance * distance / lobe * 0.75
        above = rise >= canvas.height[patch.rows, patch.columns]
        cover = canvas.edge(lobe - distance) * above
        leaf = canvas.noise(patch.u * 2.3 + 5 * dx, patch.v * 2.3)
        canvas.paint(patch, cover, tint(colour * (1 + 0.10 * shade), 1 + 0.22 * leaf))
        canvas.lift(patch, (distance < lobe) & (rise > 0.3), rise)


def hedge(canvas: Canvas, x: float, y: float, angle: float, length: float) -> None:
    """Clipped hedge, about 1.2 m wide and 1.7 m high, a little uneven."""
    patch = canvas.patch(x, y, angle, length / 2, 1.3)
    uneven = 0.28 * canvas.noise(patch.u * 0.9 + x, patch.v * 0.3 + y)
    inside = np.minimum(0.65 + uneven - abs(patch.v), length / 2 - abs(patch.u))
    leaf = canvas.noise(patch.u * 2.1 + 40.5, patch.v * 2.1 + y)
    canvas.paint(patch, canvas.edge(inside), tint((0.042, 0.070, 0.026), 1 + 0.3 * leaf))
    canvas.lift(patch, inside > 0, 1.6 + 0.4 * leaf + 0.3 * inside)


def lawn(canvas: Canvas, patch: Patch) -> Array:
    """Grass, (3, rows, columns): large dry and lush areas, tufts, single blades."""
    noise = canvas.noise
    u, v = patch.u, patch.v
    large = noise.fractal(u / 23 + 3.5, v / 23 + 8.5, 4)
    tufts = noise.fractal(u / 1.6 + 50.5, v / 1.6, 3)
    grain = canvas.dice.grain(*u.shape)
    worn = np.clip(2.2 * (noise.fractal(u / 4 + 33.5, v / 4, 4) - 0.75), 0, 0.5)
    factor = 1 + 0.12 * large + 0.11 * tufts + 0.08 * grain + 0.3 * worn
    dry = np.clip(0.40 + 0.60 * noise.fractal(u / 31 + 90.5, v / 31 + 20.5, 5) + worn, 0, 0.9)
    lush = tint((0.068, 0.100, 0.036), factor)
    return lush * (1 - dry) + dry * tint((0.128, 0.126, 0.066), factor)


def parcel(canvas: Canvas, outline: Polygon, angle: float, crop: str, margin: float = 0.8) -> None:
    """Fill a convex outline (metres) with soil, rows, cereal or meadow; rows run at ``angle``."""
    corners = [(round(x, 3), round(y, 3)) for x, y in outline.exterior.coords]
    if not outline.exterior.is_ccw:
        corners.reverse()
    west, north, east, south = (round(value, 3) for value in outline.bounds)
    x, y = (west + east) / 2, (north + south) / 2
    plain = canvas.patch(x, y, 0, (east - west) / 2, (south - north) / 2)
    wobble = 0.35 * canvas.noise.fractal(plain.u / 6 + x, plain.v / 6 + y, 3)
    inside = np.full(plain.u.shape, 1e6)
    for (ax, ay), (bx, by) in pairwise(corners):
        length = math.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
        left = (bx - ax) * (plain.v + y - ay) - (by - ay) * (plain.u + x - ax)
        inside = np.minimum(inside, left / length)
    cover = canvas.edge(inside - margin + wobble)
    # the same window with the axes of the rows: one patch at that angle, cut to this one
    reach = east - west + south - north
    turned = canvas.patch(x, y, angle, reach, reach)
    rows = slice(plain.rows.start - turned.rows.start, plain.rows.stop - turned.rows.start)
    columns = slice(
        plain.columns.start - turned.columns.start, plain.columns.stop - turned.columns.start
    )
    local = Patch(plain.rows, plain.columns, turned.u[rows, columns], turned.v[rows, columns])
    canvas.paint(local, cover, CROPS[crop](canvas, local, inside))


def _soil(canvas: Canvas, patch: Patch, inside: Array) -> Array:
    u, v = patch.u, patch.v + 0.25 * canvas.noise(patch.u / 9, patch.v / 30)
    furrows = wave(v / 1.35) * (1 + 0.5 * canvas.noise(u * 0.7, v / 1.35))
    clods = canvas.noise.fractal(u * 1.1, v * 1.1 + 33.5, 3)
    moist = canvas.noise.fractal(u / 28 + 11.5, v / 28, 4)
    factor = 1 + 0.15 * furrows + 0.17 * clods + 0.17 * moist
    return tint((0.180, 0.128, 0.086), factor, (1.0, 1.03, 1.06))


def _rows(canvas: Canvas, patch: Patch, inside: Array) -> Array:
    soil = _soil(canvas, patch, inside) * 0.95
    v = patch.v + 0.10 * canvas.noise(patch.u / 5, patch.v / 30 + 5.5)
    vigour = 0.25 + 0.25 * canvas.noise.fractal(patch.u / 14, patch.v / 14 + 70.5, 3)
    plants = 0.5 * canvas.noise(patch.u * 1.5 + 9.5, v / 1.7) + vigour
    leaves = np.clip(0.45 + 1.1 * wave(v / 1.7) + plants, 0, 1)
    green = tint((0.066, 0.108, 0.036), 1 + 0.2 * canvas.noise(patch.u * 2.3, v * 2.3))
    return soil * (1 - leaves) + green * leaves


def _cereal(canvas: Canvas, patch: Patch, inside: Array) -> Array:
    u, v = patch.u, patch.v
    streaks = canvas.noise.fractal(u / 9, v / 0.8, 3)
    lodged = canvas.noise.fractal(u / 17 + 60.5, v / 11, 4)
    factor = 1 + 0.07 * streaks + 0.10 * lodged + 0.05 * canvas.dice.grain(*u.shape)
    ruts = np.maximum(_rut(canvas, v + 0.95), _rut(canvas, v - 0.95))
    ruts = np.maximum(ruts * (inside > 6), canvas.edge(0.30 - abs(inside - 6)))
    return tint((0.245, 0.200, 0.098), factor) * (1 - 0.38 * ruts)


def _rut(canvas: Canvas, v: Array) -> Array:
    return canvas.edge(0.28 - abs(v / 18 - np.rint(v / 18)) * 18)


def _meadow(canvas: Canvas, patch: Patch, inside: Array) -> Array:
    mown = np.clip(2.5 * wave(patch.v / 7 + 0.03 * canvas.noise(patch.u / 12, patch.v)), -1, 1)
    swath = canvas.noise.fractal(patch.u / 3, patch.v * 0.9, 3)
    return lawn(canvas, patch) * (1.0 + 0.09 * mown + 0.10 * swath)


CROPS = {"soil": _soil, "rows": _rows, "cereal": _cereal, "meadow": _meadow}

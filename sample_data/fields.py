"""The fields: parcels, woods, a village and a river in four bands, 5 m pixels."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from canvas import Canvas, cosine_sine, tint
from curve import follow
from dice import Array, wave
from ground import smooth_path
from light import Sun, expose, radiance
from shapely.affinity import rotate
from shapely.geometry import LineString, Polygon, box
from shapely.ops import split

WIDTH, HEIGHT, PIXEL = 328, 296, 5.0
"""Size of the fine image in pixels, metres of a pixel: the coarse one has half of each."""

LAY = 14.0
"""Degrees by which the parcels lie turned."""

# blue, green, red, near infrared
WATER = (0.042, 0.046, 0.032, 0.018)
ROAD = (0.105, 0.118, 0.130, 0.180)
ROOF = (0.105, 0.120, 0.168, 0.225)
FOREST = (0.022, 0.040, 0.026, 0.300)
CROPS = (
    (0.030, 0.064, 0.034, 0.470),
    (0.028, 0.056, 0.030, 0.400),
    (0.040, 0.080, 0.052, 0.380),
    (0.048, 0.088, 0.074, 0.320),
    (0.072, 0.112, 0.150, 0.270),
    (0.084, 0.122, 0.168, 0.250),
    (0.074, 0.098, 0.126, 0.190),
    (0.060, 0.078, 0.098, 0.150),
)
"""From lush wheat through meadow and ripe cereal to bare soil."""


def draw_fields() -> Array:
    """Draw reflectance times 10000, (4, 296, 328) uint16 without holes."""
    canvas = Canvas(WIDTH, HEIGHT, PIXEL, bands=4, seed=20267)
    whole = canvas.everything(LAY)
    mottle = canvas.noise.fractal(whole.u / 130, whole.v / 130, 5)
    canvas.paint(whole, canvas.edge(whole.u + 1e5), tint(CROPS[2], 1 + 0.08 * mottle))
    for outline in _parcels(canvas):
        _sow(canvas, outline)
    _wood(canvas, 430, 1240, 330)
    _wood(canvas, 1480, 260, 250)
    _roads(canvas)
    _village(canvas, 1080, 830)
    _river(canvas)
    sun = Sun(direct=(0.86, 0.87, 0.88, 0.90), sky=(0.21, 0.20, 0.19, 0.18))
    seen = expose(radiance(canvas, sun, tallest=26))
    seen = seen * (1 + 0.005 * canvas.dice.grain(*seen.shape))
    return np.clip(np.rint(seen * 10000), 1, 12000).astype(np.uint16)


def _parcels(canvas: Canvas) -> list[Polygon]:
    """Split the land again and again across its longer side, until pieces are field-sized.

    Sides are measured along two fixed axes: a smallest enclosing rectangle would do too, but its
    first corner depends on the version of the geometry library.
    """
    dice = canvas.dice
    ux, uy = cosine_sine(LAY)
    todo = [rotate(box(-500, -500, 2400, 2200), LAY, origin=(900, 800))]
    done = []
    while todo:
        piece = todo.pop()
        corners = np.round(np.asarray(piece.exterior.coords), 3)
        along = corners[:, 0] * ux + corners[:, 1] * uy
        across = corners[:, 1] * ux - corners[:, 0] * uy
        low, size = (along.min(), across.min()), (np.ptp(along), np.ptp(across))
        # a tie, or nearly one, must fall the same way everywhere
        longer = 1 if size[1] > size[0] + 0.1 else 0
        if size[longer] < dice.uniform(150, 420):
            done.append(piece)
            continue
        where = low[longer] + dice.uniform(0.35, 0.65) * size[longer]
        middle = low[1 - longer] + size[1 - longer] / 2
        lean = dice.uniform(-0.12, 0.12)
        ends = []
        for far in (-9e3, 9e3):
            point = (where + lean * far, middle + far)
            u, v = point if longer == 0 else point[::-1]
            ends.append((u * ux - v * uy, u * uy + v * ux))
        parts = list(split(piece, LineString(ends)).geoms)
        todo += sorted(parts, key=lambda part: (round(part.centroid.x), round(part.centroid.y)))
    return done


def _sow(canvas: Canvas, outline: Polygon) -> None:
    """Fill a parcel with one crop: drilling lines, moist hollows, a grassy margin."""
    dice, noise = canvas.dice, canvas.noise
    colour, margin = dice.pick(CROPS), dice.uniform(-1.5, 3)
    angle = dice.pick((LAY, LAY + 90, LAY + 6)) + dice.uniform(-3, 3)
    shift, vigour = dice.uniform(0, 99), dice.uniform(0.85, 1.12)
    west, north, east, south = (round(value, 3) for value in outline.bounds)
    x, y = (west + east) / 2, (north + south) / 2
    patch = canvas.patch(x, y, 0, (east - west) / 2, (south - north) / 2)
    if not patch.u.size:
        return
    corners = [(round(px - x, 3), round(py - y, 3)) for px, py in outline.exterior.coords]
    if not outline.exterior.is_ccw:
        corners.reverse()
    inside = np.full(patch.u.shape, 1e6)
    for (ax, ay), (bx, by) in pairwise(corners):
        length = math.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
        left = (bx - ax) * (patch.v - ay) - (by - ay) * (patch.u - ax)
        inside = np.minimum(inside, left / max(length, 1e-3))
    turned = canvas.patch(x, y, angle, 9e3, 9e3)
    v = turned.v[patch.rows, patch.columns]
    hollow = noise.fractal((patch.u + x) / 110 + shift, (patch.v + y) / 110, 5)
    lines = 0.05 * wave(v / 24) + 0.04 * noise(v / 9 + shift, hollow)
    factor = vigour * (1 + lines + 0.09 * hollow)
    # drier ground: less infrared, more red
    canvas.paint(patch, canvas.edge(inside - margin), tint(colour, factor, (0.7, 0.8, 1.0, -0.7)))


def _wood(canvas: Canvas, x: float, y: float, radius: float) -> None:
    patch = canvas.patch(x, y, 0, radius * 1.7, radius * 1.7)
    distance = np.sqrt(patch.u * patch.u + patch.v * patch.v)
    ragged = 0.42 * canvas.noise.fractal(patch.u / 190 + x, patch.v / 190 + y, 4)
    inside = (1 + ragged) * radius - distance
    crowns = canvas.noise.fractal(patch.u / 9, patch.v / 9 + 12.5, 2)
    mixed = canvas.noise.fractal(patch.u / 70 + 44.5, patch.v / 70, 4)
    canvas.paint(patch, np.clip(inside / 8, 0, 1), tint(FOREST, 1 + 0.22 * mixed + 0.16 * crowns))
    canvas.lift(patch, inside > 4, 12 + 1.1 * crowns + 1.5 * mixed)


def _roads(canvas: Canvas) -> None:
    lines = (
        (smooth_path((-50, 620), (600, 700), (1080, 830), (1900, 1010)), 11.0, ROAD),
        (smooth_path((1160, -50), (1060, 420), (1080, 830), (900, 1700)), 8.0, ROAD),
        (smooth_path((300, -50), (360, 300), (600, 700)), 5.0, (0.10, 0.125, 0.155, 0.24)),
        (smooth_path((1080, 830), (1500, 640), (1900, 590)), 5.0, (0.10, 0.125, 0.155, 0.24)),
    )
    for points, width, colour in lines:
        patch, along, across = follow(canvas, points, width + 30)
        canvas.paint(patch, canvas.edge(width / 2 - abs(across)), colour)
        trees = canvas.noise(along / 13, across * 0 + width) > 0.35
        row = canvas.edge(4.5 - abs(across - width / 2 - 6)) * trees
        canvas.paint(patch, row, FOREST)
        canvas.lift(patch, row > 0.5, 9.0)
        canvas.level(patch, abs(across) < width / 2)


def _village(canvas: Canvas, x: float, y: float) -> None:
    dice = canvas.dice
    for _ in range(150):
        du, dv = (280 * g for g in dice.grain(2) * 0.42)
        spot = canvas.patch(
            x + du, y + dv, dice.pick((LAY, LAY + 90)) + dice.uniform(-8, 8), 16, 10
        )
        garden = canvas.box(spot, 0, 0, 30, 18)
        canvas.paint(spot, garden, tint(CROPS[3], 1 + 0.2 * canvas.noise(spot.u / 5, spot.v / 5)))
        canvas.level(spot, garden > 0.5)
        length, bright = dice.uniform(10, 22), dice.uniform(0.7, 1.5)
        roof = canvas.box(spot, 0, 0, length, 9)
        canvas.paint(spot, roof, np.asarray(ROOF) * bright)
        canvas.lift(spot, roof > 0.5, 6.0)
    hall = canvas.patch(x + 330, y - 120, 20, 60, 40)
    canvas.paint(hall, canvas.box(hall, 0, 0, 110, 70), ROAD)
    roof = canvas.box(hall, -10, 5, 74, 38)
    canvas.paint(hall, roof, (0.34, 0.36, 0.37, 0.40))
    canvas.lift(hall, roof > 0.5, 9.0)


def _river(canvas: Canvas) -> None:
    bends = ((640, 1700), (720, 1400), (980, 1240), (1180, 1330), (1420, 1130), (1900, 1240))
    course = smooth_path(*bends)
    patch, along, across = follow(canvas, course, 150)
    bank = 9 * canvas.noise.fractal(patch.u / 80, patch.v / 80 + 31.5, 4)
    inside = 21 - abs(across) + bank
    reeds = tint(CROPS[2], 1 + 0.15 * canvas.noise.fractal(patch.u / 25, patch.v / 25, 3))
    canvas.paint(patch, canvas.edge(inside + 22), reeds)
    canvas.level(patch, inside > -6)
    flow = 1 + 0.06 * canvas.noise.fractal(along / 60, across / 12, 3)
    canvas.paint(patch, canvas.edge(inside), tint(WATER, flow))

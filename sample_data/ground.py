"""What lies flat: roads, car parks, courts, paving and water."""

from __future__ import annotations

import numpy as np
from buildings import car
from canvas import Canvas, Patch, Point, cosine_sine, tint
from curve import follow, length_of, place, rounded
from dice import Array
from plants import lawn

WHITE = (0.52, 0.52, 0.50)
KERB = (0.40, 0.39, 0.37)


def asphalt(canvas: Canvas, patch: Patch, worn: Array | float = 0.0) -> Array:
    """Asphalt, (3, rows, columns): stains, patches of repair, fine grain."""
    u, v = patch.u, patch.v
    stains = canvas.noise.fractal(u / 5 + 13.5, v / 5, 4)
    repair = np.clip(6 * (canvas.noise(u / 7 + 77.5, v / 7) - 0.62), 0, 1)
    factor = 1 + 0.07 * stains - 0.22 * repair + worn + 0.04 * canvas.dice.grain(*u.shape)
    return tint((0.118, 0.116, 0.114), factor)


def paving(canvas: Canvas, patch: Patch) -> Array:
    """Concrete slabs, (3, rows, columns)."""
    u, v = patch.u, patch.v
    factor = 1 + 0.10 * canvas.noise.fractal(u / 2 + 21.5, v / 2, 3)
    return tint((0.270, 0.255, 0.232), factor + 0.04 * canvas.dice.grain(*u.shape))


def road(canvas: Canvas, points: list[Point], width: float, footpath: float = 1.7) -> None:
    """Road with kerbs, footpaths, wheel tracks and, from 5 m, a dashed middle line."""
    patch, along, across = follow(canvas, points, width / 2 + footpath + 1)
    away = abs(across)
    if footpath:
        joints = canvas.edge(0.06 - abs(along / 1.5 - np.rint(along / 1.5)) * 1.5)
        slabs = paving(canvas, patch) * (1 - 0.2 * joints)
        canvas.paint(patch, canvas.edge(width / 2 + footpath - away), slabs)
        canvas.paint(patch, canvas.edge(width / 2 + 0.22 - away), KERB)
    tracks = 0.10 * np.clip(1 - abs(abs(away - width / 4) - 0.75) / 0.45, 0, 1)
    oil = -0.10 * np.clip(1 - abs(away - width / 4) / 0.5, 0, 1)
    cover = canvas.edge(width / 2 - away)
    canvas.paint(patch, cover, asphalt(canvas, patch, tracks + oil))
    canvas.level(patch, cover > 0.5)
    if width < 5:
        return
    worn = np.clip(0.75 + 0.5 * canvas.noise(along * 0.7, across + 9.5), 0.25, 1)
    dash = canvas.edge(1.6 - abs(along / 6 - np.rint(along / 6)) * 6)
    canvas.paint(patch, canvas.edge(0.09 - away) * dash * worn, WHITE)
    if width > 6:
        line = canvas.edge(0.08 - abs(away - width / 2 + 0.45))
        canvas.paint(patch, 0.8 * line * worn, WHITE)


def track(canvas: Canvas, points: list[Point], width: float = 2.6) -> None:
    """Earth track: two bare ruts with grass between and at the sides."""
    patch, along, across = follow(canvas, points, width + 2)
    ragged = 0.55 * canvas.noise.fractal(along / 2.5, across * 1.3, 3)
    ruts = np.clip((0.55 - abs(abs(across) - width * 0.3) + ragged) / 0.5, 0, 1)
    dust = 1 + 0.12 * canvas.noise.fractal(patch.u, patch.v + 44.5, 3)
    canvas.paint(patch, 0.85 * ruts, tint((0.250, 0.205, 0.150), dust))


def bare(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """Bare, trodden soil with a ragged edge and stones."""
    patch = canvas.patch(x, y, 0, radius * 1.6, radius * 1.6)
    distance = np.sqrt(patch.u * patch.u + patch.v * patch.v)
    ragged = 0.4 * canvas.noise.fractal(patch.u / 4 + x, patch.v / 4 + y, 4)
    stones = 0.14 * canvas.noise.fractal(patch.u * 1.3, patch.v * 1.3 + 15.5, 3)
    cover = np.clip((1 + ragged - distance / radius) * 4, 0, 1)
    canvas.paint(patch, cover * 0.95, tint((0.235, 0.180, 0.125), 1 + stones))


def crossing(canvas: Canvas, points: list[Point], along: float, width: float) -> None:
    """Zebra crossing: bars half a metre wide, three metres long."""
    x, y, heading = place(points, along)
    patch = canvas.patch(x, y, heading, 2, width / 2)
    bars = canvas.edge(0.26 - abs(patch.v - np.rint(patch.v)))
    canvas.paint(patch, 0.9 * bars * canvas.box(patch, 0, 0, 3, width - 0.8), WHITE)


def traffic(canvas: Canvas, points: list[Point], across: float, gap: float) -> None:
    """Cars along a line at uneven distances, ``across`` metres to its right."""
    along = canvas.dice.uniform(3, gap)
    while along < length_of(points):
        x, y, heading = place(points, along, across + canvas.dice.uniform(-0.15, 0.15))
        car(canvas, x, y, heading + canvas.dice.uniform(-1.5, 1.5))
        along += canvas.dice.uniform(0.45, 1.9) * gap


def car_park(canvas: Canvas, x: float, y: float, angle: float, bays: int, rows: int) -> None:
    """Car park: rows of bays 2.5 by 5 m, back to back, lanes of 6 m, three in five bays taken."""
    length, depth = bays * 2.5, rows * 8.0
    patch = canvas.patch(x, y, angle, length / 2 + 3, depth / 2 + 3)
    canvas.paint(patch, canvas.box(patch, 0, 0, length + 3.4, depth + 3.4), KERB)
    cover = canvas.box(patch, 0, 0, length + 3, depth + 3)
    canvas.paint(patch, cover, asphalt(canvas, patch))
    canvas.level(patch, cover > 0)
    lines = canvas.edge(0.09 - abs(patch.u / 2.5 - np.rint(patch.u / 2.5)) * 2.5)
    for row in range(rows):
        # rows 0, 2, .. look up, rows 1, 3, .. look down, so that lanes are shared
        v = (row - (rows - 1) / 2) * 8.0 + (1.4 if row % 2 == 0 else -1.4)
        canvas.paint(patch, lines * canvas.box(patch, 0, v, length + 0.2, 5), WHITE)
        for bay in range(bays):
            if canvas.dice.chance(0.6):
                u = (bay - (bays - 1) / 2) * 2.5 + canvas.dice.uniform(-0.2, 0.2)
                px, py = local(x, y, angle, u, v + canvas.dice.uniform(-0.3, 0.3))
                turn = 90 if canvas.dice.chance(0.7) else -90
                car(canvas, px, py, angle + turn + canvas.dice.uniform(-2, 2))


def local(x: float, y: float, angle: float, u: float, v: float) -> Point:
    """Point at (u, v) of axes turned by ``angle`` degrees about (x, y), in whole millimetres."""
    cos, sin = cosine_sine(angle)
    return round(x + u * cos - v * sin, 3), round(y + u * sin + v * cos, 3)


def court(canvas: Canvas, x: float, y: float, angle: float) -> None:
    """Two tennis courts side by side on red ground with white lines and nets."""
    patch = canvas.patch(x, y, angle, 20, 19)
    dust = 1 + 0.07 * canvas.noise.fractal(patch.u / 2, patch.v / 5, 4)
    ground = canvas.box(patch, 0, 0, 36, 34)
    canvas.paint(patch, ground, tint((0.205, 0.096, 0.062), dust))
    canvas.level(patch, ground > 0)
    for middle in (-8.2, 8.2):
        v = patch.v - middle
        hard = canvas.box(patch, 0, middle, 23.77, 10.97)
        canvas.paint(patch, hard, tint((0.07, 0.11, 0.10), dust))
        inside = np.minimum(11.885 - abs(patch.u), 5.485 - abs(v))
        side = np.where(inside > -0.2, abs(abs(v) - 4.115), 9)
        service = np.where(abs(v) < 4.115, abs(abs(patch.u) - 6.4), 9)
        centre = np.where(abs(patch.u) < 6.4, abs(v), 9)
        lines = np.minimum(np.minimum(abs(inside), side), np.minimum(service, centre))
        canvas.paint(patch, 0.9 * canvas.edge(0.08 - lines), WHITE)
        canvas.paint(patch, canvas.box(patch, 0, middle, 0.2, 12.6), (0.10, 0.10, 0.10))
    fence = ground * (1 - canvas.box(patch, 0, 0, 35.7, 33.7))
    canvas.paint(patch, 0.6 * fence, (0.07, 0.09, 0.07))


def river(canvas: Canvas, points: list[Point], width: float) -> None:
    """River with uneven banks: reeds, a strip of wet sand, dark water, ripples, glints."""
    patch, along, across = follow(canvas, points, width)
    noise = canvas.noise
    bank = 1.1 * noise.fractal(patch.u / 9 + 5.5, patch.v / 9, 4)
    inside = width / 2 - abs(across) + bank
    reeds = lawn(canvas, patch) * np.asarray((0.72, 0.78, 0.75))[:, None, None]
    canvas.paint(patch, np.clip((inside + 3.2) / 1.5, 0, 1), reeds)
    sand = tint((0.235, 0.200, 0.150), 1 + 0.12 * noise.fractal(patch.u, patch.v, 3))
    patchy = np.clip(0.6 + 1.2 * noise(patch.u / 8 + 70.5, patch.v / 8), 0, 1)
    canvas.paint(patch, np.clip((inside + 0.9) / 0.5, 0, 1) * patchy, sand)
    water = canvas.edge(inside)
    depth = np.clip(inside / 4, 0, 1)
    flow = noise.fractal(along / 3.2, across * 0.9, 3)
    ripple = noise.fractal(along * 0.9 + across * 0.5, across * 1.6, 2)
    shallow, deep = np.asarray((0.088, 0.094, 0.058)), np.asarray((0.036, 0.056, 0.050))
    body = shallow[:, None, None] * (1 - depth) + deep[:, None, None] * depth
    canvas.paint(patch, water, body * (1 + 0.10 * flow + 0.13 * ripple * depth))
    glint = 0.25 * np.clip(ripple - 1.25, 0, 1) * water * depth
    canvas.paint(patch, glint, (0.5, 0.52, 0.55))
    canvas.level(patch, water > 0.5)


def pool(canvas: Canvas, x: float, y: float, angle: float) -> None:
    """Swimming pool with a pale rim and a little light on the water."""
    patch = canvas.patch(x, y, angle, 6, 4)
    canvas.paint(patch, canvas.box(patch, 0, 0, 9.5, 6), paving(canvas, patch))
    light = 1 + 0.18 * canvas.noise.fractal(patch.u * 0.8, patch.v * 0.8, 3)
    water = canvas.box(patch, 0, 0, 7.5, 3.8)
    canvas.paint(patch, water, tint((0.075, 0.235, 0.290), light))
    steps = canvas.box(patch, -3.3, 0, 0.9, 3.6)
    canvas.paint(patch, 0.5 * steps, (0.20, 0.36, 0.40))


def smooth_path(*points: Point) -> list[Point]:
    """Rounded polyline, in whole millimetres."""
    return [(round(x, 3), round(y, 3)) for x, y in rounded(list(points))]

"""Buildings and cars."""

from __future__ import annotations

import numpy as np
from canvas import Canvas, Patch, tint
from dice import Array, wave

TERRACOTTA = (0.235, 0.105, 0.066)
BROWN = (0.155, 0.092, 0.068)
SLATE = (0.098, 0.100, 0.108)
ROOFS = (TERRACOTTA, (0.275, 0.140, 0.090), (0.200, 0.085, 0.058), BROWN, SLATE)
CARS = (
    (0.62, 0.62, 0.62),
    (0.38, 0.39, 0.40),
    (0.045, 0.046, 0.050),
    (0.13, 0.14, 0.155),
    (0.28, 0.035, 0.03),
    (0.05, 0.09, 0.20),
    (0.52, 0.50, 0.44),
)


def gabled(
    canvas: Canvas,
    x: float,
    y: float,
    angle: float,
    size: tuple[float, float],
    colour: tuple[float, ...],
    eave: float = 4.2,
    hipped: bool = False,
) -> None:
    """House with a pitched roof, ridge along ``angle``; ``size`` is (length, width) in metres."""
    length, width = size
    patch = canvas.patch(x, y, angle, length / 2 + 1, width / 2 + 1)
    inset = width / 2 - abs(patch.v)
    run = np.minimum(inset, length / 2 - abs(patch.u)) if hipped else inset
    rise = eave + np.clip(run, 0, None) * 0.72
    standing = canvas.height[patch.rows, patch.columns]
    cover = canvas.box(patch, 0, 0, length, width) * (rise >= standing - 0.05)
    canvas.paint(patch, cover, _tiles(canvas, patch, colour))
    ridge = canvas.edge(0.18 - abs(patch.v)) * cover
    canvas.paint(patch, 0.55 * ridge, np.asarray(colour) * 1.35)
    gutter = canvas.edge(0.14 - abs(abs(patch.v) - width / 2 + 0.1)) * cover
    canvas.paint(patch, 0.5 * gutter, (0.24, 0.24, 0.25))
    canvas.lift(patch, cover > 0.5, rise)
    _fittings(canvas, patch, (length, width), eave + width * 0.36)


def _tiles(canvas: Canvas, patch: Patch, colour: tuple[float, ...]) -> Array:
    ribs = 0.07 * wave(patch.u / 1.1) + 0.05 * wave(patch.v / 1.3)
    single = 0.10 * canvas.noise(patch.u * 2.6 + 31.5, patch.v * 2.6)
    weather = 0.10 * canvas.noise.fractal(patch.u / 3 + 7.5, patch.v / 1.5, 3)
    streak = 0.07 * canvas.noise(patch.u * 1.4 + 3.5, patch.v * 0.2 + 60.5)
    return tint(colour, 1 + ribs + single + weather + streak, (1.0, 1.1, 1.15))


def _fittings(canvas: Canvas, patch: Patch, size: tuple[float, float], top: float) -> None:
    length, width = size
    dice = canvas.dice
    if min(size) < 6:
        return
    u = dice.uniform(-0.3, 0.3) * length
    chimney = canvas.box(patch, u, 0.8, 0.9, 0.7)
    canvas.paint(patch, chimney, (0.30, 0.20, 0.16))
    canvas.lift(patch, chimney > 0.5, top + 0.9)
    # the sun stands to the lower right; an empty window has no such corner
    sunny = 1 if (patch.v[-1:, -1:] - patch.v[:1, :1]).sum() > 0 else -1
    if dice.chance(0.45):
        solar(canvas, patch, -0.12 * length, sunny * width * 0.25, length * 0.5, width * 0.30)
    else:
        for k in range(2):
            sky = canvas.box(patch, (k - 0.5) * length * 0.35, sunny * width * 0.24, 0.9, 1.3)
            canvas.paint(patch, sky, (0.10, 0.13, 0.17))


def solar(canvas: Canvas, patch: Patch, u: float, v: float, du: float, dv: float) -> None:
    """Field of solar panels: dark blue with pale frames every 1.7 by 1.05 m."""
    cover = canvas.box(patch, u, v, du, dv)
    canvas.paint(patch, cover, (0.024, 0.034, 0.072))
    across = (patch.u - u + du / 2) / 1.7
    down = (patch.v - v + dv / 2) / 1.05
    frame = np.maximum(
        canvas.edge(0.07 - abs(across - np.rint(across)) * 1.7),
        canvas.edge(0.05 - abs(down - np.rint(down)) * 1.05),
    )
    canvas.paint(patch, 0.65 * frame * cover, (0.22, 0.24, 0.28))


def flat(
    canvas: Canvas, x: float, y: float, angle: float, size: tuple[float, float], height: float
) -> None:
    """Flat gravel roof with a parapet, seams, vents and rows of panels."""
    length, width = size
    patch = canvas.patch(x, y, angle, length / 2 + 1, width / 2 + 1)
    cover = canvas.box(patch, 0, 0, length, width)
    grit = 0.06 * canvas.noise(patch.u * 3, patch.v * 3) + 0.10 * canvas.noise.fractal(
        patch.u / 6, patch.v / 6
    )
    seams = canvas.edge(0.10 - abs(patch.u / 2.5 - np.rint(patch.u / 2.5)) * 2.5)
    canvas.paint(patch, cover, tint((0.265, 0.262, 0.250), 1 + grit - 0.10 * seams))
    canvas.lift(patch, cover > 0.5, height)
    rim = cover * (1 - canvas.box(patch, 0, 0, length - 1.0, width - 1.0))
    canvas.paint(patch, rim, (0.44, 0.44, 0.43))
    canvas.lift(patch, rim > 0.5, height + 0.6)
    for k in range(7):
        u, v = (k - 3) * length / 8, (0.30 if k % 2 else 0.34) * width
        side = canvas.dice.uniform(1.0, 2.6)
        unit = canvas.box(patch, u, v, side, 1.6)
        canvas.paint(patch, unit, (0.50, 0.51, 0.52))
        canvas.lift(patch, unit > 0.5, height + 1.3)
        fan = canvas.edge(0.5 - np.sqrt((patch.u - u) ** 2 + (patch.v - v) ** 2))
        canvas.paint(patch, fan * 0.8, (0.12, 0.12, 0.13))
    for row in range(3):
        solar(canvas, patch, -0.1 * length, (row - 2.0) * 3.4, length * 0.62, 2.1)


def car(canvas: Canvas, x: float, y: float, angle: float) -> None:
    """Parked or driving car: body, dark windscreens, roof; about 4.4 by 1.8 m."""
    dice = canvas.dice
    colour = dice.pick(CARS)
    long, wide = dice.uniform(4.0, 4.8), dice.uniform(1.7, 1.9)
    patch = canvas.patch(x, y, angle, 3, 1.5)
    body = canvas.box(patch, 0, 0, long, wide)
    canvas.paint(patch, body, colour)
    canvas.level(patch, body > 0.5, 0.85)
    for u, du in ((0.75, 0.75), (-1.45, 0.55)):
        glass = canvas.box(patch, u, 0, du, wide - 0.3)
        canvas.paint(patch, 0.9 * glass, (0.035, 0.045, 0.055))
    roof = canvas.box(patch, -0.35, 0, 1.5, wide - 0.4)
    canvas.paint(patch, roof, np.asarray(colour) * 1.1)
    canvas.lift(patch, roof > 0.5, 1.4)

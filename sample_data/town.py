"""The town: a street with houses and gardens, a shop, courts, fields and a river at 0.5 m."""

from __future__ import annotations

from buildings import ROOFS, car, flat, gabled
from canvas import Canvas, Point
from curve import length_of, place
from dice import Array
from ground import (
    bare,
    car_park,
    court,
    crossing,
    local,
    paving,
    pool,
    river,
    road,
    smooth_path,
    track,
    traffic,
)
from light import Sun, photograph
from plants import hedge, lawn, parcel, tree
from shapely.geometry import Polygon

WIDTH, HEIGHT, PIXEL = 384, 320, 0.5
MAIN = smooth_path((-12, 84), (40, 80), (110, 62), (206, 50))
SIDE = smooth_path((86, 69), (94, 104), (108, 128), (112, 176))
STREAM = smooth_path((-12, 116), (16, 126), (34, 140), (50, 176))


def draw_town() -> Array:
    """Draw the scene, (3, 320, 384) uint8."""
    canvas = Canvas(WIDTH, HEIGHT, PIXEL, bands=3, seed=20260)
    whole = canvas.everything(7.0)
    canvas.paint(whole, canvas.edge(whole.u + 1e5), lawn(canvas, whole))
    _farmland(canvas)
    river(canvas, STREAM, 13)
    court(canvas, 150, 140, 12)
    road(canvas, smooth_path((128, 56), (130, 75), (140, 78)), 4.8, footpath=0)
    car_park(canvas, 163, 77, -7, bays=19, rows=2)
    track(canvas, smooth_path((34.5, -9), (31.5, 48), (70, 43), (119, 33), (126, -9)))
    track(canvas, smooth_path((110, 116), (126, 120), (134, 124)), 1.2)
    bare(canvas, 118, 88, 8)
    bare(canvas, 66, 148, 6)
    road(canvas, SIDE, 5.2)
    road(canvas, MAIN, 7.2)
    crossing(canvas, MAIN, 82, 7.2)
    traffic(canvas, MAIN, 1.8, 38)
    traffic(canvas, MAIN, -1.8, 45)
    flat(canvas, 161, 104, -7, (46, 22), 6.5)
    _houses(canvas)
    _trees(canvas)
    return photograph(canvas, Sun(), tallest=13)


def _farmland(canvas: Canvas) -> None:
    pieces = (
        (((-9, -9), (34, -9), (30, 52), (-9, 58)), 97, "soil"),
        (((36, -9), (74, -9), (66, 43), (32, 50)), 99, "rows"),
        (((77, -9), (124, -9), (117, 31), (69, 40)), 168, "cereal"),
        (((-9, 139), (10, 146), (26, 170), (-9, 172)), 20, "rows"),
    )
    for corners, angle, crop in pieces:
        parcel(canvas, Polygon(corners), angle, crop)


def _houses(canvas: Canvas) -> None:
    for along in range(12, 90, 21):
        _plot(canvas, MAIN, along, 1)
    for along in range(22, 132, 21):
        if along < 125:
            _plot(canvas, MAIN, along + 3, -1)
    for along in range(32, 100, 21):
        _plot(canvas, SIDE, along, 1)
    _plot(canvas, SIDE, 30, -1)
    for along in (150, 172):
        _plot(canvas, MAIN, along, -1)


def _plot(canvas: Canvas, street: list[Point], along: float, side: int) -> None:
    """One house with drive, shed, hedge, trees and sometimes a pool; ``side`` 1 is the right."""
    dice = canvas.dice
    setback = dice.uniform(13.5, 15.5)
    x, y, angle = place(street, along, side * setback)
    if side < 0:
        angle += 180
    angle += dice.uniform(-4, 4)
    length, width = dice.uniform(10, 13.5), dice.uniform(8, 9.5)

    def at(u: float, v: float) -> Point:
        # v grows from the street to the garden on either side of it
        return local(x, y, angle, u, v)

    drive = canvas.patch(*at(8.2, -5), angle, 2, 6.5)
    canvas.paint(drive, canvas.box(drive, 0, 0, 3.2, 12.5), paving(canvas, drive))
    terrace = canvas.patch(*at(-1, width / 2 + 1.8), angle, 4, 2.5)
    canvas.paint(terrace, canvas.box(terrace, 0, 0, 6.5, 3.6), paving(canvas, terrace))
    if dice.chance(0.65):
        car(canvas, *at(8.2, dice.uniform(-6, -2)), angle + 90)
    hedge(canvas, *at(-10.2, 5), angle + 90, 18)
    if dice.chance(0.4):
        pool(canvas, *at(dice.uniform(-3, 2), 13.5), angle)
    else:
        gabled(canvas, *at(6.5, 12.5), angle, (3.6, 2.8), ROOFS[3], eave=2.1)
    roof = dice.pick(ROOFS)
    crosswise = dice.chance(0.3)
    gabled(canvas, x, y, angle + 90 * crosswise, (length, width), roof, hipped=dice.chance(0.3))
    if dice.chance(0.45):
        gabled(canvas, *at(-length / 4, 3.2), angle + 90, (width + 1.5, 6.2), roof, eave=3.9)
    if dice.chance(0.6):
        gabled(canvas, *at(8.2, 2.5), angle + 90, (6.5, 3.6), ROOFS[4], eave=2.5)
    for _ in range(3):
        tree(canvas, *at(dice.uniform(-9, 8), dice.uniform(11, 19)), *_size(canvas))
    if dice.chance(0.5):
        tree(canvas, *at(dice.uniform(-8, 2), -7.6), 1.8, 4.5)


def _size(canvas: Canvas) -> Point:
    radius = canvas.dice.uniform(1.5, 3.6)
    return radius, 2.0 + 2.1 * radius


def _trees(canvas: Canvas) -> None:
    dice = canvas.dice
    for along in range(3, int(length_of(STREAM)), 6):
        for side in (-1, 1):
            if dice.chance(0.72):
                x, y, _ = place(STREAM, along, side * dice.uniform(9, 14))
                tree(canvas, x, y, dice.uniform(2, 4.4), dice.uniform(6, 11))
    for _ in range(60):
        x, y = dice.uniform(112, 128), dice.uniform(92, 160)
        if dice.chance(0.55):
            tree(canvas, x, y, dice.uniform(0.6, 1.5), dice.uniform(1, 2.6))
    for along in range(147, 200, 9):
        tree(canvas, *place(MAIN, along, 7.4)[:2], 1.9, 5.0)
    for _ in range(46):
        x, y = dice.uniform(126, 192), dice.uniform(-2, 22)
        tree(canvas, x, y, dice.uniform(2.2, 4.8), dice.uniform(7, 12))
    for u in range(-20, 24, 8):
        tree(canvas, *local(150, 140, 12, u, 20), dice.uniform(2, 3.2), dice.uniform(5, 8))
        tree(canvas, *local(150, 140, 12, -21.5, u), dice.uniform(1.8, 3), dice.uniform(5, 8))

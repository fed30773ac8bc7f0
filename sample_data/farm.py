"""The farm: a yard, barns, an orchard and a vineyard, for the rotated raster."""

from __future__ import annotations

from buildings import BROWN, SLATE, TERRACOTTA, car, gabled
from canvas import Canvas, tint
from dice import Array
from ground import bare, local, paving, road, smooth_path, track
from light import Sun, photograph
from plants import hedge, lawn, parcel, tree
from shapely.geometry import Polygon

WIDTH, HEIGHT, PIXEL = 120, 100, 0.5


def draw_farm() -> Array:
    """Draw the scene, (3, 100, 120) uint8."""
    canvas = Canvas(WIDTH, HEIGHT, PIXEL, bands=3, seed=20265)
    whole = canvas.everything(-20.0)
    canvas.paint(whole, canvas.edge(whole.u + 1e5), lawn(canvas, whole))
    parcel(canvas, Polygon([(-5, -5), (24, -5), (20, 22), (-5, 27)]), 75, "rows")
    parcel(canvas, Polygon([(38, 36), (70, 32), (70, 60), (41, 60)]), 12, "cereal")
    track(canvas, smooth_path((25, -5), (23, 22), (36, 34), (39, 60)))
    bare(canvas, 41, 17, 9)
    yard = canvas.patch(33, 14, 8, 8, 6)
    canvas.paint(yard, canvas.box(yard, 0, 0, 13, 9), paving(canvas, yard))
    road(canvas, smooth_path((-5, 41), (20, 36), (30, 28), (32, 19)), 3.4, footpath=0)
    gabled(canvas, 47, 9, 8, (17, 10), TERRACOTTA, eave=5)
    gabled(canvas, 50, 23, 98, (9, 7.5), BROWN)
    gabled(canvas, 31, 4.5, 8, (9, 5.5), SLATE, eave=2.8)
    car(canvas, 36, 12.5, 100)
    car(canvas, 29.5, 13.5, 95)
    for k in range(4):
        _bale(canvas, 46.5 + 3.4 * k, 42 + 2.1 * (k % 2))
    hedge(canvas, 57, 28, 8, 9)
    for row in range(2):
        for k in range(5):
            x, y = local(6 + 5.2 * k, 45.5 + 4.6 * row, 0, *canvas.dice.array(2))
            tree(canvas, x, y, canvas.dice.uniform(1.2, 1.9), canvas.dice.uniform(3, 4.2))
    tree(canvas, 42.5, 20, 3.2, 8)
    tree(canvas, 56, 17, 2.6, 6)
    return photograph(canvas, Sun(), tallest=10)


def _bale(canvas: Canvas, x: float, y: float) -> None:
    """Round straw bale lying on its side."""
    patch = canvas.patch(x, y, 25, 1, 1)
    bale = canvas.box(patch, 0, 0, 1.5, 1.3)
    straw = 1 + 0.2 * canvas.noise(patch.u * 3 + x, patch.v * 3)
    canvas.paint(patch, bale, tint((0.300, 0.245, 0.130), straw))
    canvas.lift(patch, bale > 0.5, 1.35 - 0.8 * patch.v * patch.v)

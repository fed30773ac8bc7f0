"""The canvas: what the ground reflects and how high it stands, on a fine grid of metres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from dice import Array, Dice, Noise

Colour = Sequence[float] | Array
Point = tuple[float, float]


@dataclass(frozen=True)
class Patch:
    """A window of the canvas with its own turned axes: u along, v across, metres from a centre."""

    rows: slice
    columns: slice
    u: Array
    v: Array


class Canvas:
    """Reflectance and height, drawn with x to the right and y down, both in metres.

    Parameters
    ----------
    width, height
        Size of the finished image in pixels.
    pixel
        Size of a finished pixel in metres; the canvas is twice as fine.
    bands
        Number of bands of the reflectance.
    seed
        Start of this scene's random numbers.
    """

    def __init__(self, width: int, height: int, pixel: float, bands: int, seed: int) -> None:
        self.dice = Dice(seed)
        self.noise = Noise(self.dice)
        self.step = pixel / 2
        self.shape = (2 * height, 2 * width)
        self.albedo = np.zeros((bands, *self.shape))
        self.height = np.zeros(self.shape)
        self.extent = (width * pixel, height * pixel)

    def patch(self, x: float, y: float, angle: float, reach_u: float, reach_v: float) -> Patch:
        """Window that holds a turned box of half sides ``reach_u``, ``reach_v`` round (x, y).

        ``angle`` is in degrees, from x towards y. The window is cut at the edge and may be empty.
        """
        cos, sin = cosine_sine(angle)
        reach_x = abs(cos) * reach_u + abs(sin) * reach_v + self.step
        reach_y = abs(sin) * reach_u + abs(cos) * reach_v + self.step
        rows, row_y = self._axis(y, reach_y, self.shape[0])
        columns, column_x = self._axis(x, reach_x, self.shape[1])
        dx, dy = (column_x - x)[None, :], (row_y - y)[:, None]
        return Patch(rows, columns, dx * cos + dy * sin, dy * cos - dx * sin)

    def _axis(self, centre: float, reach: float, size: int) -> tuple[slice, Array]:
        first = min(max(math.floor((centre - reach) / self.step), 0), size)
        last = min(max(math.ceil((centre + reach) / self.step), first), size)
        return slice(first, last), (np.arange(first, last) + 0.5) * self.step

    def everything(self, angle: float = 0.0) -> Patch:
        """Return the whole canvas, axes turned about its upper left corner."""
        reach = 2 * (self.extent[0] + self.extent[1])
        return self.patch(0.0, 0.0, angle, reach, reach)

    def edge(self, inside: Array) -> Array:
        """Cover 0..1 from the distance to an outline in metres, positive inside."""
        return np.clip(inside / self.step + 0.5, 0, 1)

    def box(self, patch: Patch, u: float, v: float, du: float, dv: float) -> Array:
        """Cover of a box centred at (u, v) of the patch with full sides (du, dv)."""
        return self.edge(np.minimum(du / 2 - abs(patch.u - u), dv / 2 - abs(patch.v - v)))

    def paint(self, patch: Patch, cover: Array, colour: Colour) -> None:
        """Lay a colour, (bands,) or (bands, rows, columns), over a patch where ``cover`` > 0."""
        tint = np.asarray(colour, dtype=np.float64)
        tint = tint[:, None, None] if tint.ndim == 1 else tint
        below = self.albedo[:, patch.rows, patch.columns]
        below += cover * (tint - below)

    def shade(self, patch: Patch, factor: Array) -> None:
        """Multiply the reflectance of a patch."""
        self.albedo[:, patch.rows, patch.columns] *= factor

    def lift(self, patch: Patch, where: Array, height: Array | float) -> None:
        """Raise a patch to ``height`` metres where asked, never lowering what stands there."""
        here = self.height[patch.rows, patch.columns]
        here[...] = np.where(where, np.maximum(here, height), here)

    def level(self, patch: Patch, where: Array, height: float = 0.0) -> None:
        """Set a patch to one height where asked: clears what stood there."""
        here = self.height[patch.rows, patch.columns]
        here[...] = np.where(where, height, here)


def cosine_sine(angle: float) -> Point:
    """Of an angle in degrees, rounded: the last bit may differ between C libraries."""
    radians = math.radians(angle)
    return round(math.cos(radians), 9), round(math.sin(radians), 9)


def tint(colour: Colour, factor: Array, sway: Colour | None = None) -> Array:
    """Colour (bands,) times a texture around 1, each band swayed a little differently."""
    base = np.asarray(colour, dtype=np.float64)[:, None, None]
    if sway is None:
        return base * np.maximum(factor, 0.05)
    strength = np.asarray(sway, dtype=np.float64)[:, None, None]
    return base * np.maximum(1 + strength * (factor - 1), 0.05)

"""Light: sun, sky, cast shadows and the sensor that turns them into numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from canvas import Canvas
from dice import Array


@dataclass(frozen=True)
class Sun:
    """Where the light comes from: unit step towards the sun on the ground, rise per metre."""

    x: float = 0.6
    y: float = 0.8
    rise: float = 0.95
    direct: tuple[float, ...] = (0.92, 0.88, 0.80)
    sky: tuple[float, ...] = (0.175, 0.205, 0.255)


def shadow(height: Array, step: float, sun: Sun, tallest: float) -> Array:
    """Share 0..1 of the sun that what stands nearer to it takes away."""
    reach = math.ceil(tallest / sun.rise / step)
    padded = np.pad(height, reach, mode="edge")
    rows, columns = height.shape
    horizon = np.zeros_like(height)
    for k in range(1, reach + 1):
        dy, dx = reach + round(k * sun.y), reach + round(k * sun.x)
        seen = padded[dy : dy + rows, dx : dx + columns] - k * step * sun.rise
        np.maximum(horizon, seen, out=horizon)
    return np.clip((horizon - height) / 0.35, 0, 1)


def soften(image: Array, reach: int = 1) -> Array:
    """Blur by 1-2-1 along both axes, ``reach`` samples apart; edges repeat."""
    for axis in (-2, -1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (reach, reach)
        wide = np.moveaxis(np.pad(image, pad, mode="edge"), axis, -1)
        size = wide.shape[-1] - 2 * reach
        mixed = wide[..., :size] + wide[..., 2 * reach :] + 2 * wide[..., reach : reach + size]
        image = np.moveaxis(mixed * 0.25, -1, axis)
    return image


def slopes(height: Array, step: float, steepest: float = 1.6) -> tuple[Array, Array]:
    """Rise per metre to the right and downwards, limited so that walls stay plain."""
    padded = np.pad(height, 1, mode="edge")
    right = (padded[1:-1, 2:] - padded[1:-1, :-2]) / (2 * step)
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / (2 * step)
    return np.clip(right, -steepest, steepest), np.clip(down, -steepest, steepest)


def radiance(canvas: Canvas, sun: Sun, tallest: float) -> Array:
    """Light that leaves the canvas, (bands, rows, columns): direct sun plus what the sky gives."""
    right, down = slopes(canvas.height, canvas.step)
    facing = sun.rise - right * sun.x - down * sun.y
    facing = np.maximum(facing, 0) / np.sqrt(1 + right * right + down * down) / sun.rise
    around = soften(soften(soften(canvas.height, 1), 2), 4)
    open_sky = np.clip(1 - 0.35 * (around - canvas.height), 0.45, 1.1)
    lit = np.minimum(facing, 1.45) * (1 - soften(shadow(canvas.height, canvas.step, sun, tallest)))
    direct = np.asarray(sun.direct)[:, None, None]
    sky = np.asarray(sun.sky)[:, None, None]
    return canvas.albedo * (direct * lit + sky * open_sky)


def expose(light: Array) -> Array:
    """Average the fine grid over finished pixels: slight optical blur, then 2x2 means."""
    fine = soften(light)
    return 0.25 * (
        fine[:, ::2, ::2] + fine[:, 1::2, ::2] + fine[:, ::2, 1::2] + fine[:, 1::2, 1::2]
    )


def photograph(canvas: Canvas, sun: Sun, tallest: float, gain: float = 2.3) -> Array:
    """Finished picture, (3, H, W) uint8: haze, square-root tone curve, sensor noise."""
    seen = expose(radiance(canvas, sun, tallest))
    haze = np.array((0.010, 0.014, 0.020))[:, None, None]
    toned = 255 * np.sqrt(np.clip(gain * (seen + haze), 0, 1))
    # above 190 the curve bends over, as film and camera software do
    toned = np.where(toned > 190, 190 + (toned - 190) * 0.75, toned)
    common = canvas.dice.grain(1, *seen.shape[1:])
    noisy = toned + 0.9 * common + 0.7 * canvas.dice.grain(*seen.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

"""Random numbers that are the same on every machine and in every numpy release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
T = TypeVar("T")


class Dice:
    """A seeded stream of numbers.

    Built on the raw words of PCG64: numpy promises those never change, while the methods of
    ``Generator`` may (NEP 19).
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def array(self, *shape: int) -> Array:
        """Uniform float64 in 0..1, 53 bits each."""
        words = np.asarray(self._bits.random_raw(shape), dtype=np.uint64)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """One number between ``low`` and ``high``."""
        return low + (high - low) * float(self.array(1)[0])

    def chance(self, probability: float) -> bool:
        """Say yes with that probability."""
        return self.uniform(0, 1) < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[int(self.uniform(0, len(items)))]

    def grain(self, *shape: int) -> Array:
        """Bell-shaped noise: mean 0, deviation 1, within -3..3 (the sum of three uniforms)."""
        return 2 * (self.array(*shape) + self.array(*shape) + self.array(*shape)) - 3


class Noise:
    """Smooth random function of two coordinates with features of size 1, values in -1..1."""

    def __init__(self, dice: Dice, period: int = 128) -> None:
        self._period = period
        self._table = 2 * dice.array(period, period) - 1

    def __call__(self, u: Array, v: Array) -> Array:
        """Evaluate at the points (u, v): lattice values joined by smooth steps."""
        i, j = np.floor(u), np.floor(v)
        p, q = u - i, v - j
        p, q = p * p * (3 - 2 * p), q * q * (3 - 2 * q)
        i0, j0 = i.astype(np.int64) % self._period, j.astype(np.int64) % self._period
        i1, j1 = (i0 + 1) % self._period, (j0 + 1) % self._period
        near = self._table[i0, j0] * (1 - p) + self._table[i1, j0] * p
        far = self._table[i0, j1] * (1 - p) + self._table[i1, j1] * p
        return near * (1 - q) + far * q

    def fractal(self, u: Array, v: Array, octaves: int = 4) -> Array:
        """Sum of octaves, each half as large and half as strong as the one before."""
        total = self(u, v)
        for k in range(1, octaves):
            total = total + self(u * 2.0**k + 17.25 * k, v * 2.0**k - 9.75 * k) * 0.5**k
        return total


def wave(t: Array) -> Array:
    """Sine-like curve of period 1 made of two parabolas: no library sine, so no last-bit doubt."""
    f = t - np.floor(t)
    half = np.where(f < 0.5, f, f - 0.5)
    return np.where(f < 0.5, 1.0, -1.0) * 16 * half * (0.5 - half)

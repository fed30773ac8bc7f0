"""The sensor description: how a scene was recorded, as four numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from georsr.errors import UsageError

MIN_NOISE = 5e-4
"""Noise, in units of the 0..1 scale, below which there is none."""
MEANS = (0.82, 0.35, math.log(4e-3), 0.05)
STANDARD_DEVIATIONS = (0.18, 0.18, 1.1, 0.18)
"""Mean and standard deviation of each number over what sensors do; the noise as a logarithm."""
MAX_NORMALIZED = 3.0
"""Largest size of a normalised number."""
N_SENSOR_VALUES = len(MEANS)
"""Numbers of a description."""


@dataclass(frozen=True)
class SensorDescription:
    """How an image was recorded.

    Attributes
    ----------
    mtf_half, mtf : float
        Contrast that is left at a quarter and at half a cycle per pixel (half the Nyquist
        frequency and the Nyquist frequency), by optics, detector, resampling and sharpening
        together.
    noise : float
        Standard deviation of what is not linear in the scene (noise, quantisation, coding), in
        units of the 0..1 scale.
    grain : float
        Correlation of that noise between neighbouring pixels, -1..1.
    """

    mtf_half: float
    mtf: float
    noise: float
    grain: float

    def normalize(self) -> tuple[float, ...]:
        """Return the numbers as standard scores over sensors, at most `MAX_NORMALIZED`."""
        half, nyquist, noise, grain = astuple(self)
        numbers = (half, nyquist, math.log(max(noise, 0.0) + MIN_NOISE), grain)
        scaled = ((x - c) / s for x, c, s in zip(numbers, MEANS, STANDARD_DEVIATIONS, strict=True))
        return tuple(min(max(x, -MAX_NORMALIZED), MAX_NORMALIZED) for x in scaled)

    def __str__(self) -> str:
        """As `parse_sensor` reads it."""
        return (
            f"mtf_half={self.mtf_half:.3f},mtf={self.mtf:.3f},"
            f"noise={self.noise:.4f},grain={self.grain:.2f}"
        )

    @classmethod
    def from_normalized(cls, numbers: Sequence[float]) -> SensorDescription:
        """Inverse of `normalised`."""
        half, nyquist, noise, grain = (
            x * s + c for x, c, s in zip(numbers, MEANS, STANDARD_DEVIATIONS, strict=True)
        )
        return cls(half, nyquist, max(math.exp(noise) - MIN_NOISE, 0.0), grain)


VALUE_RANGES = {
    "mtf_half": (0.01, 2.0),
    "mtf": (0.01, 2.0),
    "noise": (0.0, 0.5),
    "grain": (-1.0, 1.0),
}
"""Lowest and highest value of each number that may be given."""


def parse_sensor(text: str) -> dict[str, float]:
    """Read some of the four numbers: ``mtf=0.2,noise=0.01``.

    An MTF alone is that of a gaussian, whose contrast at half of the Nyquist frequency is its
    fourth root.

    Raises
    ------
    UsageError
        No such number, or one out of range.
    """
    given: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        low, high = VALUE_RANGES.get(key, (0.0, -1.0))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high or key in given:
            limits = ", ".join(
                f"{name}={low:g}..{high:g}" for name, (low, high) in VALUE_RANGES.items()
            )
            raise UsageError(
                f"sensor {text!r}: expected one or more of {limits}, each once, such as "
                "mtf=0.2,noise=0.01"
            )
        given[key] = number
    if "mtf" in given:
        given.setdefault("mtf_half", given["mtf"] ** 0.25)
    return given

"""Describe how an image was recorded with four numbers: contrast, noise and its correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from georsr.errors import UsageError

MIN_NOISE = 5e-4
"""Noise on the 0..1 scale that is added before its logarithm is taken."""
MEANS = (0.82, 0.35, math.log(4e-3), 0.05)
STANDARD_DEVIATIONS = (0.18, 0.18, 1.1, 0.18)
"""Mean and standard deviation of each number over sensors; those of noise are of its logarithm."""
MAX_NORMALIZED = 3.0
"""Largest absolute value of a normalized number."""
N_SENSOR_VALUES = len(MEANS)
"""Number of values in a description."""


@dataclass(frozen=True)
class SensorDescription:
    """Description of how an image was recorded.

    Attributes
    ----------
    mtf_half, mtf : float
        MTF of optics, detector, resampling and sharpening together, at half the Nyquist frequency
        and at the Nyquist frequency (a quarter and half a cycle per pixel).
    noise : float
        Standard deviation of noise, quantization and compression errors, on the 0..1 scale.
    grain : float
        Correlation of the noise of neighbouring pixels, -1..1.
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
        """Return text that `parse_sensor` reads."""
        return (
            f"mtf_half={self.mtf_half:.3f},mtf={self.mtf:.3f},"
            f"noise={self.noise:.4f},grain={self.grain:.2f}"
        )

    @classmethod
    def from_normalized(cls, numbers: Sequence[float]) -> SensorDescription:
        """Build a description from the numbers of `normalize`."""
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
"""Smallest and largest permitted value of each number."""


def parse_sensor(text: str) -> dict[str, float]:
    """Parse some of the four numbers, such as ``mtf=0.2,noise=0.01``.

    If ``mtf`` is given without ``mtf_half``, the MTF is taken to be a gaussian, which at half the
    Nyquist frequency is the fourth root of ``mtf``.

    Returns
    -------
    dict of str to float
        Attributes of `SensorDescription` and their values.

    Raises
    ------
    UsageError
        A number is unknown, repeated or out of range.
    """
    numbers: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        low, high = VALUE_RANGES.get(key, (0.0, -1.0))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high or key in numbers:
            limits = ", ".join(
                f"{name}={low:g}..{high:g}" for name, (low, high) in VALUE_RANGES.items()
            )
            raise UsageError(
                f"sensor {text!r}: expected one or more of {limits}, each once, such as "
                "mtf=0.2,noise=0.01"
            )
        numbers[key] = number
    if "mtf" in numbers:
        numbers.setdefault("mtf_half", numbers["mtf"] ** 0.25)
    return numbers

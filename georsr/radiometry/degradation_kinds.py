"""Build degradations from recipes and from the text of the command line; mix several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from georsr._fields import from_dict
from georsr.errors import UsageError
from georsr.radiometry.degradation import BicubicDegradation, Degradation, SensorDegradation
from georsr.radiometry.imaging_chain import ImagingChain
from georsr.window import FloatArray


@dataclass(frozen=True)
class Mixture:
    """Draws one of several degradations for every image, so that a network learns to undo all."""

    name = "mixture"
    fixed = False

    of: tuple[Degradation, ...]
    """Degradations, drawn with equal probability."""

    def margin(self, scale: int) -> int:
        """Return the largest margin of the degradations in HR pixels."""
        return max(degradation.margin(scale) for degradation in self.of)

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Degrade (C, H, W) in 0..1 by one of the degradations; see `Degradation`."""
        return self.of[int(rng.integers(len(self.of)))](hr, scale, rng)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"kind": "mixture", "of": [...]}``."""
        return {"kind": self.name, "of": [degradation.to_dict() for degradation in self.of]}

    def describe(self) -> str:
        """Return the descriptions of the degradations, joined by *or*."""
        return " or ".join(degradation.describe() for degradation in self.of)


def _bicubic(values: Any, context: str) -> Degradation:
    return from_dict(BicubicDegradation, values, context)


def _mixture(values: Any, context: str) -> Degradation:
    parts = values.pop("of", None)
    if values:
        raise UsageError(f"{context}: unknown key {sorted(map(str, values))[0]!r}; known: of")
    if not isinstance(parts, list) or len(parts) < 2:
        raise UsageError(
            f"{context}: 'of' is {parts!r}, expected a list of two degradations or more"
        )
    return Mixture(tuple(degradation_from_dict(part, f"{context}: of") for part in parts))


PARSERS = {
    "bicubic": _bicubic,
    "sensor": SensorDegradation.from_dict,
    "imaging-chain": ImagingChain.from_dict,
    "mixture": _mixture,
}


def degradation_from_dict(values: Any, context: str) -> Degradation:
    """Build a degradation from the plain values of its ``to_dict``.

    Parameters
    ----------
    values
        ``{"kind": "bicubic"}``, ``{"kind": "sensor", "mtf": [0.1, 0.35], ...}`` or
        ``{"kind": "mixture", "of": [{"kind": "bicubic"}, ...]}``.
    context
        Source of the values, for error messages.

    Raises
    ------
    UsageError
        The kind or a key is missing or unknown, or a value is out of range.
    """
    kind = str(values.get("kind")) if isinstance(values, dict) else ""
    if kind not in PARSERS:
        raise UsageError(
            f"{context}: expected 'kind: ' with one of {', '.join(PARSERS)}, got {values!r}"
        )
    rest = {key: value for key, value in values.items() if key != "kind"}
    return PARSERS[kind](rest, context)


CONSTANTS = {"true": True, "false": False, "none": None}


def parse_degradation(text: str) -> Degradation:
    """Parse a degradation such as ``bicubic`` or ``sensor,mtf=0.1..0.35,noise=0.01,bits=8``.

    Parameters
    ----------
    text
        Kind, then ``key=value`` pairs separated by commas. A value is a number, a range ``LO..HI``,
        ``true``, ``false`` or ``none``.

    Raises
    ------
    UsageError
        The kind or a key is unknown, or a value is out of range.
    """
    kind, *settings = (part.strip() for part in text.split(","))
    context = f"degradation {text!r}"
    values: dict[str, Any] = {"kind": kind}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise UsageError(f"{context}: {setting!r} is not key=value")
        if key in values:
            raise UsageError(f"{context}: {key!r} is given twice")
        values[key] = _value(value, context)
    return degradation_from_dict(values, context)


def _value(text: str, context: str) -> Any:
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    low, dots, high = text.partition("..")
    try:
        return [_number(low), _number(high)] if dots else _number(text)
    except ValueError:
        raise UsageError(
            f"{context}: {text!r} is not a number, a range LO..HI, true, false or none"
        ) from None


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)

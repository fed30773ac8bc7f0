"""The degradations a recipe can name.

Degradations as the command line spells them.
"""

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
    """One of several degradations, drawn anew for every image: what comes out is good for all."""

    name = "mixture"
    fixed = False

    of: tuple[Degradation, ...]
    """The degradations, each as likely as the others."""

    def margin(self, scale: int) -> int:
        """Reach of the widest."""
        return max(each.margin(scale) for each in self.of)

    def __call__(self, hr: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
        """Degrade (C, H, W) 0..1 by one of them; see `Degradation`."""
        return self.of[int(rng.integers(len(self.of)))](hr, scale, rng)

    def to_mapping(self) -> dict[str, Any]:
        """``{"kind": "mixture", "of": [...]}``."""
        return {"kind": self.name, "of": [each.to_mapping() for each in self.of]}

    def describe(self) -> str:
        """Its parts, joined by *or*."""
        return " or ".join(each.describe() for each in self.of)


def _bicubic(values: Any, where: str) -> Degradation:
    return from_dict(BicubicDegradation, values, where)


def _mixture(values: Any, where: str) -> Degradation:
    parts = values.pop("of", None)
    if values:
        raise UsageError(f"{where}: unknown key {sorted(map(str, values))[0]!r}; known: of")
    if not isinstance(parts, list) or len(parts) < 2:
        raise UsageError(f"{where}: 'of' is {parts!r}, expected a list of two degradations or more")
    return Mixture(tuple(degradation_from_dict(part, f"{where}: of") for part in parts))


PARSERS = {
    "bicubic": _bicubic,
    "sensor": SensorDegradation.from_mapping,
    "imaging-chain": ImagingChain.from_mapping,
    "mixture": _mixture,
}


def degradation_from_dict(values: Any, where: str) -> Degradation:
    """Build the degradation that ``to_mapping`` described.

    Parameters
    ----------
    values
        ``{"kind": "bicubic"}``, ``{"kind": "sensor", "mtf": [0.1, 0.35], ...}`` or
        ``{"kind": "mixture", "of": [{"kind": "bicubic"}, ...]}``.
    where
        Names the source in errors.

    Raises
    ------
    UsageError
        No or an unknown kind, an unknown key, or a value out of range.
    """
    kind = str(values.get("kind")) if isinstance(values, dict) else ""
    if kind not in PARSERS:
        raise UsageError(
            f"{where}: expected 'kind: ' with one of {', '.join(PARSERS)}, got {values!r}"
        )
    rest = {key: value for key, value in values.items() if key != "kind"}
    return PARSERS[kind](rest, where)


CONSTANTS = {"true": True, "false": False, "none": None}


def parse_degradation(text: str) -> Degradation:
    """``bicubic``, or ``sensor`` with settings: ``sensor,mtf=0.1..0.35,noise=0.01,bits=8``.

    Parameters
    ----------
    text
        Kind, then ``key=value`` separated by commas; a value is a number, a range ``LO..HI``,
        ``true``, ``false`` or ``none``.

    Raises
    ------
    UsageError
        An unknown kind or key, or a value out of range.
    """
    kind, *settings = (part.strip() for part in text.split(","))
    where = f"degradation {text!r}"
    values: dict[str, Any] = {"kind": kind}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise UsageError(f"{where}: {setting!r} is not key=value")
        if key in values:
            raise UsageError(f"{where}: {key!r} is given twice")
        values[key] = _value(value, where)
    return degradation_from_dict(values, where)


def _value(text: str, where: str) -> Any:
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    low, dots, high = text.partition("..")
    try:
        return [_number(low), _number(high)] if dots else _number(text)
    except ValueError:
        raise UsageError(
            f"{where}: {text!r} is not a number, a range LO..HI, true, false or none"
        ) from None


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)

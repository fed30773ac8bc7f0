"""The degradations a recipe can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from georsr.errors import UsageError
from georsr.training.data.degrade import Bicubic, Degradation
from georsr.training.data.fields import from_fields
from georsr.training.data.imaging_chain import ImagingChain
from georsr.training.data.sensor import Sensor
from georsr.types import FloatArray


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
    return from_fields(Bicubic, values, where)


def _mixture(values: Any, where: str) -> Degradation:
    parts = values.pop("of", None)
    if values:
        raise UsageError(f"{where}: unknown key {sorted(map(str, values))[0]!r}; known: of")
    if not isinstance(parts, list) or len(parts) < 2:
        raise UsageError(f"{where}: 'of' is {parts!r}, expected a list of two degradations or more")
    return Mixture(tuple(degradation_from_mapping(part, f"{where}: of") for part in parts))


KINDS = {
    "bicubic": _bicubic,
    "sensor": Sensor.from_mapping,
    "imaging-chain": ImagingChain.from_mapping,
    "mixture": _mixture,
}


def degradation_from_mapping(values: Any, where: str) -> Degradation:
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
    if kind not in KINDS:
        raise UsageError(
            f"{where}: expected 'kind: ' with one of {', '.join(KINDS)}, got {values!r}"
        )
    rest = {key: value for key, value in values.items() if key != "kind"}
    return KINDS[kind](rest, where)

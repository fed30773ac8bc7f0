"""The degradations a recipe can name."""

from __future__ import annotations

from typing import Any

from georsr.errors import UsageError
from georsr.training.data.degrade import Bicubic, Degradation
from georsr.training.data.fields import from_fields
from georsr.training.data.sensor import Sensor


def _bicubic(values: Any, where: str) -> Degradation:
    return from_fields(Bicubic, values, where)


KINDS = {"bicubic": _bicubic, "sensor": Sensor.from_mapping}


def degradation_from_mapping(values: Any, where: str) -> Degradation:
    """Build the degradation that ``to_mapping`` described.

    Parameters
    ----------
    values
        ``{"kind": "bicubic"}`` or ``{"kind": "sensor", "mtf": [0.1, 0.35], ...}``.
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

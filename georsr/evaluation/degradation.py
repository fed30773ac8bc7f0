"""Degradations as the command line spells them."""

from __future__ import annotations

from typing import Any

from georsr.errors import UsageError
from georsr.training.data.degradations import degradation_from_mapping
from georsr.training.data.degrade import Degradation

WORDS = {"true": True, "false": False, "none": None}


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
    return degradation_from_mapping(values, where)


def _value(text: str, where: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
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

"""Frozen settings from plain mappings: what a recipe's sections have in common."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from georsr.errors import UsageError

T = TypeVar("T")


def check_fraction(key: str, value: Any) -> None:
    """Refuse what is not a number of 0 to 1."""
    if not (is_number(value) and 0 <= value <= 1):
        raise UsageError(f"{key} is {value!r}, expected a share of 0 to 1")


def check_range(key: str, given: Any, lowest: float, highest: float) -> None:
    """Refuse what is not two numbers, the lower one first, inside the limits."""
    if not (isinstance(given, tuple) and len(given) == 2 and all(map(is_number, given))):
        raise UsageError(f"{key} is {given!r}, expected two numbers, lowest and highest")
    if not lowest <= given[0] <= given[1] <= highest:
        raise UsageError(
            f"{key} is {list(given)}, expected lowest and highest in {lowest}..{highest}"
        )


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def from_dict(cls: type[T], values: Any, where: str) -> T:
    """Build a dataclass whose ``__post_init__`` checks its values.

    Parameters
    ----------
    cls
        A dataclass without mandatory fields.
    values
        Mapping of field names to plain values, as YAML or JSON gives them; lists become tuples.
    where
        Names the source in errors.

    Raises
    ------
    UsageError
        ``values`` is not a mapping, has an unknown key, or a value is refused.
    """
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected 'key: value' lines, got {values!r}")
    if unknown := [str(key) for key in values if key not in known]:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    plain = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    try:
        return cls(**plain)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error

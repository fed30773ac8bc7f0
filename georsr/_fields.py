"""Build frozen dataclasses from plain mappings, such as the sections of a recipe, with checks."""

from __future__ import annotations

import types
import typing
from dataclasses import fields
from typing import Any, Literal, TypeVar

from georsr.errors import UsageError

T = TypeVar("T")


def check_fraction(key: str, value: Any) -> None:
    """Raise unless ``value`` is a number from 0 to 1."""
    if not (is_number(value) and 0 <= value <= 1):
        raise UsageError(f"{key} is {value!r}, expected a fraction from 0 to 1")


def check_range(key: str, value: Any, lowest: float, highest: float) -> None:
    """Raise unless ``value`` is a tuple of two numbers in ascending order within the limits."""
    if not (isinstance(value, tuple) and len(value) == 2 and all(map(is_number, value))):
        raise UsageError(f"{key} is {value!r}, expected two numbers, lowest and highest")
    if not lowest <= value[0] <= value[1] <= highest:
        raise UsageError(
            f"{key} is {list(value)}, expected lowest and highest in {lowest}..{highest}"
        )


def is_number(value: Any) -> bool:
    """Return whether ``value`` is an int or a float, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def from_dict(cls: type[T], values: Any, context: str) -> T:
    """Build a dataclass whose ``__post_init__`` checks its values.

    Parameters
    ----------
    cls
        Dataclass without mandatory fields.
    values
        Mapping of field names to plain values, as read from YAML or JSON; lists become tuples.
    context
        Source of the values, for error messages.

    Raises
    ------
    UsageError
        ``values`` is not a mapping, has an unknown key, or a value is refused.
    """
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise UsageError(f"{context}: expected 'key: value' lines, got {values!r}")
    if unknown := [str(key) for key in values if key not in known]:
        raise UsageError(f"{context}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    plain = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    try:
        return cls(**plain)
    except UsageError as error:
        raise UsageError(f"{context}: {error}") from error


def has_type(value: Any, kind: Any) -> bool:
    """Return whether a value parsed from JSON has the annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin is types.UnionType:
        return any(has_type(value, member) for member in arguments)
    if origin is tuple:
        any_length = arguments[-1] is Ellipsis
        return (
            isinstance(value, list)
            and (any_length or len(value) == len(arguments))
            and all(has_type(item, arguments[0]) for item in value)
        )
    if origin is dict:
        return isinstance(value, dict) and all(has_type(v, arguments[1]) for v in value.values())
    if isinstance(value, bool):
        return kind in (bool, Any)
    return kind is Any or isinstance(value, (int, float) if kind is float else kind)

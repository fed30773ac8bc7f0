"""Frozen settings from plain mappings: what a recipe's sections have in common."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from georsr.errors import UsageError

T = TypeVar("T")


def from_fields(cls: type[T], values: Any, where: str) -> T:
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

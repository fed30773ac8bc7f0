"""JSON lines: files that grow by whole lines, and are believed up to the first that is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from georsr._files import open_own

HASHED = ("source",)
"""Parts of a key whose values say nothing to people."""


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield entries up to the first that is not whole.

    Raises
    ------
    OutputError
        Something else than a file of ours is in its place.
    """
    try:
        with open_own(path) as file:
            data = file.read()
    except FileNotFoundError:
        return
    for text in data.split(b"\n")[:-1]:
        try:
            entry = json.loads(text)
        except ValueError:
            return
        if not isinstance(entry, dict):
            return
        yield entry


def line(entry: Mapping[str, Any]) -> bytes:
    """An entry as it is appended."""
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """In what the keys of two runs differ, for people."""
    return [
        f"{name} was {theirs.get(name)}, is {ours.get(name)}"
        if name not in HASHED
        else f"the {name} is not the same"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]

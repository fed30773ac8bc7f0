"""JSON lines: files that grow by whole lines, and are believed up to the first that is not
as it was written."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from georsr._files import open_own

CHECKSUM = "crc32"
"""Name of the last value of a line: of the line without it."""
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
        except (ValueError, RecursionError):
            return
        # a line that was changed may still be JSON, and say what is not so
        if not isinstance(entry, dict) or line(_without_checksum(entry)) != text + b"\n":
            return
        yield _without_checksum(entry)


def _without_checksum(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != CHECKSUM}


def line(entry: Mapping[str, Any]) -> bytes:
    """An entry as it is appended."""
    text = json.dumps(entry, separators=(",", ":"))
    whole = {**entry, CHECKSUM: zlib.crc32(text.encode())}
    return json.dumps(whole, separators=(",", ":")).encode() + b"\n"


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """In what the keys of two runs differ, for people."""
    return [
        f"{name} was {theirs.get(name)}, is {ours.get(name)}"
        if name not in HASHED
        else f"the {name} is not the same"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]

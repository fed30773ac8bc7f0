"""Which rasters are meant: folders, patterns, lists and paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from georsr.errors import InputError, UsageError
from georsr.raster.env import is_remote

SUFFIXES = (".tif", ".tiff", ".jp2")
"""Of the rasters taken from a folder."""


def raster_paths(entries: Sequence[str]) -> list[str]:
    """Paths of rasters, each once, in the order of the entries.

    Parameters
    ----------
    entries
        - a folder: every ``.tif``, ``.tiff`` and ``.jp2`` in and below it, sorted;
        - a pattern with ``*``, ``?``, ``[`` or ``**``: every file it matches, sorted;
        - a ``.txt`` file: one path a line, relative to the list's folder, ``#`` begins a comment;
        - anything else: what GDAL opens, taken as it is.

    Raises
    ------
    UsageError
        No entry at all, or a pattern or a list without any raster.
    InputError
        A folder without rasters, or a list that cannot be read.
    """
    if not entries:
        raise UsageError("data: no raster is given; name a folder, a pattern, a list or a file")
    found = [path for entry in entries for path in _expand(entry)]
    return list(dict.fromkeys(found))


def _expand(entry: str) -> list[str]:
    path = Path(entry)
    if path.is_dir():
        inside = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise InputError(f"{entry}: no rasters in this folder ({', '.join(SUFFIXES)})")
        return inside
    if path.suffix.lower() == ".txt":
        return _listed(path)
    if any(sign in entry for sign in "*?[") and not path.exists() and not is_remote(entry):
        start = Path(path.anchor)
        matched = sorted(str(p) for p in start.glob(str(path.relative_to(start))) if p.is_file())
        if not matched:
            raise UsageError(f"{entry}: no file matches this pattern")
        return matched
    return [entry]


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a list of rasters: {error}") from error
    names = [line.split("#")[0].strip() for line in lines]
    paths = [name if "://" in name else str(path.parent / name) for name in names if name]
    if not paths:
        raise UsageError(f"{path}: the list names no raster")
    return paths

"""Report files: refused before the work starts, or written whole."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from georsr.errors import OutputError, UsageError


def check_document(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that cannot or must not be written; nothing is changed.

    Raises
    ------
    UsageError
        The file exists and must not be overwritten.
    OutputError
        It is a folder, or its folder is missing or cannot be written to.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a directory; name a file in it")
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path}: file exists and won't be overwritten without use of the `--overwrite` option"
        )
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; create it first")
    probe = _part(path)
    try:
        # permission bits do not tell the truth on every file system
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        why = error.strerror or error
        raise OutputError(
            f"{path}: the folder {path.parent} cannot be written to: {why}"
        ) from error


def write_document(path: Path, text: str) -> None:
    """Write UTF-8 text to a temporary file beside ``path`` and rename it.

    Raises
    ------
    OutputError
        It could not be written; ``path`` is what it was.
    """
    part = _part(path)
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    """In the same folder, since a rename is atomic within a file system only."""
    return path.with_name(f".{path.name[:120]}.{os.getpid()}-{secrets.token_hex(4)}.part")

"""Memory, and room for temporary files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from georsr.doctor.finding import Finding, State

LITTLE = 2**30
"""Bytes of free disk below which large products get into trouble."""


def findings() -> Iterator[Finding]:
    """The folder of temporary files, and the current one."""
    yield folder_finding("temporary files", Path(tempfile.gettempdir()), State.PROBLEM)
    yield folder_finding("current folder", Path.cwd(), State.NOTE)


def folder_finding(name: str, folder: Path, unwritable: State) -> Finding:
    """Whether a folder can be written to, and the room in it.

    Parameters
    ----------
    unwritable
        How bad it is if it cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
    except OSError as error:
        text = f"{folder} cannot be written to ({error.strerror or error})"
        remedy = "name products in another folder"
        if unwritable is State.PROBLEM:
            remedy = "set TMPDIR (TEMP on Windows) to a folder with room"
        return Finding(name, unwritable, text, remedy)
    free = shutil.disk_usage(folder).free
    text = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < LITTLE:
        return Finding(name, State.WARNING, text, "a product at 4x has 16 times the pixels")
    return Finding(name, State.OK, text)

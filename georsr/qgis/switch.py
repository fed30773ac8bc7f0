"""Which plugins a profile has switched on: one section of its settings, edited by lines.

Everything else in that file stays as it is, byte for byte: it is QGIS's own. A running QGIS merges
what changes in the file meanwhile, and loads plugins at its start.
"""

from __future__ import annotations

import re
from pathlib import Path

from georsr._files import atomic_write
from georsr.errors import OutputError
from georsr.qgis.profiles import Profile

SECTION = "[PythonPlugins]"


def is_on(profile: Profile, plugin: str) -> bool:
    """Whether a plugin is switched on."""
    try:
        text = profile.settings.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    lines = text.splitlines()
    return any(re.fullmatch(rf"{plugin}\s*=\s*true\s*", lines[n]) for n in _inside(lines))


def switch(profile: Profile, plugin: str, on: bool) -> None:
    """Switch a plugin on, or forget it.

    Raises
    ------
    OutputError
        The settings cannot be read or written; they stay as they were.
    """
    path = profile.settings
    try:
        text = path.read_bytes().decode("utf-8") if path.exists() else ""
        changed = switched(text, plugin, on)
        if changed != text:
            _replace(path, changed)
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{path}: the settings of QGIS cannot be changed ({error}); switch the plugin on in "
            "QGIS: Plugins > Manage and Install Plugins > Installed"
        ) from error


def switched(text: str, plugin: str, on: bool) -> str:
    """Text of a settings file with the plugin switched on, or without it."""
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines()
    ours = {n for n in _inside(lines) if re.match(rf"{plugin}\s*=", lines[n])}
    kept = [line for n, line in enumerate(lines) if n not in ours]
    if on:
        if SECTION not in kept:
            kept += ["", SECTION] if kept else [SECTION]
        kept.insert(kept.index(SECTION) + 1, f"{plugin}=true")
    elif not ours:
        return text
    return end.join(kept) + end


def _inside(lines: list[str]) -> list[int]:
    """Numbers of the lines in the section of plugins."""
    section, found = "", []
    for number, line in enumerate(lines):
        if line.startswith("["):
            section = line.strip()
        elif section == SECTION:
            found.append(number)
    return found


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as fresh:
        fresh.write_bytes(text.encode())

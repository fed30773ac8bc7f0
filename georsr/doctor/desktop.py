"""QGIS: whether it is here, and whether its plugin is the one of this georsr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from georsr.doctor.finding import Finding, State
from georsr.provenance import georsr_version
from georsr.qgis.plugin import PLUGIN, RECORD, plugin_version
from georsr.qgis.profiles import Profile, find_profiles
from georsr.qgis.switch import is_on


def findings() -> Iterator[Finding]:
    """QGIS, then the plugin in every profile."""
    programs = find_qgis()
    profiles = find_profiles()
    if not programs and not profiles:
        yield Finding("QGIS", State.NOTE, "not found", "only if you want it: https://qgis.org")
        return
    yield Finding("QGIS", State.OK, ", ".join(programs) or "profiles of it")
    if not profiles:
        remedy = "start QGIS once, then run georsr qgis install"
        yield Finding("QGIS plugin", State.NOTE, "QGIS has no profile yet", remedy)
    installed = [profile for profile in profiles if (profile.plugins / PLUGIN).exists()]
    yield from map(plugin_finding, installed)
    if profiles and not installed:
        yield Finding("QGIS plugin", State.NOTE, "not installed", "georsr qgis install")


def find_qgis() -> list[str]:
    """Programs of QGIS on this machine."""
    found = [path for path in map(shutil.which, ("qgis", "qgis-ltr")) if path]
    if sys.platform == "darwin":
        found += map(str, sorted(Path("/Applications").glob("QGIS*.app")))
    elif sys.platform == "win32":
        for root in (Path("C:/Program Files"), Path("C:/OSGeo4W")):
            found += map(str, sorted(root.glob("QGIS *")) or sorted(root.glob("bin/qgis*-bin.exe")))
    return found


def plugin_finding(profile: Profile) -> Finding:
    """Whether the plugin in a profile is on, of this version, and finds its georsr."""
    folder = profile.plugins / PLUGIN
    version, own = plugin_version(folder), georsr_version()
    name, again = (
        f"QGIS plugin ({profile.qgis} {profile.name})".replace("( ", "("),
        (f"georsr qgis install --profile {profile.name}"),
    )
    if version != own:
        text = f"is of version {version or 'unknown'}, this georsr is {own}"
        return Finding(name, State.WARNING, text, again)
    if not is_on(profile, PLUGIN):
        return Finding(name, State.WARNING, f"{version}, but switched off", again)
    program = _recorded(folder)
    if program is not None and not program.is_file():
        text = f"{version}, but the georsr that installed it, {program}, is gone"
        return Finding(name, State.WARNING, text, again)
    return Finding(name, State.OK, f"{version}, switched on")


def _recorded(folder: Path) -> Path | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Path(record["command"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None

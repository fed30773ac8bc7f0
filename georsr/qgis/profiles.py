"""Profiles of QGIS: where each user's plugins and settings are, on every system."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from georsr.errors import UsageError

VERSIONS = ("QGIS4", "QGIS3")
"""Folders of the major versions, the newer one first."""
DEFAULT = "default"


@dataclass(frozen=True)
class Profile:
    """One profile.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    @property
    def name(self) -> str:
        """What QGIS calls it."""
        return self.folder.name

    @property
    def qgis(self) -> str:
        """``QGIS3`` or ``QGIS4``; empty where the folder stands alone."""
        parent = self.folder.parent.parent.name
        return parent if parent in VERSIONS else ""

    @property
    def plugins(self) -> Path:
        """Folder of its Python plugins."""
        return self.folder / "python" / "plugins"

    @property
    def settings(self) -> Path:
        """File of its settings; it need not exist yet."""
        found = sorted((self.folder / "QGIS").glob("QGIS*.ini"))
        return found[-1] if found else self.folder / "QGIS" / f"{self.qgis or 'QGIS3'}.ini"


def data_folders(
    environ: Mapping[str, str] | None = None, platform: str = sys.platform
) -> list[Path]:
    """Folders in which installations of QGIS keep their profiles, whether they exist or not.

    Parameters
    ----------
    environ
        ``os.environ`` by default.
    platform
        As ``sys.platform``.
    """
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or Path.home())
    if platform == "win32":
        roaming = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
        bases = [roaming / "QGIS"]
    elif platform == "darwin":
        bases = [home / "Library" / "Application Support" / "QGIS"]
    else:
        data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
        flatpak = home / ".var" / "app" / "org.qgis.qgis" / "data"
        bases = [data / "QGIS", flatpak / "QGIS"]
    return [base / version for base in bases for version in VERSIONS]


def find_profiles(
    environ: Mapping[str, str] | None = None, platform: str = sys.platform
) -> list[Profile]:
    """Profiles of this user, newer QGIS first, the default one first in each."""
    found: list[Profile] = []
    for data in data_folders(environ, platform):
        folders = [path for path in sorted((data / "profiles").glob("*")) if path.is_dir()]
        folders.sort(key=lambda path: path.name != DEFAULT)
        found += map(Profile, folders)
    return found


def choose_profiles(name: str | None) -> list[Profile]:
    """Profiles that a user means: all of a name, ``default`` without one, or a folder.

    Raises
    ------
    UsageError
        There is none of that name; the message lists those there are.
    """
    if name is not None and (os.sep in name or "/" in name):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder; expected that of a QGIS profile")
        return [Profile(folder)]
    profiles = find_profiles()
    chosen = [profile for profile in profiles if profile.name == (name or DEFAULT)]
    if chosen:
        return chosen
    if profiles:
        names = ", ".join(sorted({profile.name for profile in profiles}))
        raise UsageError(
            f"QGIS has no profile {name or DEFAULT!r}; choose one with --profile: {names}"
        )
    raise UsageError(
        "no profile of QGIS was found: start QGIS once, or name the folder of a profile with "
        "--profile (in QGIS: Settings > User Profiles > Open Active Profile Folder)"
    )

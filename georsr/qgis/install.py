"""The plugin: its files, and how they get into a profile and into an archive.

Profiles of QGIS: where each user's plugins and settings are, on every system.

Which plugins a profile has switched on: one section of its settings, edited by lines.

Everything else in that file stays as it is, byte for byte: it is QGIS's own. A running QGIS merges
what changes in the file meanwhile, and loads plugins at its start.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import secrets
import shutil
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

from georsr._files import atomic_write, check_writable
from georsr.errors import OutputError, UsageError

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
        files = sorted((self.folder / "QGIS").glob("QGIS*.ini"))
        return files[-1] if files else self.folder / "QGIS" / f"{self.qgis or 'QGIS3'}.ini"


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


def find_profiles() -> list[Profile]:
    """Profiles of this user, newer QGIS first, the default one first in each."""
    profiles: list[Profile] = []
    for data in data_folders():
        folders = [path for path in sorted((data / "profiles").glob("*")) if path.is_dir()]
        folders.sort(key=lambda path: path.name != DEFAULT)
        profiles += map(Profile, folders)
    return profiles


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


SECTION = "[PythonPlugins]"


def is_enabled(profile: Profile, plugin: str) -> bool:
    """Whether a plugin is switched on."""
    try:
        text = profile.settings.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    lines = text.splitlines()
    return any(re.fullmatch(rf"{plugin}\s*=\s*true\s*", lines[n]) for n in _inside(lines))


def set_plugin_enabled(profile: Profile, plugin: str, on: bool) -> None:
    """Switch a plugin on, or forget it.

    Raises
    ------
    OutputError
        The settings cannot be read or written; they stay as they were.
    """
    path = profile.settings
    try:
        text = path.read_bytes().decode("utf-8") if path.exists() else ""
        changed = edit_ini(text, plugin, on)
        if changed != text:
            _replace(path, changed)
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{path}: the settings of QGIS cannot be changed ({error}); switch the plugin on in "
            "QGIS: Plugins > Manage and Install Plugins > Installed"
        ) from error


def edit_ini(text: str, plugin: str, on: bool) -> str:
    """Return the text of a settings file with the plugin switched on or off."""
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines()
    entries = {n for n in _inside(lines) if re.match(rf"{plugin}\s*=", lines[n])}
    kept = [line for n, line in enumerate(lines) if n not in entries]
    if on:
        if SECTION not in kept:
            kept += ["", SECTION] if kept else [SECTION]
        kept.insert(kept.index(SECTION) + 1, f"{plugin}=true")
    elif not entries:
        return text
    return end.join(kept) + end


def _inside(lines: list[str]) -> list[int]:
    """Numbers of the lines in the section of plugins."""
    section, numbers = "", []
    for number, line in enumerate(lines):
        if line.startswith("["):
            section = line.strip()
        elif section == SECTION:
            numbers.append(number)
    return numbers


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as fresh:
        fresh.write_bytes(text.encode())


PLUGIN = "georsr_processing"
"""Name of its folder, by which QGIS knows it."""
WHEEL = "georsr-*.whl"
"""Pattern of the wheel of georsr in the plugin's folder; the plugin has the same."""
RECORD = "installation.json"
"""File in the folder of the plugin that names the georsr command, which the plugin runs."""
SUFFIXES = (".py", ".svg", ".txt", ".html")
NEEDED = ("name", "description", "about", "version", "qgisMinimumVersion", "author")
WANTED = ("email", "tracker", "repository")
"""What plugins.qgis.org asks for as well and only a publisher knows."""
_STAMP = (1980, 1, 1, 0, 0, 0)
"""Of every file in an archive, so that the same files make the same bytes."""


def plugin_folder() -> Path:
    """Folder of the plugin as georsr brings it."""
    spec = find_spec(f"georsr.qgis.{PLUGIN}")
    if spec is None or not spec.submodule_search_locations:
        raise OutputError("this installation of georsr lacks its QGIS plugin; reinstall georsr")
    return Path(next(iter(spec.submodule_search_locations)))


def plugin_files() -> list[Path]:
    """Files of the plugin, relative to its folder."""
    folder = plugin_folder()
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and (path.suffix in SUFFIXES or path.name == "LICENSE")
    )


def metadata(text: str) -> dict[str, str]:
    """Entries of a ``metadata.txt``."""
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return dict(parser["general"])


def plugin_version(folder: Path) -> str | None:
    """Version of the plugin in a folder; None where there is none."""
    try:
        return metadata((folder / "metadata.txt").read_text(encoding="utf-8")).get("version")
    except (OSError, KeyError, configparser.Error, UnicodeDecodeError):
        return None


def georsr_command() -> list[str]:
    """Command that runs this very georsr."""
    script = Path(sys.executable).with_name("georsr.exe" if os.name == "nt" else "georsr")
    return [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "georsr.cli"]


def install(profile: Profile) -> Path:
    """Put the plugin into a profile, in the place of an older one; returns its folder.

    The folder is complete or absent: its files are written into another folder, which is renamed.

    Raises
    ------
    OutputError
        The profile cannot be written to; what was there stays.
    """
    target, source = profile.plugins / PLUGIN, plugin_folder()
    old = profile.plugins / f".{PLUGIN}-{secrets.token_hex(8)}"
    fresh = profile.plugins / f".{PLUGIN}-{secrets.token_hex(8)}"
    try:
        profile.plugins.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        for name in plugin_files():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, fresh / name)
        record = json.dumps({"command": georsr_command()}, indent=2)
        (fresh / RECORD).write_text(record + "\n", encoding="utf-8")
        if target.exists() or target.is_symlink():
            target.rename(old)
        fresh.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        for leftover in (fresh, old):
            remove_folder(leftover)
    return target


def uninstall(profile: Profile) -> bool:
    """Take the plugin out of a profile; False if it was not there.

    Raises
    ------
    OutputError
        It cannot be removed.
    """
    target = profile.plugins / PLUGIN
    if not target.exists() and not target.is_symlink():
        return False
    gone = profile.plugins / f".{PLUGIN}-{secrets.token_hex(4)}"
    try:
        target.rename(gone)
    except OSError as error:
        raise OutputError(f"{target}: cannot be removed ({error.strerror or error})") from error
    remove_folder(gone)
    return True


def remove_folder(folder: Path) -> None:
    """Remove a folder, or the link to one (a developer's), if it is there."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def package(
    destination: Path,
    overwrite: bool = False,
    published: Mapping[str, str] | None = None,
    wheel: Path | None = None,
) -> list[str]:
    """Write the plugin as an archive that QGIS installs from, and plugins.qgis.org takes.

    Parameters
    ----------
    destination
        ``.zip`` to write.
    overwrite
        Replace it if it exists.
    published
        Entries of ``metadata.txt`` that only a publisher knows: email, tracker, repository.
    wheel
        Wheel of georsr, which the plugin then installs where georsr is missing.

    Returns
    -------
    list of str
        Entries that plugins.qgis.org asks for and that are still missing.

    Raises
    ------
    UsageError
        The archive exists, its name does not end in ``.zip``, or ``wheel`` is no wheel of georsr.
    OutputError
        It cannot be written.
    """
    if destination.suffix != ".zip":
        raise UsageError(f"{destination}: the name must end in .zip")
    check_writable(destination, overwrite=overwrite)
    if wheel and not (fnmatch(wheel.name, WHEEL) and zipfile.is_zipfile(wheel)):
        raise UsageError(
            f"{wheel}: is not a wheel of georsr; make one in the folder of the repository with "
            "'pip wheel --no-deps .'"
        )
    folder = plugin_folder()
    described = (folder / "metadata.txt").read_text(encoding="utf-8")
    lines = [f"{name}={text}" for name, text in (published or {}).items() if text]
    described = described.rstrip("\n") + "\n" + "".join(line + "\n" for line in lines)
    try:
        with (
            atomic_write(destination) as fresh,
            zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name in plugin_files():
                data = (folder / name).read_bytes()
                if name.name == "metadata.txt":
                    data = described.encode()
                archive.writestr(_entry(f"{PLUGIN}/{name.as_posix()}"), data)
            if wheel:
                archive.writestr(_entry(f"{PLUGIN}/{wheel.name}"), wheel.read_bytes())
    except OSError as error:
        raise OutputError(
            f"{destination}: cannot be written ({error.strerror or error})"
        ) from error
    present = metadata(described)
    return [name for name in (*NEEDED, *WANTED) if not present.get(name)]


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _STAMP)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry

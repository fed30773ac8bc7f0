"""The plugin: its files, and how they get into a profile and into an archive."""

from __future__ import annotations

import configparser
import json
import os
import secrets
import shutil
import sys
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from georsr._files import atomic_write, check_writable
from georsr.errors import OutputError, UsageError
from georsr.qgis.profiles import Profile

PLUGIN = "georsr_processing"
"""Name of its folder, by which QGIS knows it."""
RECORD = "installation.json"
"""Beside its modules: the command that installed it, and that it therefore runs."""
SUFFIXES = (".py", ".svg", ".txt")
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


def own_command() -> list[str]:
    """Command that runs this very georsr."""
    script = Path(sys.executable).with_name("georsr.exe" if os.name == "nt" else "georsr")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "georsr.cli"]


def install(profile: Profile) -> Path:
    """Put the plugin into a profile, in the place of an older one; returns its folder.

    It is complete there or not there: the files are written beside the place and then renamed.

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
        record = json.dumps({"command": own_command()}, indent=2)
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
    destination: Path, overwrite: bool = False, published: Mapping[str, str] | None = None
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

    Returns
    -------
    list of str
        Entries that plugins.qgis.org asks for and that are still missing.

    Raises
    ------
    UsageError
        The archive exists, or its name does not end in ``.zip``.
    OutputError
        It cannot be written.
    """
    if destination.suffix != ".zip":
        raise UsageError(f"{destination}: the name must end in .zip")
    check_writable(destination, overwrite=overwrite)
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

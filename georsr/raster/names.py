"""Names of files as rasterio and GDAL write them, and what lies there."""

from __future__ import annotations

import posixpath
import re
import stat
from pathlib import Path

_ARCHIVE = re.compile(r"^/vsi(zip|tar|gzip|7z|rar)/")
_SUBDATASET = re.compile(
    r'^(?:NETCDF|HDF5|BAG|GPKG|GTIFF_DIR:(?:off:)?\d+):"?([^"]+?)"?(?::[^"/\\]*|://[^"]*)?$'
)


def gdal_name(path: str) -> str:
    """Return GDAL's name for what rasterio calls ``file://``, ``zip://A!B`` and the like."""
    for scheme in ("zip", "tar", "gzip"):
        if path.startswith(f"{scheme}://"):
            archive, _, inside = path.removeprefix(f"{scheme}://").partition("!")
            return f"/vsi{scheme}/{archive}/{inside.lstrip('/')}".rstrip("/")
    return path.removeprefix("file://")


def file_of_subdataset(name: str) -> str | None:
    """Return the file in GDAL's name of a subdataset, ``NETCDF:"a.nc":band``; None for others."""
    match = _SUBDATASET.match(name)
    return match[1] if match else None


def folder_of(name: str) -> str:
    """Return the folder of a file, also of GDAL's virtual file systems and of addresses."""
    if name.startswith("/vsi") or "://" in name:
        return name.rpartition("/")[0]
    return str(Path(name).parent)


def join(folder: str, name: str) -> str:
    """Return the name of a file in a folder of any kind; an absolute name stays what it is."""
    if folder.startswith("/vsi") or "://" in folder:
        return posixpath.join(folder, name)
    return str(Path(folder) / name)


def archive_of(name: str) -> str | None:
    """Return the local archive in which a name of ``/vsizip/`` and the like lies; None if none."""
    while _ARCHIVE.match(name):
        name = _ARCHIVE.sub("", name, count=1)
    if name.startswith("/vsi") or ".." in name.split("/"):
        return None
    path = Path(name)
    return next((str(part) for part in (path, *path.parents) if is_regular(str(part))), None)


def is_regular(name: str) -> bool:
    """Return whether a name is that of a regular file of this machine."""
    try:
        return stat.S_ISREG(Path(name).stat().st_mode)
    except (OSError, ValueError):
        return False


def start_of(name: str) -> bytes:
    """Return the first 1024 bytes of a regular file, none of anything else."""
    try:
        if not is_regular(name):
            return b""
        with Path(name).open("rb") as handle:
            return handle.read(1024)
    except OSError:
        return b""


def one_line(text: str) -> str:
    """Return text of a file for a message: one line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= 120 else f"{line[:117]}..."

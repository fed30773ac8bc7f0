"""Opening a source, and saying clearly why one cannot be opened or read."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from georsr.errors import GeorsrError, InputError, UsageError
from georsr.raster.drivers import NETWORK_DRIVERS, Trust, image_drivers, open_with
from georsr.raster.env import cause, own_warnings
from georsr.raster.hdf5 import check_hdf5
from georsr.raster.names import file_of_subdataset, gdal_name, is_sqlite_with_log, start_of
from georsr.raster.sentinel2 import (
    PART,
    check_files,
    check_images,
    find_product,
    open_product,
)
from georsr.raster.sidecars import check_dataset, check_sidecars, has_sidecars
from georsr.raster.vrt_sources import open_vrt

_MISSING = re.compile(
    r"No such file or directory|does not exist in the file system|HTTP response code: 404"
)
# NETCDF:"a.nc":band, GTIFF_DIR:1:a.tif: two capitals at least, so that C: stays a drive
_SUBDATASET = re.compile(r"^[A-Z][A-Z0-9_]+:")
_TIFF = (".tif", ".tiff")
_DOCUMENTS = (
    (b"<VRTDataset", "VRT", "VRT"),
    (b"<MRF_META", "MRF", "MRF"),
    (b"<GDAL_WMS", "WMS", "WMS"),
    (b"<GDALTileIndexDataset", "GTI", "tile index (GTI)"),
)
"""What a document begins with, and the driver that would follow it."""


def open_source(path: str, allow_drivers: Sequence[str] | None = None) -> Any:
    """Open ``path`` for reading and give the rasterio dataset; the caller closes it.

    A product of Sentinel-2 (SAFE folder, its metadata, or an archive of it) is opened as one raster
    of its bands of 10 m and 20 m: see `georsr.raster.sentinel2`.

    Only formats that refer to no other file are read (`georsr.raster.drivers`), and a VRT, which
    must be called ``.vrt``, after its document and all its files have been checked
    (`georsr.raster.vrt_sources`). A ``.tif`` is only ever given to the GeoTIFF driver.

    Parameters
    ----------
    path : str
        A file, an address, a name of GDAL's virtual file systems, or a subdataset.
    allow_drivers : sequence of str, optional
        Further GDAL drivers that may read it. ``VRT``: a VRT is trusted, under any name, and its
        files may lie anywhere on this machine.

    Raises
    ------
    UsageError
        Nothing is there, or it would make GDAL read what was not asked for.
    InputError
        Something is there, but it is not a readable raster.
    """
    trust = Trust(tuple(allow_drivers or ()))
    drivers = image_drivers(trust.extra)
    metadata = find_product(path)
    if metadata is not None:
        return open_product(path, metadata)
    name = gdal_name(path)
    if part := PART.match(path):
        check_images(part["metadata"])
    check_sidecars(name, trust)
    try:
        if _is_vrt(name, trust):
            dataset = _open_vrt(name, trust)
        else:
            _check_kind(path, name, trust)
            with own_warnings():
                dataset = open_with(path, _drivers_for(name, drivers, trust))
    except (RasterioError, ValueError, OSError) as error:
        if isinstance(error, GeorsrError):
            raise
        raise _explain(path, error, trust) from error
    try:
        check_dataset(dataset, name, trust)
        if part:
            check_files(path, [dataset])
    except BaseException as error:
        dataset.close()
        if isinstance(error, RasterioError):
            raise InputError(f"{path}: cannot be read: {cause(error)}") from error
        raise
    return dataset


def _is_vrt(name: str, trust: Trust) -> bool:
    if name.startswith("vrt://") or _suffix(name) == ".vrt":
        return True
    return trust.vrt and start_of(name).lstrip().startswith(b"<VRTDataset")


def _open_vrt(name: str, trust: Trust) -> Any:
    """Open a VRT, or ``vrt://FILE?OPTIONS``, whose file is opened by itself first."""
    if not name.startswith("vrt://"):
        return open_vrt(name, trust)
    file, _, options = name.removeprefix("vrt://").partition("?")
    if re.search(r"(^|&)sd(_name)?=", options, re.IGNORECASE):  # which a file may name elsewhere
        raise UsageError(f"{name}: has the option sd, expected the name of the subdataset itself")
    open_source(file, trust.extra).close()
    with own_warnings():
        return rasterio.open(name, driver="VRT")


def _check_kind(path: str, name: str, trust: Trust) -> None:
    """Refuse what is not to be opened at all: pipes and devices, HDF5 with external data."""
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError):
        mode = 0
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is a pipe or a device, expected a file")
    if trust.extra or _suffix(name) not in _TIFF:
        check_hdf5(name, trust)
    if "GPKG" not in trust.extra and is_sqlite_with_log(file_of_subdataset(name) or name):
        raise InputError(
            f"{path}: is a database of SQLite in WAL mode, which cannot be read without writing "
            f"beside it; turn that off first: sqlite3 {path} 'PRAGMA journal_mode=DELETE'"
        )


def _drivers_for(name: str, drivers: list[str], trust: Trust) -> list[str]:
    if PART.match(name):
        return ["SENTINEL2"]
    if _suffix(name) in _TIFF:
        return ["GTiff", *(driver for driver in trust.extra if driver != "GTiff")]
    if not has_sidecars(name):
        return [name for name in drivers if name in NETWORK_DRIVERS or name in trust.extra]
    return drivers


def _suffix(path: str) -> str:
    if _SUBDATASET.match(path) or path.startswith("vrt://"):
        return ""
    return Path(path.split("?", 1)[0]).suffix.lower()


def _explain(path: str, err: Exception, trust: Trust) -> Exception:
    said = cause(err)
    if isinstance(err, UnicodeEncodeError):
        return UsageError(f"{path}: its name is not UTF-8, which rasterio needs; rename the file")
    if _MISSING.search(said):
        return UsageError(f"{path}: no such file")
    try:
        if Path(path).is_dir():
            return InputError(f"{path}: is a directory, not a raster that GDAL can read")
        if Path(path).is_file():
            start = start_of(path)
            if not start:
                with Path(path).open("rb") as file:  # says why it cannot be read
                    if not file.read(1):
                        return InputError(f"{path}: the file is empty")
            for mark, driver, what in _DOCUMENTS:
                if mark in start and driver not in trust.extra:
                    return UsageError(
                        f"{path}: is a {what} document under another name; it could point at any "
                        f"file or address. Use --allow-driver {driver} if you trust it"
                    )
    except OSError as reason:
        return InputError(f"{path}: cannot be read: {reason.strerror or reason}")
    return InputError(
        f"{path}: not a raster of a format that georsr reads: {said}; other formats of GDAL are "
        "read with --allow-driver NAME"
    )

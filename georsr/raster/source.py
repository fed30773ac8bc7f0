"""Opening a source, and saying clearly why one cannot be opened or read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from georsr.errors import InputError, UsageError
from georsr.raster.env import cause, own_warnings
from georsr.raster.sentinel2 import DRIVER, PART, check_files, find_product, open_product

_MISSING = re.compile(
    r"No such file or directory|does not exist in the file system|HTTP response code: 404"
)
# NETCDF:"a.nc":band, GTIFF_DIR:1:a.tif: two capitals at least, so that C: stays a drive
_SUBDATASET = re.compile(r"^[A-Z][A-Z0-9_]+:")


def open_source(path: str, allow_drivers: Sequence[str] | None = None) -> Any:
    """Open ``path`` for reading and give the rasterio dataset; the caller closes it.

    A product of Sentinel-2 (SAFE folder, its metadata, or an archive of it) is opened as one raster
    of its bands of 10 m and 20 m: see `georsr.raster.sentinel2`.

    A VRT can name any file or address of the machine as its pixels. One that is called ``.vrt``
    (or ``vrt://``) was asked for; one hidden behind another name is refused, and a ``.tif`` is
    therefore only ever given to the GeoTIFF driver.

    Parameters
    ----------
    path : str
        Anything GDAL reads.
    allow_drivers : sequence of str, optional
        Only these GDAL drivers, tried in this order.

    Raises
    ------
    UsageError
        Nothing is there, or a driver that is not allowed would be needed.
    InputError
        Something is there, but it is not a readable raster.
    """
    if allow_drivers is not None and not allow_drivers:
        raise UsageError(f"{path}: the list of allowed drivers is empty")
    metadata = find_product(path)
    if metadata is not None:
        if allow_drivers is not None and DRIVER not in allow_drivers:
            raise UsageError(
                f"{path}: is a product of Sentinel-2, which the drivers allowed "
                f"({', '.join(allow_drivers)}) do not read; allow {DRIVER}"
            )
        return open_product(path, metadata)
    drivers: Sequence[str | None] = allow_drivers or (
        ["GTiff"] if _suffix(path) in (".tif", ".tiff") else [None]
    )
    failure: Exception | None = None
    for driver in drivers:
        try:
            with own_warnings():
                dataset = rasterio.open(path, driver=driver)
        except (RasterioError, OSError, ValueError) as err:
            failure = err
            continue
        if allow_drivers is None and dataset.driver == "VRT" and not _says_vrt(path):
            dataset.close()
            raise _hidden_vrt(path)
        return _checked(dataset, path)
    assert failure is not None
    raise _explain(path, failure, allow_drivers) from failure


def _checked(dataset: Any, path: str) -> Any:
    if PART.match(path):
        try:
            check_files(path, [dataset])
        except InputError:
            dataset.close()
            raise
    return dataset


def _suffix(path: str) -> str:
    if _SUBDATASET.match(path) or path.startswith("vrt://"):
        return ""
    return Path(path.split("?", 1)[0]).suffix.lower()


def _says_vrt(path: str) -> bool:
    return path.startswith("vrt://") or _suffix(path) == ".vrt"


def _hidden_vrt(path: str) -> UsageError:
    return UsageError(
        f"{path}: is a VRT document under another name; it could point at any file. "
        "Rename it to .vrt, or allow the VRT driver, if you trust it"
    )


def _explain(path: str, err: Exception, allowed: Sequence[str] | None) -> Exception:
    said = cause(err)
    if _MISSING.search(said):
        return UsageError(f"{path}: no such file")
    try:
        if Path(path).is_dir():
            return InputError(f"{path}: is a directory, not a raster that GDAL can read")
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                start = file.read(1024)
            if not start:
                return InputError(f"{path}: the file is empty")
            if allowed is None and b"<VRTDataset" in start:
                return _hidden_vrt(path)
    except OSError as reason:
        return InputError(f"{path}: cannot be read: {reason.strerror or reason}")
    tried = f" by the drivers allowed ({', '.join(allowed)})" if allowed else ""
    return InputError(f"{path}: not a raster that can be opened{tried}: {said}")

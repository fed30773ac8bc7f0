"""Turning the file that was written block by block into a cloud-optimised GeoTIFF."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import rasterio.shutil
from rasterio.errors import RasterioIOError

from georsr._files import atomic_write
from georsr.raster.env import gdal_env, own_warnings
from georsr.raster.layout import ProductLayout


def write_cog(source: Path, target: Path, layout: ProductLayout) -> None:
    """Copy ``source`` to ``target`` with overviews, by GDAL's COG driver.

    The names of GDAL's own intermediate files begin like that of ``target``; the caller removes
    what a failure leaves of them.
    Errors are those of rasterio.
    """
    assert layout.cog_options is not None
    # GDAL follows links: it gets a name at which nobody has laid one
    with atomic_write(target) as fresh, gdal_env(writing=True), own_warnings(), _silent_libtiff():
        try:
            rasterio.shutil.copy(str(source), str(fresh), driver="COG", **layout.cog_options)
        except Exception as err:
            # rasterio lets some of GDAL's own errors through here, which are none of rasterio's
            if not type(err).__name__.startswith("CPLE_"):
                raise
            raise RasterioIOError(str(err)) from err


@contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Keep libtiff from printing on its own, as it does where a disk is full, what GDAL raises.

    GDAL listens to the files it opens; what libtiff's functions for writing them say goes to a
    handler of the whole process, which prints. Where libtiff is not a library of its own (it may
    be part of GDAL's) it is left alone.
    """
    handlers = []
    with suppress(OSError):  # it is Linux that lists what is loaded
        loaded = Path("/proc/self/maps").read_text()
        for path in sorted(set(re.findall(r"/.*/libtiff[^/]*\.so[^/]*$", loaded, re.MULTILINE))):
            with suppress(OSError, AttributeError):
                handler = ctypes.CDLL(path).TIFFSetErrorHandler
                handler.restype, handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
                handlers.append((handler, handler(None)))
    try:
        yield
    finally:
        for handler, before in handlers:
            handler(before)

"""Turning the file that was written block by block into a cloud-optimised GeoTIFF."""

from __future__ import annotations

from pathlib import Path

import rasterio.shutil
from rasterio.errors import RasterioIOError

from georsr.raster.env import gdal_env, own_warnings
from georsr.raster.layout import ProductLayout


def write_cog(source: Path, target: Path, layout: ProductLayout) -> None:
    """Copy ``source`` to ``target`` with overviews, by GDAL's COG driver.

    GDAL's own intermediate files are named after ``target``; the caller removes them with it.
    Errors are those of rasterio.
    """
    assert layout.cog_options is not None
    with gdal_env(writing=True), own_warnings():
        try:
            rasterio.shutil.copy(str(source), str(target), driver="COG", **layout.cog_options)
        except Exception as err:
            # rasterio lets some of GDAL's own errors through here, which are none of rasterio's
            if not type(err).__name__.startswith("CPLE_"):
                raise
            raise RasterioIOError(str(err)) from err

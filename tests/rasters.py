"""Small rasters made on the spot; nothing here needs a network."""

from __future__ import annotations

import warnings

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from georsr.errors import GeoreferenceWarning
from georsr.io.gdal_env import suppress_rasterio_warnings
from georsr.io.reader import open_raster

UTM = Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)


def make_raster(
    path,
    data,
    *,
    crs="EPSG:32633",
    transform=UTM,
    mask=None,
    colors=None,
    tags=None,
    gcps=None,
    rpcs=None,
    point=False,
    **profile,
):
    """Write ``data`` (C, h, w) to ``path`` with plain rasterio and give the path."""
    count, height, width = data.shape
    options = {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
        "photometric": "MINISBLACK",
        **profile,
    }
    env = rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES")
    with (
        env,
        suppress_rasterio_warnings(),
        rasterio.open(
            path,
            "w",
            width=width,
            height=height,
            count=count,
            dtype=data.dtype,
            crs=None if gcps else crs,
            transform=transform,
            **options,
        ) as dst,
    ):
        if gcps:
            dst.gcps = (gcps, crs)
        if rpcs:
            dst.rpcs = rpcs
        if point:
            dst.update_tags(AREA_OR_POINT="Point")
        if tags:
            dst.update_tags(**tags)
        if colors:
            dst.colorinterp = [ColorInterp[name] for name in colors]
        dst.write(data)
        if mask is not None:
            dst.write_mask(mask)
    return path


def ramp(count=3, height=40, width=50, dtype="uint8"):
    """Pixels that are all different from their neighbours, and never 0."""
    values = np.arange(count * height * width).reshape(count, height, width) % 199 + 1
    return values.astype(dtype)


def open_quietly(path, **options):
    """`open_raster` for rasters that are meant to lack georeferencing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeoreferenceWarning)
        return open_raster(path, **options)


def read(path):
    """Read all bands of a raster."""
    with rasterio.open(path) as dataset:
        return dataset.read()

"""Whereabouts: where a raster and an area beside it lie, and what may have gone wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform_bounds
from shapely.geometry.base import BaseGeometry

from georsr.raster.env import gdal_env
from georsr.raster.info import RasterInfo

Bounds = tuple[float, float, float, float]
"""West, south, east, north."""


def whereabouts(polygons: Sequence[tuple[BaseGeometry, CRS | None]], info: RasterInfo) -> str:
    """Where both lie, for people.

    Parameters
    ----------
    polygons
        Of the area, in one CRS; None is the raster's.
    info
        Of the raster, which has affine georeferencing.
    """
    crs = polygons[0][1] or info.crs
    area: Bounds = shapely.union_all([polygon for polygon, _ in polygons]).bounds
    raster = _bounds(info, crs)
    if raster is None:
        raster = _bounds(info, info.crs)
        assert raster is not None, "nothing has to be transformed"
        texts = (f"{_text(area)} in {_name(crs)}", f"{_text(raster)} in {_name(info.crs)}")
        return f"it covers {texts[0]}, the raster {texts[1]}; is its CRS right?"
    said = f"it covers {_text(area)}, the raster {_text(raster)}"
    if crs is not None:
        said += f" (west,south,east,north in {_name(crs)})"
    for mistake, mended in _mistakes(area, crs):
        if shapely.box(*mended).intersects(shapely.box(*raster)):
            return f"{said}; it would lie there with {mistake}"
    return f"{said}; is its CRS right?"


def _mistakes(area: Bounds, crs: CRS | None) -> Iterator[tuple[str, Bounds]]:
    """What people do wrong, and where the area lies if it is put right."""
    west, south, east, north = area
    if crs is None or not crs.is_geographic:
        yield "x and y exchanged", (south, west, north, east)
        return
    yield "its coordinates exchanged: longitude comes before latitude", (south, west, north, east)
    yield "360 degrees more of longitude", (west + 360, south, east + 360, north)
    yield "360 degrees less of longitude", (west - 360, south, east - 360, north)
    yield "latitudes of the other sign", (west, -north, east, -south)
    yield "longitudes of the other sign", (-east, south, -west, north)


def _bounds(info: RasterInfo, crs: CRS | None) -> Bounds | None:
    """Of a raster, in a CRS; None if it cannot be brought there."""
    assert info.transform is not None, "the raster has affine georeferencing"
    corners = [(0, 0), (info.width, 0), (0, info.height), (info.width, info.height)]
    x, y = zip(*(info.transform @ corner for corner in corners), strict=True)
    bounds: Bounds = (min(x), min(y), max(x), max(y))
    if crs is not None and info.crs is not None and crs != info.crs:
        with gdal_env():
            try:
                bounds = transform_bounds(info.crs, crs, *bounds)
            except Exception:  # GDAL's own errors are none of rasterio's here
                return None
    return bounds if np.isfinite(bounds).all() else None


def _text(bounds: Bounds) -> str:
    return ",".join(f"{value:.7g}" for value in bounds)


def _name(crs: CRS | None) -> str:
    authority = None if crs is None else crs.to_authority()
    return ":".join(authority) if authority else "its CRS"

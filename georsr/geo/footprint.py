"""Compute where on Earth a raster lies: outline, bounds, projection and pixel size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import rasterio.warp
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import from_gcps
from shapely import affinity, box
from shapely.geometry import mapping, shape

from georsr.io.gdal_env import gdal_env
from georsr.io.metadata import RasterInfo

WGS84 = CRS.from_epsg(4326)
STEPS = 8
"""Number of points along each edge, which is not straight in longitude and latitude."""


@dataclass(frozen=True)
class Footprint:
    """Outline and projection of a raster.

    Attributes
    ----------
    geometry : dict or None
        Outline as GeoJSON in longitude and latitude, split at the antimeridian; None if the raster
        is not georeferenced.
    bbox : list of float or None
        West, south, east, north of the outline; west is larger than east across the antimeridian.
    projected : list of float or None
        Bounds in the raster's own CRS.
    code, wkt2 : str or None
        CRS as an authority's code, or as WKT 2 if it has none.
    gsd : float or None
        Ground sample distance: size of a pixel in metres, at the middle of the raster.
    """

    geometry: dict[str, Any] | None
    bbox: list[float] | None
    projected: list[float] | None
    code: str | None
    wkt2: str | None
    gsd: float | None


def compute_footprint(info: RasterInfo) -> Footprint:
    """Compute the footprint of a raster; approximately if it has only ground control points."""
    transform, crs = info.transform, info.crs
    if transform is None and info.gcps:
        transform, crs = from_gcps(info.gcps), info.gcps_crs
    if transform is None or crs is None:
        return Footprint(None, None, None, None, None, None)
    ring = [transform @ corner for corner in _edge(info.width, info.height)]
    xs, ys = [x for x, _ in ring], [y for _, y in ring]
    authority = crs.to_authority()
    code = None if authority is None else ":".join(authority)
    geometry, bbox = _to_geojson(crs, xs, ys)
    return Footprint(
        geometry=geometry,
        bbox=bbox,
        projected=[min(xs), min(ys), max(xs), max(ys)],
        code=code,
        wkt2=crs.to_wkt(version="WKT2_2019") if code is None else None,
        gsd=_gsd(transform, crs, ys),
    )


def _edge(width: int, height: int) -> Iterator[tuple[float, float]]:
    """Yield points (column, row) along the closed outer edge."""
    corners = [(0, 0), (0, height), (width, height), (width, 0), (0, 0)]
    for (x, y), (to_x, to_y) in pairwise(corners):
        for step in range(STEPS):
            yield x + (to_x - x) * step / STEPS, y + (to_y - y) * step / STEPS
    yield 0.0, 0.0


def _to_geojson(
    crs: CRS, xs: list[float], ys: list[float]
) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return the GeoJSON and the bounds of a ring of points."""
    ring = {"type": "Polygon", "coordinates": [list(zip(xs, ys, strict=True))]}
    try:
        with gdal_env():
            # GDAL splits polygons at the antimeridian
            geometry = rasterio.warp.transform_geom(
                crs, WGS84, ring, antimeridian_cutting=True, precision=8
            )
    except Exception:  # GDAL's errors here are not those of rasterio
        return None, None
    if geometry["type"] == "Polygon":
        geometry = _split(geometry)
    outline = shape(geometry)
    if outline.is_empty or not np.isfinite(outline.bounds).all():
        return None, None  # nothing of it lies on Earth
    parts = (
        geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    )
    points = [[point for ring in part for point in ring] for part in parts]
    south = min(y for part in points for _, y in part)
    north = max(y for part in points for _, y in part)
    wests = [min(x for x, _ in part) for part in points]
    easts = [max(x for x, _ in part) for part in points]
    if len(points) > 1 and max(easts) >= 180 - 1e-6 and min(wests) <= -180 + 1e-6:
        west = min((w for w in wests if w > 0), default=-180.0)
        east = max((e for e in easts if e < 0), default=180.0)
    else:
        west, east = min(wests), max(easts)
    return geometry, [west, south, east, north]


def _split(geometry: dict[str, Any]) -> dict[str, Any]:
    """Split a polygon with longitudes beyond 180 degrees at the antimeridian."""
    outline = shape(geometry)
    west, _, east, _ = outline.bounds
    if west >= -180 and east <= 180:
        return geometry
    parts = []
    for offset in (-360, 0, 360):
        part = affinity.translate(outline, offset).intersection(box(-180, -90, 180, 90))
        if part.area > 0:
            parts.append(part)
    if len(parts) == 1:
        return dict(mapping(parts[0]))
    return {"type": "MultiPolygon", "coordinates": [mapping(p)["coordinates"] for p in parts]}


def _gsd(transform: Affine, crs: CRS, ys: list[float]) -> float | None:
    """Return the geometric mean of the width and height of a pixel in metres."""
    a, b, _, d, e, _ = tuple(transform)[:6]
    size = math.sqrt(abs(a * e - b * d))
    if crs.is_geographic:
        latitude = math.radians((min(ys) + max(ys)) / 2)
        return size * 111_320.0 * math.sqrt(max(math.cos(latitude), 0.0))
    try:
        return size * float(crs.linear_units_factor[1])
    except RasterioError:
        return None

"""Footprint: where on Earth a raster lies, as catalogues want to know it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import rasterio.warp
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import from_gcps

from georsr.io.gdal_env import gdal_env
from georsr.io.metadata import RasterInfo

WGS84 = CRS.from_epsg(4326)
STEPS = 8
"""Points along each edge: straight in one projection is not straight in another."""


@dataclass(frozen=True)
class Footprint:
    """Outline and projection of a raster.

    Attributes
    ----------
    geometry : dict or None
        GeoJSON in longitude and latitude, cut in two at the antimeridian; None where the raster
        is not georeferenced.
    bbox : list of float or None
        West, south, east, north of it; west is larger than east across the antimeridian.
    projected : list of float or None
        The same in the raster's own CRS.
    code, wkt2 : str or None
        The CRS: by authority if it is known to one, spelled out otherwise.
    ground_size : float or None
        Side of a pixel in metres, at the middle of the raster.
    """

    geometry: dict[str, Any] | None
    bbox: list[float] | None
    projected: list[float] | None
    code: str | None
    wkt2: str | None
    gsd: float | None


def compute_footprint(info: RasterInfo) -> Footprint:
    """Where a raster lies; of ground control points alone, approximately."""
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
    """Points (column, row) along the outer edge, closed."""
    corners = [(0, 0), (0, height), (width, height), (width, 0), (0, 0)]
    for (x, y), (to_x, to_y) in pairwise(corners):
        for step in range(STEPS):
            yield x + (to_x - x) * step / STEPS, y + (to_y - y) * step / STEPS
    yield 0.0, 0.0


def _to_geojson(
    crs: CRS, xs: list[float], ys: list[float]
) -> tuple[dict[str, Any] | None, list[float] | None]:
    """GeoJSON and bounding box of a ring of points."""
    ring = {"type": "Polygon", "coordinates": [list(zip(xs, ys, strict=True))]}
    try:
        with gdal_env():
            # GDAL cuts what crosses the antimeridian in two
            geometry = rasterio.warp.transform_geom(
                crs, WGS84, ring, antimeridian_cutting=True, precision=8
            )
    except (RasterioError, ValueError):
        return None, None
    if geometry["type"] == "Polygon":
        geometry = _split(geometry)
    parts = (
        geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    )
    points = [[point for ring in part for point in ring] for part in parts]
    south = min(y for part in points for _, y in part)
    north = max(y for part in points for _, y in part)
    wests = [min(x for x, _ in part) for part in points]
    easts = [max(x for x, _ in part) for part in points]
    if len(points) > 1 and max(easts) >= 180 - 1e-6 and min(wests) <= -180 + 1e-6:
        west = min(w for w in wests if w > 0)
        east = max(e for e in easts if e < 0)
    else:
        west, east = min(wests), max(easts)
    return geometry, [west, south, east, north]


def _split(geometry: dict[str, Any]) -> dict[str, Any]:
    """A polygon in longitudes beyond 180 degrees, as rasters across the antimeridian have them."""
    from shapely import affinity, box
    from shapely.geometry import mapping, shape

    outline = shape(geometry)
    west, _, east, _ = outline.bounds
    if west >= -180 and east <= 180:
        return geometry
    parts = []
    for turn in (-360, 0, 360):
        part = affinity.translate(outline, turn).intersection(box(-180, -90, 180, 90))
        if part.area > 0:
            parts.append(part)
    if len(parts) == 1:
        return dict(mapping(parts[0]))
    return {"type": "MultiPolygon", "coordinates": [mapping(p)["coordinates"] for p in parts]}


def _gsd(transform: Affine, crs: CRS, ys: list[float]) -> float | None:
    """Geometric mean of a pixel's sides in metres."""
    a, b, _, d, e, _ = tuple(transform)[:6]
    side = math.sqrt(abs(a * e - b * d))
    if crs.is_geographic:
        latitude = math.radians((min(ys) + max(ys)) / 2)
        return side * 111_320.0 * math.sqrt(max(math.cos(latitude), 0.0))
    try:
        return side * float(crs.linear_units_factor[1])
    except RasterioError:
        return None

"""Polygons from GeoJSON (RFC 7946).

Longitude and latitude, unless the member ``crs`` of the older specification says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from georsr.errors import InputError, UsageError
from georsr.raster.env import gdal_env
from georsr.raster.names import is_plain_crs, one_line

LONLAT = CRS.from_epsg(4326)


def named_crs(text: str, where: str) -> CRS:
    """Return the CRS that a code (``EPSG:32632``), WKT, PROJJSON or a PROJ string names.

    Raises
    ------
    UsageError
        It is none of these, an address or a path, or names a grid file by its path; ``where`` says
        where it stands.
    """
    if not text.strip() or not is_plain_crs(text):
        raise _no_crs(text, where)
    try:
        with gdal_env():
            return CRS.from_user_input(text)
    except CRSError as error:
        raise _no_crs(text, where) from error


def _no_crs(text: str, where: str) -> UsageError:
    return UsageError(
        f"{where}: {one_line(text)!r} is not a coordinate reference system, expected a code such "
        "as EPSG:32632, WKT, or a PROJ string"
    )


def read_polygons(aoi: str | Mapping[str, Any], name: str) -> list[tuple[BaseGeometry, CRS]]:
    """Valid polygons with their CRS.

    Parameters
    ----------
    aoi : str or mapping
        GeoJSON file, or what one holds.
    name : str
        What to call it in messages.

    Raises
    ------
    UsageError
        Polygons that are none, not valid, or not where they say.
    InputError
        Not GeoJSON.
    """
    content = _load(aoi) if isinstance(aoi, str) else aoi
    crs = LONLAT
    if isinstance(member := content.get("crs"), Mapping):
        properties = member.get("properties")
        text = properties.get("name") if isinstance(properties, Mapping) else member
        crs = named_crs(str(text), f"{name}: member crs")
    found = []
    for number, geometry in enumerate(_geometries(content, name)):
        try:
            polygon = shape(geometry)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise InputError(f"{name}: feature {number} is not a geometry ({error})") from error
        if polygon.geom_type not in ("Polygon", "MultiPolygon"):
            raise UsageError(
                f"{name}: feature {number} is a {polygon.geom_type}, which has no area; "
                "expected polygons"
            )
        if not polygon.is_valid:
            why = shapely.is_valid_reason(polygon)
            raise UsageError(f"{name}: feature {number} is not a valid polygon: {why}; repair it")
        if crs == LONLAT and not polygon.is_empty:
            _check_lonlat(polygon, name)
        found.append((polygon, crs))
    if all(polygon.is_empty for polygon, _ in found):
        raise UsageError(f"{name}: holds no polygon")
    return found


def _load(path: str) -> Mapping[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as GeoJSON ({error}); other formats are to be converted, "
            "for example with ogr2ogr -f GeoJSON"
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: is JSON, but not a GeoJSON object")
    return content


def _geometries(content: Mapping[str, Any], name: str) -> Iterator[Any]:
    kind = content.get("type")
    if kind == "FeatureCollection":
        for feature in content.get("features") or []:
            yield from _geometries(feature, name)
    elif kind == "Feature":
        if content.get("geometry") is not None:
            yield from _geometries(content["geometry"], name)
    elif kind == "GeometryCollection":
        for geometry in content.get("geometries") or []:
            yield from _geometries(geometry, name)
    elif "coordinates" in content:
        yield content
    else:
        raise InputError(f"{name}: {kind!r} is no type of GeoJSON")


def _check_lonlat(polygon: BaseGeometry, name: str) -> None:
    west, south, east, north = polygon.bounds
    if west < -360 or east > 360 or south < -90 or north > 90:
        advice = "add that member, or transform it"
        if max(-west, east) <= 90 and max(-south, north) <= 180:
            advice = "longitude comes first: exchange them"
        raise UsageError(
            f"{name}: {west:g},{south:g},{east:g},{north:g} are no longitudes and latitudes, which "
            f"GeoJSON has unless its member crs says otherwise; {advice}"
        )

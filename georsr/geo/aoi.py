"""Read an area of interest, and convert it to a window and an outline in a raster's pixels.

Areas are bounds, or polygons in GeoJSON (RFC 7946), a vector file or WKT. Coordinates of GeoJSON
are longitude and latitude, unless it has the member ``crs`` of the older specification. An area
outside the raster raises an error that suggests the likely mistake.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.warp import transform_bounds, transform_geom
from shapely import affinity
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from georsr._files import refuse_pipe
from georsr.config import aoi_path
from georsr.errors import GeoreferenceWarning, InputError, UsageError
from georsr.io.gdal_env import gdal_env, is_plain_crs, shorten, wgs84
from georsr.io.metadata import RasterInfo, crs_name
from georsr.io.vrt import window_boxes
from georsr.window import BoolArray, Window

MAX_COORDINATE = 1e15
"""Largest coordinate: beyond it, coordinates of pixels overflow."""


def parse_crs(text: str, context: str) -> CRS:
    """Parse a CRS given as a code (``EPSG:32632``), WKT, PROJJSON or a PROJ string.

    Raises
    ------
    UsageError
        The text is none of these, or names a file. ``context`` begins the message.
    """
    if text.strip().isdecimal():
        text = f"EPSG:{text.strip()}"
    if not text.strip() or not is_plain_crs(text):
        raise _invalid_crs(text, context)
    try:
        with gdal_env():
            return CRS.from_user_input(text)
    except (CRSError, ValueError) as error:
        raise _invalid_crs(text, context) from error


def _invalid_crs(text: str, context: str) -> UsageError:
    return UsageError(
        f"{context}: {shorten(text)!r} is not a coordinate reference system, expected a code such "
        "as EPSG:32632, WKT, or a PROJ string"
    )


def read_polygons(aoi: str | Mapping[str, Any], name: str) -> list[tuple[BaseGeometry, CRS]]:
    """Read polygons with their CRS.

    Parameters
    ----------
    aoi : str or mapping
        Path of a GeoJSON, GeoPackage, Shapefile or FlatGeobuf file, optionally followed by
        ``|layername=NAME``; WKT, optionally preceded by ``SRID=CODE;``; or the content of a
        GeoJSON file.
    name : str
        Name of the area in messages.

    Raises
    ------
    UsageError
        A geometry is not a valid polygon, or its coordinates do not fit its CRS.
    InputError
        The file cannot be read.
    """
    polygons = []
    for number, (geometry, crs) in enumerate(_read_geometries(aoi, name)):
        if not geometry.is_empty and not (np.abs(geometry.bounds) <= MAX_COORDINATE).all():
            raise InputError(
                f"{name}: feature {number} has coordinates that are not finite, or beyond "
                f"{MAX_COORDINATE:g}"
            )
        if geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise UsageError(
                f"{name}: feature {number} is a {geometry.geom_type}, which has no area; "
                "expected polygons"
            )
        if not geometry.is_valid:
            reason = shapely.is_valid_reason(geometry)
            raise UsageError(
                f"{name}: feature {number} is not a valid polygon: {reason}; repair it"
            )
        if crs == wgs84() and not geometry.is_empty:
            _check_lonlat(geometry, name)
        polygons.append((geometry, crs))
    if all(polygon.is_empty for polygon, _ in polygons):
        raise UsageError(f"{name}: holds no polygon")
    return polygons


def _read_geometries(aoi: str | Mapping[str, Any], name: str) -> Iterator[tuple[BaseGeometry, CRS]]:
    """Yield the geometries of an area with their CRS."""
    if not isinstance(aoi, str):
        yield from _read_geojson(aoi, name)
        return
    path = aoi_path(aoi)
    if path is None:
        yield _read_wkt(aoi, name)
    elif Path(path).suffix.lower() in _SIGNATURES:
        yield from _read_vector_file(Path(path), aoi.partition("|layername=")[2] or None)
    else:
        yield from _read_geojson(_load(path), name)


def _read_wkt(aoi: str, name: str) -> tuple[BaseGeometry, CRS]:
    """Read WKT, in longitude and latitude unless an EPSG code precedes it."""
    prefix, _, text = aoi.rpartition(";")
    try:
        geometry = shapely.from_wkt(text)
    except shapely.GEOSException as error:
        raise UsageError(f"{name}: is not valid WKT: {str(error).strip()}") from error
    code = prefix.strip().upper().removeprefix("SRID=")
    return geometry, parse_crs(f"EPSG:{code}", name) if code else wgs84()


_SIGNATURES = {".gpkg": b"SQLite format 3\0", ".shp": b"\0\0\x27\x0a", ".fgb": b"fgb\x03"}
"""Suffix of vector files -> their first bytes. Files of other formats could name other files."""


def _read_vector_file(path: Path, layer: str | None) -> Iterator[tuple[BaseGeometry, CRS]]:
    """Yield the geometries of a layer with its CRS."""
    try:
        import pyogrio
    except ImportError as error:
        raise UsageError(
            f"{path}: reading it needs pyogrio: pip install pyogrio; or convert it with: "
            f"ogr2ogr -f GeoJSON {path.stem}.geojson {path}"
        ) from error
    _check_signature(path)
    try:
        layers = [str(entry[0]) for entry in pyogrio.list_layers(path) if entry[1] is not None]
        if layer is None and len(layers) > 1:
            raise UsageError(
                f"{path}: has the layers {', '.join(layers)}; name one, such as "
                f"'{path}|layername={layers[0]}'"
            )
        meta, _, encoded, _ = pyogrio.raw.read(path, layer=layer, columns=[])
        geometries = shapely.from_wkb(encoded)
    except UsageError:
        raise
    except Exception as error:  # pyogrio and shapely raise errors of many types
        raise InputError(f"{path}: cannot be read: {error}") from error
    if meta["crs"] is None:
        raise UsageError(f"{path}: declares no CRS; write one into it first")
    crs = parse_crs(meta["crs"], str(path))
    for geometry in geometries:
        if geometry is not None:
            yield geometry, crs


def _check_signature(path: Path) -> None:
    """Refuse a file that is not of the format of its suffix."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not start.startswith(_SIGNATURES[path.suffix.lower()]):
        raise InputError(f"{path}: is not a {path.suffix.lower()} file")


def _read_geojson(content: Mapping[str, Any], name: str) -> Iterator[tuple[BaseGeometry, CRS]]:
    """Yield the geometries of a GeoJSON object with their CRS."""
    crs = wgs84()
    if isinstance(member := content.get("crs"), Mapping):
        properties = member.get("properties")
        text = properties.get("name") if isinstance(properties, Mapping) else member
        crs = parse_crs(str(text), f"{name}: member crs")
    try:
        geometries = list(_geometries(content, name))
    except RecursionError as error:
        raise InputError(f"{name}: its collections are nested too deeply") from error
    for number, geometry in enumerate(geometries):
        try:
            polygon = shape(geometry)
        except Exception as error:  # shapely raises errors of many types
            raise InputError(f"{name}: feature {number} is not a geometry ({error})") from error
        yield polygon, crs


def _load(path: str) -> Mapping[str, Any]:
    refuse_pipe(Path(path))
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as GeoJSON ({error}); other formats are read from files "
            "with the suffix .gpkg, .shp or .fgb"
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: is JSON, but not a GeoJSON object")
    return content


_MEMBERS = {"FeatureCollection": "features", "GeometryCollection": "geometries"}
"""Type of a GeoJSON object -> its member that holds a list of other objects."""


def _geometries(content: Any, name: str) -> Iterator[Any]:
    """Yield the geometries inside a GeoJSON object."""
    if not isinstance(content, Mapping):
        raise InputError(f"{name}: {reprlib.repr(content)} is not a GeoJSON object")
    kind = content.get("type")
    if isinstance(kind, str) and kind in _MEMBERS:
        members = content.get(_MEMBERS[kind]) or []
        if not isinstance(members, Sequence) or isinstance(members, str):
            raise InputError(f"{name}: {_MEMBERS[kind]} is {reprlib.repr(members)}, not a list")
        for member in members:
            yield from _geometries(member, name)
    elif kind == "Feature":
        if content.get("geometry") is not None:
            yield from _geometries(content["geometry"], name)
    elif "coordinates" in content:
        yield content
    else:
        raise InputError(f"{name}: {reprlib.repr(kind)} is not a type of GeoJSON")


def _check_lonlat(polygon: BaseGeometry, name: str) -> None:
    west, south, east, north = polygon.bounds
    if west < -540 or east > 540 or south < -90 or north > 90:
        advice = "add this member, or transform the coordinates"
        if max(-west, east) <= 90 and max(-south, north) <= 180:
            advice = "longitude comes first: swap them"
        raise UsageError(
            f"{name}: {west:g},{south:g},{east:g},{north:g} are not longitude and latitude, "
            f"which GeoJSON has unless its member crs says otherwise; {advice}"
        )


Bounds = tuple[float, float, float, float]
"""West, south, east, north."""
Polygons = Sequence[tuple[BaseGeometry, CRS | None]]
"""Polygons with their CRS; None is the CRS of the raster."""


def describe_mismatch(polygons: Polygons, info: RasterInfo) -> str:
    """Describe where an area, with polygons in one CRS, and a raster lie, and the likely mistake.

    The raster has affine georeferencing.
    """
    crs = polygons[0][1] or info.crs
    area: Bounds = shapely.union_all([polygon for polygon, _ in polygons]).bounds
    raster = _bounds(info, crs)
    if raster is None:
        raster = _bounds(info, info.crs)
        assert raster is not None, "the bounds are in the raster's own CRS"
        return (
            f"it covers {_format_bounds(area)} in {crs_name(crs)}, the raster "
            f"{_format_bounds(raster)} in {crs_name(info.crs)}; is its CRS right?"
        )
    text = f"it covers {_format_bounds(area)}, the raster {_format_bounds(raster)}"
    if crs is not None:
        text += f" (west,south,east,north in {crs_name(crs)})"
    for mistake, corrected in _mistakes(area, crs):
        if shapely.box(*corrected).intersects(shapely.box(*raster)):
            return f"{text}; it would cover the raster with {mistake}"
    return f"{text}; is its CRS right?"


def _mistakes(area: Bounds, crs: CRS | None) -> Iterator[tuple[str, Bounds]]:
    """Yield common mistakes, and the bounds of the area without them."""
    west, south, east, north = area
    if crs is None or not crs.is_geographic:
        yield "x and y swapped", (south, west, north, east)
        return
    yield "its coordinates swapped: longitude comes before latitude", (south, west, north, east)
    yield "latitudes of opposite sign", (west, -north, east, -south)
    yield "longitudes of opposite sign", (-east, south, -west, north)


def _bounds(info: RasterInfo, crs: CRS | None) -> Bounds | None:
    """Return the bounds of a raster in a CRS; None if they cannot be transformed."""
    assert info.transform is not None, "the raster has affine georeferencing"
    corners = [(0, 0), (info.width, 0), (0, info.height), (info.width, info.height)]
    x, y = zip(*(info.transform @ corner for corner in corners), strict=True)
    bounds: Bounds = (min(x), min(y), max(x), max(y))
    if crs is not None and info.crs is not None and crs != info.crs:
        with gdal_env():
            try:
                bounds = transform_bounds(info.crs, crs, *bounds)
            except Exception:  # GDAL's errors here are not those of rasterio
                return None
    return bounds if np.isfinite(bounds).all() else None


def _format_bounds(bounds: Bounds) -> str:
    return ",".join(f"{value:.7g}" for value in bounds)


PIXEL_TOLERANCE = 1e-6
"""Distance in pixels within which an outline counts as lying on the border of a pixel."""
BOUNDS_NAME = "the bounding box"
MIN_OUTSIDE = 0.005
"""Fraction of an area outside the raster that is not worth a word, such as rounded bounds."""
MAX_EDGE_FRACTION = 1 / 1000
"""Longest edge of an outline, relative to its extent, before it is transformed to another CRS:
straight lines in one are curves in the other."""

# GEOS builds indices inside a prepared geometry while it is queried, and shapely releases the GIL
# meanwhile: two threads that query the same geometry at once crash.
_PREPARED_LOCK = threading.Lock()


@dataclass(frozen=True)
class AreaOfInterest:
    """Part of a raster that becomes the output; safe to use from several threads."""

    window: Window
    """Extent of the area in pixels of the source."""
    outline: BaseGeometry | None = None
    """Outline of the valid pixels, in source pixels (x right, y down); None if all are valid."""
    shift: tuple[int, int] = (0, 0)
    """(down, right): Position of the window's corner in the coordinates of the outline. A part has
    the outline of the complete area, so that exactly the same pixels are inside."""

    def __post_init__(self) -> None:
        if self.outline is not None:
            with _PREPARED_LOCK:
                shapely.prepare(self.outline)

    def part(self, window: Window) -> AreaOfInterest:
        """Return a part of the area; ``window`` is relative to the area's corner."""
        down, right = self.shift
        source_window = window.moved(self.window.top, self.window.left)
        return AreaOfInterest(source_window, self.outline, (down + window.top, right + window.left))

    def intersects(self, window: Window) -> bool:
        """Return whether a window, relative to the area's corner, intersects the area."""
        return bool(self.intersects_each([window])[0])

    def intersects_each(self, windows: Sequence[Window]) -> BoolArray:
        """Return whether each of n windows intersects the area: bool (n,)."""
        if self.outline is None:
            return np.ones(len(windows), bool)
        boxes = window_boxes([window.moved(*self.shift) for window in windows])
        with _PREPARED_LOCK:
            return np.asarray(shapely.intersects(self.outline, boxes))

    def outside_mask(self, window: Window, scale: int) -> BoolArray | None:
        """Return which pixels (h, w) in a window of the output have their centre outside.

        None if all are inside. ``scale`` is the number of output pixels per source pixel along each
        axis.
        """
        if self.outline is None:
            return None
        size = window.height, window.width
        window = window.moved(*(scale * pixels for pixels in self.shift))
        x, y = window.left / scale, window.top / scale
        extent = shapely.box(x, y, window.right / scale, window.bottom / scale)
        with _PREPARED_LOCK:
            within = shapely.contains_properly(self.outline, extent)
            intersects = within or shapely.intersects(self.outline, extent)
        if within:
            return None
        if not intersects:
            return np.ones(size, bool)
        # with a margin, so that edges made by the clipping are outside the window
        part = shapely.clip_by_rect(self.outline, *shapely.buffer(extent, 1).bounds)
        step = Affine(1 / scale, 0, x, 0, 1 / scale, y)
        inside = rasterize([(part, 1)], size, transform=step, dtype="uint8") if part else 0
        return np.broadcast_to(np.equal(inside, 0), size)

    def describe(self) -> str:
        """Return the window and a hash of the outline as text."""
        if self.outline is None:
            return str(self.window)
        digest = hashlib.sha256(shapely.to_wkb(self.outline)).hexdigest()
        return f"{self.window}, outline {digest[:12]}"


def resolve_aoi(
    info: RasterInfo,
    *,
    bounds: Sequence[float] | None = None,
    bounds_crs: str | None = None,
    aoi: str | Mapping[str, Any] | None = None,
    masked: bool = True,
) -> AreaOfInterest | None:
    """Convert bounds and polygons to an area of a raster; None if neither is given.

    Parameters
    ----------
    info : RasterInfo
        Metadata of the raster.
    bounds : (west, south, east, north), optional
        Bounds of the area.
    bounds_crs : str, optional
        CRS of ``bounds``; default that of the raster.
    aoi : str or mapping, optional
        As for `read_polygons`.
    masked : bool
        Whether pixels outside the polygons are invalid; otherwise only the extent is used.

    Raises
    ------
    UsageError
        The raster has no affine georeferencing, or the area is invalid, empty or outside it.
    InputError
        The file is not GeoJSON.
    """
    if bounds is None and aoi is None:
        return None
    if info.transform is None:
        raise UsageError(
            f"{info.path}: has no affine georeferencing, so an area cannot be located in it; "
            "warp it first, for example with gdalwarp"
        )
    window = Window(0, 0, info.height, info.width)
    outline: BaseGeometry | None = None
    if bounds is not None:
        box = _bounds_polygon(bounds, bounds_crs, info)
        rectangle = _to_pixels(box, info, BOUNDS_NAME)
        _check_one_edge(rectangle, info)
        window = _outline_window(box, rectangle, info, window, BOUNDS_NAME)
        _warn_outside(rectangle, info, BOUNDS_NAME)
    if aoi is not None:
        name = aoi if isinstance(aoi, str) else "the area of interest"
        polygons = read_polygons(aoi, name)
        outline = _to_pixels(polygons, info, name)
        _warn_outside(outline, info, name)
        window = _outline_window(polygons, outline, info, window, name)
        outline = affinity.translate(outline, -window.left, -window.top) if masked else None
    return AreaOfInterest(window, outline)


def _bounds_polygon(bounds: Sequence[float], bounds_crs: str | None, info: RasterInfo) -> Polygons:
    west, south, east, north = bounds
    crs = info.crs if bounds_crs is None else parse_crs(bounds_crs, "bbox-crs")
    if east < west <= 180 and east >= -180 and crs is not None and crs.is_geographic:
        east += 360  # across the antimeridian, as RFC 7946 writes it
    if not all(map(math.isfinite, bounds)) or west >= east or south >= north:
        raise UsageError(
            f"bbox {','.join(f'{v:g}' for v in bounds)}: expected WEST,SOUTH,EAST,NORTH with "
            "west < east and south < north"
        )
    return [(shapely.box(west, south, east, north), crs)]


def _to_pixels(polygons: Polygons, info: RasterInfo, name: str) -> BaseGeometry:
    """Return the union of polygons in the raster's pixel coordinates: x right, y down."""
    assert info.transform is not None
    a, b, c, d, e, f = tuple(~info.transform)[:6]
    parts = []
    for whole, crs in polygons:
        for polygon in _in_one_turn(whole) if crs is not None and crs.is_geographic else (whole,):
            if crs is not None and crs != info.crs:
                if info.crs is None:
                    raise UsageError(
                        f"{info.path}: has no CRS, so {name} cannot be transformed to it"
                    )
                polygon = _transformed(polygon, crs, info, name)
            part = affinity.affine_transform(polygon, [a, b, d, e, c, f])
            part = part if part.is_valid else shapely.make_valid(part)
            parts += _turned_copies(part, (360 * a, 360 * d), info)
    return shapely.union_all(parts)


def _in_one_turn(polygon: BaseGeometry) -> Sequence[BaseGeometry]:
    """Cut a polygon whose longitudes exceed -180..180 into parts that do not."""
    west, south, east, north = polygon.bounds
    if west >= -180 and east <= 180:
        return (polygon,)
    turns = range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360))
    parts = [
        affinity.translate(
            polygon.intersection(shapely.box(360 * n - 180, south, 360 * n + 180, north)), -360 * n
        )
        for n in turns
    ]
    return [part for part in parts if part.area > 0] or (polygon,)


def _turned_copies(
    part: BaseGeometry, turn: tuple[float, float], info: RasterInfo
) -> list[BaseGeometry]:
    """Return a polygon in pixels where the raster has its longitudes, 360 degrees on or back.

    A raster of longitudes 0 to 360, or across the antimeridian, has some of a polygon's longitudes
    elsewhere. If the edge of the raster cuts the polygon, the result is two copies.
    """
    if info.crs is None or not info.crs.is_geographic:
        return [part]
    raster = shapely.box(0, 0, info.width, info.height)
    copies = []
    for polygon in shapely.get_parts(part):
        turned = [affinity.translate(polygon, n * turn[0], n * turn[1]) for n in (0, 1, -1, 2, -2)]
        shares = [copy.intersection(raster).area / (polygon.area or 1) for copy in turned]
        inside = [copy for copy, share in zip(turned, shares, strict=True) if share > 0]
        if max(shares) > 1 - PIXEL_TOLERANCE:
            inside = [turned[int(np.argmax(shares))]]
        elif len(inside) > 1:
            inside = [copy.intersection(raster) for copy in inside]
        copies += inside or [polygon]
    return copies


def _check_one_edge(rectangle: BaseGeometry, info: RasterInfo) -> None:
    """Refuse bounds that a raster of all longitudes has at both of its edges."""
    if len(getattr(rectangle, "geoms", ())) > 1:
        raise UsageError(
            f"{BOUNDS_NAME}: lies at both edges of {info.path}, where its longitudes begin and "
            "end: super-resolve each of the two parts with its own --bbox, or use --aoi"
        )


def _warn_outside(outline: BaseGeometry, info: RasterInfo, name: str) -> None:
    """Warn if a part of an area lies outside the raster, unless all of it does."""
    inside = outline.intersection(shapely.box(0, 0, info.width, info.height)).area
    outside = 1 - inside / max(outline.area, 1e-300)
    if inside > 0 and outside > MIN_OUTSIDE:
        warnings.warn(
            f"{name}: {100 * outside:.3g} % of it lies outside {info.path}: not in the output",
            GeoreferenceWarning,
            stacklevel=2,
        )


def _transformed(polygon: BaseGeometry, crs: CRS, info: RasterInfo, name: str) -> BaseGeometry:
    target = info.crs
    west, south, east, north = polygon.bounds
    dense = shapely.segmentize(
        polygon, max(math.hypot(east - west, north - south) * MAX_EDGE_FRACTION, 1e-12)
    )
    with gdal_env():
        try:
            transformed = shape(transform_geom(crs, target, mapping(dense)))
        except Exception as error:  # GDAL's errors here are not those of rasterio
            reason = f"{name}: cannot be transformed to {target}: {error}"
            raise UsageError(f"{reason}; {describe_mismatch([(polygon, crs)], info)}") from error
    if not np.isfinite(transformed.bounds).all():
        reason = f"{name}: lies partly where {target} is not defined"
        raise UsageError(f"{reason}; {describe_mismatch([(polygon, crs)], info)}")
    return transformed


def _outline_window(
    polygons: Polygons, outline: BaseGeometry, info: RasterInfo, within: Window, name: str
) -> Window:
    """Return the smallest window of pixels that contains the outline, inside another window."""
    left, top, right, bottom = outline.bounds
    extent = Window(
        math.floor(top + PIXEL_TOLERANCE),
        math.floor(left + PIXEL_TOLERANCE),
        math.ceil(bottom - PIXEL_TOLERANCE) - math.floor(top + PIXEL_TOLERANCE),
        math.ceil(right - PIXEL_TOLERANCE) - math.floor(left + PIXEL_TOLERANCE),
    )
    window = extent.intersection(within)
    if window is None or not shapely.intersects(outline, window_boxes([window])[0]):
        raster = Window(0, 0, info.height, info.width)
        if within != raster and extent.intersection(raster) is not None:
            raise UsageError(
                f"{name}: lies outside {BOUNDS_NAME}, which covers {within} of {info.path}: it "
                f"covers {extent}"
            )
        raise UsageError(f"{name}: lies outside {info.path}: {describe_mismatch(polygons, info)}")
    return window

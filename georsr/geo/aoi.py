"""Area: the part of a raster that is asked for, as a window of its pixels and an outline in it.

Box and polygons are brought into the raster's pixels; from there on all is plane geometry.

Polygons from GeoJSON (RFC 7946).

Longitude and latitude, unless the member ``crs`` of the older specification says otherwise.

Whereabouts: where a raster and an area beside it lie, and what may have gone wrong with it.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
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

from georsr.errors import InputError, UsageError
from georsr.io.drivers import is_plain_crs, shorten
from georsr.io.gdal_env import gdal_env
from georsr.io.metadata import RasterInfo
from georsr.window import BoolArray, Window

WGS84 = CRS.from_epsg(4326)


def parse_crs(text: str, where: str) -> CRS:
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
        f"{where}: {shorten(text)!r} is not a coordinate reference system, expected a code such "
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
    crs = WGS84
    if isinstance(member := content.get("crs"), Mapping):
        properties = member.get("properties")
        text = properties.get("name") if isinstance(properties, Mapping) else member
        crs = parse_crs(str(text), f"{name}: member crs")
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
        if crs == WGS84 and not polygon.is_empty:
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


Bounds = tuple[float, float, float, float]
"""West, south, east, north."""


def describe_mismatch(polygons: Sequence[tuple[BaseGeometry, CRS | None]], info: RasterInfo) -> str:
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


Polygons = Sequence[tuple[BaseGeometry, CRS | None]]
"""With their CRS; None is the raster's."""
PIXEL_TOLERANCE = 1e-6
"""Pixels by which an outline may miss a pixel's border and still be on it."""
BOX = "the bounding box"
PIECES = 1000
"""Parts of an outline's extent after which its edges get a vertex: straight lines of one map are
curves of another."""

# GEOS answers about a prepared geometry by indices that it builds, and scratch lists that it fills,
# inside the geometry, and shapely lets go of the GIL meanwhile: two threads asking at once crash.
_PREPARED = threading.Lock()


@dataclass(frozen=True)
class AreaOfInterest:
    """What of a raster becomes the product; may be asked from several threads.

    Attributes
    ----------
    window : Window
        Of the source.
    outline : geometry or None
        What counts inside, in source pixels (x right, y down) from the window's corner; None:
        everything.
    shift : (down, right)
        Where the window's corner lies in the pixels of the outline: of a part, whose outline is
        that of the whole area, so that the same pixels are in it.
    """

    window: Window
    outline: BaseGeometry | None = None
    shift: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.outline is not None:
            with _PREPARED:
                shapely.prepare(self.outline)

    def part(self, window: Window) -> AreaOfInterest:
        """A window of the area, counted from its corner, as an area."""
        down, right = self.shift
        place = window.moved(self.window.top, self.window.left)
        return AreaOfInterest(place, self.outline, (down + window.top, right + window.left))

    def intersects(self, window: Window) -> bool:
        """Whether a window of source pixels, counted from the area's corner, has part in it."""
        if self.outline is None:
            return True
        with _PREPARED:
            return bool(shapely.intersects(self.outline, _box(window.moved(*self.shift))))

    def intersects_each(self, windows: Sequence[Window]) -> BoolArray:
        """`touches` for many windows: (n,)."""
        if self.outline is None:
            return np.ones(len(windows), bool)
        windows = [window.moved(*self.shift) for window in windows]
        sides = np.array([(w.left, w.top, w.right, w.bottom) for w in windows], float)
        with _PREPARED:
            hit = shapely.intersects(self.outline, shapely.box(*sides.reshape(-1, 4).T))
        return np.asarray(hit)

    def outside_mask(self, window: Window, scale: int) -> BoolArray | None:
        """Pixels of the product whose centre is not in the outline.

        Parameters
        ----------
        window : Window
            Of the product.
        scale : int
            Product pixels per source pixel.

        Returns
        -------
        bool (h, w), or None where there are none
        """
        if self.outline is None:
            return None
        size = window.height, window.width
        window = window.moved(*(scale * pixels for pixels in self.shift))
        x, y = window.left / scale, window.top / scale
        here = shapely.box(x, y, window.right / scale, window.bottom / scale)
        with _PREPARED:
            within = shapely.contains_properly(self.outline, here)
            touched = within or shapely.intersects(self.outline, here)
        if within:
            return None
        if not touched:
            return np.ones(size, bool)
        # a margin, so that edges which only the cut made lie beyond the window
        part = shapely.clip_by_rect(self.outline, *shapely.buffer(here, 1).bounds)
        step = Affine(1 / scale, 0, x, 0, 1 / scale, y)
        burnt = rasterize([(part, 1)], size, transform=step, dtype="uint8") if part else 0
        return np.broadcast_to(np.equal(burnt, 0), size)

    def describe(self) -> str:
        """The window, and a digest of the outline."""
        if self.outline is None:
            return str(self.window)
        digest = hashlib.sha256(shapely.to_wkb(self.outline)).hexdigest()
        return f"{self.window}, outline {digest[:12]}"


def resolve_aoi(
    info: RasterInfo,
    *,
    bbox: Sequence[float] | None = None,
    bbox_crs: str | None = None,
    aoi: str | Mapping[str, Any] | None = None,
    masked: bool = True,
) -> AreaOfInterest | None:
    """The area that a box and polygons mark in a raster; None if neither is given.

    Parameters
    ----------
    info : RasterInfo
    bbox : (west, south, east, north), optional
    bbox_crs : str, optional
        CRS of ``bbox``; default the raster's.
    aoi : str or mapping, optional
        GeoJSON file, or what one holds.
    masked : bool
        Pixels outside the polygons do not count; otherwise only the extent is cut.

    Raises
    ------
    UsageError
        The raster has no affine georeferencing, or the area is invalid, empty or outside it.
    InputError
        Not GeoJSON.
    """
    if bbox is None and aoi is None:
        return None
    if info.transform is None:
        raise UsageError(
            f"{info.path}: has no affine georeferencing, so that no area can be found in it; "
            "warp it first, for example with gdalwarp"
        )
    window = Window(0, 0, info.height, info.width)
    outline: BaseGeometry | None = None
    if bbox is not None:
        box = _bbox(bbox, bbox_crs, info)
        window = _pixels_of(box, _in_pixels(box, info, BOX), info, window, BOX)
    if aoi is not None:
        name = aoi if isinstance(aoi, str) else "the area of interest"
        polygons = read_polygons(aoi, name)
        outline = _in_pixels(polygons, info, name)
        window = _pixels_of(polygons, outline, info, window, name)
        outline = affinity.translate(outline, -window.left, -window.top) if masked else None
    return AreaOfInterest(window, outline)


def _bbox(bbox: Sequence[float], bbox_crs: str | None, info: RasterInfo) -> Polygons:
    west, south, east, north = bbox
    if not all(map(math.isfinite, bbox)) or west >= east or south >= north:
        raise UsageError(
            f"bbox {','.join(f'{v:g}' for v in bbox)}: expected WEST,SOUTH,EAST,NORTH with "
            "west < east and south < north"
        )
    crs = info.crs if bbox_crs is None else parse_crs(bbox_crs, "bbox-crs")
    return [(shapely.box(west, south, east, north), crs)]


def _in_pixels(polygons: Polygons, info: RasterInfo, name: str) -> BaseGeometry:
    """Union of polygons in the raster's pixels: x right, y down."""
    assert info.transform is not None
    a, b, c, d, e, f = tuple(~info.transform)[:6]
    parts = []
    for polygon, crs in polygons:
        if crs is not None and crs != info.crs:
            if info.crs is None:
                raise UsageError(f"{info.path}: has no CRS to bring {name} into")
            polygon = _transformed(polygon, crs, info, name)
        part = affinity.affine_transform(polygon, [a, b, d, e, c, f])
        parts.append(part if part.is_valid else shapely.make_valid(part))
    return shapely.union_all(parts)


def _transformed(polygon: BaseGeometry, crs: CRS, info: RasterInfo, name: str) -> BaseGeometry:
    target = info.crs
    west, south, east, north = polygon.bounds
    dense = shapely.segmentize(polygon, max(math.hypot(east - west, north - south) / PIECES, 1e-12))
    with gdal_env():
        try:
            moved = shape(transform_geom(crs, target, mapping(dense)))
        except Exception as error:  # GDAL's own errors are none of rasterio's here
            why = f"{name}: cannot be brought into {target}: {error}"
            raise UsageError(f"{why}; {describe_mismatch([(polygon, crs)], info)}") from error
    if not np.isfinite(moved.bounds).all():
        why = f"{name}: reaches where {target} is not defined"
        raise UsageError(f"{why}; {describe_mismatch([(polygon, crs)], info)}")
    return moved


def _pixels_of(
    polygons: Polygons, outline: BaseGeometry, info: RasterInfo, within: Window, name: str
) -> Window:
    """Smallest window of whole pixels round the outline of polygons, inside another window."""
    left, top, right, bottom = outline.bounds
    first = Window(
        math.floor(top + PIXEL_TOLERANCE),
        math.floor(left + PIXEL_TOLERANCE),
        math.ceil(bottom - PIXEL_TOLERANCE) - math.floor(top + PIXEL_TOLERANCE),
        math.ceil(right - PIXEL_TOLERANCE) - math.floor(left + PIXEL_TOLERANCE),
    )
    window = first.intersection(within)
    if window is None or not shapely.intersects(outline, _box(window)):
        whole = Window(0, 0, info.height, info.width)
        if within != whole and first.intersection(whole) is not None:
            raise UsageError(
                f"{name}: lies outside {BOX}, which covers {within} of {info.path}: it covers "
                f"{first}"
            )
        raise UsageError(f"{name}: lies outside {info.path}: {describe_mismatch(polygons, info)}")
    return window


def _box(window: Window) -> BaseGeometry:
    return shapely.box(window.left, window.top, window.right, window.bottom)

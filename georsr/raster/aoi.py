"""Area: the part of a raster that is asked for, as a window of its pixels and an outline in it.

Box and polygons are brought into the raster's pixels; from there on all is plane geometry.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.warp import transform_geom
from shapely import affinity
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from georsr.errors import UsageError
from georsr.raster.env import gdal_env
from georsr.raster.info import RasterInfo
from georsr.raster.polygons import named_crs, read_polygons
from georsr.raster.whereabouts import whereabouts
from georsr.types import BoolArray, Window

Polygons = Sequence[tuple[BaseGeometry, CRS | None]]
"""With their CRS; None is the raster's."""
SNAP = 1e-6
"""Pixels by which an outline may miss a pixel's border and still be on it."""
BOX = "the bounding box"
PIECES = 1000
"""Parts of an outline's extent after which its edges get a vertex: straight lines of one map are
curves of another."""

# GEOS answers about a prepared geometry by indices that it builds, and scratch lists that it fills,
# inside the geometry, and shapely lets go of the GIL meanwhile: two threads asking at once crash.
_PREPARED = threading.Lock()


@dataclass(frozen=True)
class Area:
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

    def part(self, window: Window) -> Area:
        """A window of the area, counted from its corner, as an area."""
        down, right = self.shift
        place = window.moved(self.window.top, self.window.left)
        return Area(place, self.outline, (down + window.top, right + window.left))

    def touches(self, window: Window) -> bool:
        """Whether a window of source pixels, counted from the area's corner, has part in it."""
        if self.outline is None:
            return True
        with _PREPARED:
            return bool(shapely.intersects(self.outline, _box(window.moved(*self.shift))))

    def touching(self, windows: Sequence[Window]) -> BoolArray:
        """`touches` for many windows: (n,)."""
        if self.outline is None:
            return np.ones(len(windows), bool)
        windows = [window.moved(*self.shift) for window in windows]
        sides = np.array([(w.left, w.top, w.right, w.bottom) for w in windows], float)
        with _PREPARED:
            hit = shapely.intersects(self.outline, shapely.box(*sides.reshape(-1, 4).T))
        return np.asarray(hit)

    def outside(self, window: Window, scale: int) -> BoolArray | None:
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


def find_area(
    info: RasterInfo,
    *,
    bbox: Sequence[float] | None = None,
    bbox_crs: str | None = None,
    aoi: str | Mapping[str, Any] | None = None,
    masked: bool = True,
) -> Area | None:
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
    return Area(window, outline)


def _bbox(bbox: Sequence[float], bbox_crs: str | None, info: RasterInfo) -> Polygons:
    west, south, east, north = bbox
    if not all(map(math.isfinite, bbox)) or west >= east or south >= north:
        raise UsageError(
            f"bbox {','.join(f'{v:g}' for v in bbox)}: expected WEST,SOUTH,EAST,NORTH with "
            "west < east and south < north"
        )
    crs = info.crs if bbox_crs is None else named_crs(bbox_crs, "bbox-crs")
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
            raise UsageError(f"{why}; {whereabouts([(polygon, crs)], info)}") from error
    if not np.isfinite(moved.bounds).all():
        why = f"{name}: reaches where {target} is not defined"
        raise UsageError(f"{why}; {whereabouts([(polygon, crs)], info)}")
    return moved


def _pixels_of(
    polygons: Polygons, outline: BaseGeometry, info: RasterInfo, within: Window, name: str
) -> Window:
    """Smallest window of whole pixels round the outline of polygons, inside another window."""
    left, top, right, bottom = outline.bounds
    first = Window(
        math.floor(top + SNAP),
        math.floor(left + SNAP),
        math.ceil(bottom - SNAP) - math.floor(top + SNAP),
        math.ceil(right - SNAP) - math.floor(left + SNAP),
    )
    window = first.intersection(within)
    if window is None or not shapely.intersects(outline, _box(window)):
        whole = Window(0, 0, info.height, info.width)
        if within != whole and first.intersection(whole) is not None:
            raise UsageError(
                f"{name}: lies outside {BOX}, which covers {within} of {info.path}: it covers "
                f"{first}"
            )
        raise UsageError(f"{name}: lies outside {info.path}: {whereabouts(polygons, info)}")
    return window


def _box(window: Window) -> BaseGeometry:
    return shapely.box(window.left, window.top, window.right, window.bottom)

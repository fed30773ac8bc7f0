"""GDAL's virtual format (VRT): a mosaic as a document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

from georsr.io.metadata import BandInfo
from georsr.window import Window

GDAL_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}

MAX_SAMPLE_WINDOWS = 256
"""Windows in which a mosaic is sampled."""


@lru_cache(maxsize=1)  # gaps, samples and probes of one mosaic ask for the same places
def vrt_dst_windows(document: str) -> list[Window]:
    """Where the rasters of a VRT lie in it; none for other kinds, which compute their pixels."""
    try:
        root = fromstring(document)
    except ParseError:
        return []
    sides = ("yOff", "xOff", "ySize", "xSize")
    height, width = int(root.get("rasterYSize", 0)), int(root.get("rasterXSize", 0))
    band = root.find("VRTRasterBand")
    found = []
    for place in [] if band is None else band.iter("DstRect"):
        top, left, rows, columns = (round(float(place.get(side, 0))) for side in sides)
        window = Window(top, left, rows, columns).intersection(Window(0, 0, height, width))
        if window is not None:
            found.append(window)
    return found


def union_area(places: Sequence[Window]) -> int:
    """Pixels that lie in at least one of many windows."""
    sides = np.array([(w.left, w.top, w.right, w.bottom) for w in set(places)], float)
    return round(shapely.union_all(shapely.box(*sides.reshape(-1, 4).T)).area)


def sample_windows_in(places: Sequence[Window], max_pixels: int) -> list[Window]:
    """Windows spread over the rasters of a mosaic, together of at most ``max_pixels``.

    One in the middle of each of many rasters, a grid of them in each of a few.
    """
    count = min(MAX_SAMPLE_WINDOWS, len(places))
    each = max(1, math.isqrt(MAX_SAMPLE_WINDOWS // count))
    side = max(1, int((max_pixels / count) ** 0.5) // each)
    chosen = [places[i * len(places) // count] for i in range(count)]
    return [
        Window(place.top + top, place.left + left, min(side, place.height), min(side, place.width))
        for place in chosen
        for top in _starts(place.height, side, each)
        for left in _starts(place.width, side, each)
    ]


def _starts(length: int, side: int, count: int) -> list[int]:
    """Starts of pieces of an axis: of one in its middle, of more from one end to the other."""
    last = max(0, length - side)
    if count == 1:
        return [last // 2]
    return sorted({round(i * last / (count - 1)) for i in range(count)})


def add_vrt_source(
    element: Element,
    kind: str,
    path: tuple[str, bool],
    band: str,
    dtype: str,
    block_shape: tuple[int, int],
    place: Window,
) -> Element:
    """Put a whole raster into a band.

    Parameters
    ----------
    element
        The band.
    kind
        ``SimpleSource`` or ``ComplexSource``.
    path
        Of the raster, and whether it counts from the document's folder.
    band, dtype, block_shape
        What is read: a number or ``mask,1``, its data type and blocks (rows, columns).
    place
        Where its pixels lie.
    """
    source = SubElement(element, kind)
    SubElement(source, "SourceFilename", relativeToVRT=str(int(path[1]))).text = path[0]
    SubElement(source, "SourceBand").text = band
    rows, columns = block_shape
    # with these GDAL needs not open the file before it is read, and may close it again
    SubElement(
        source,
        "SourceProperties",
        RasterXSize=str(place.width),
        RasterYSize=str(place.height),
        DataType=GDAL_TYPES[dtype],
        BlockXSize=str(columns),
        BlockYSize=str(rows),
    )
    _rect(source, "SrcRect", Window(0, 0, place.height, place.width))
    _rect(source, "DstRect", place)
    return source


def vrt_root(width: int, height: int, crs: CRS | None, transform: Affine | None) -> Element:
    """An empty VRT of a grid."""
    root = Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if crs is not None:
        SubElement(root, "SRS").text = crs.to_wkt()
    if transform is not None:
        a, b, c, d, e, f = tuple(transform)[:6]
        SubElement(root, "GeoTransform").text = ", ".join(map(repr, (c, a, b, f, d, e)))
    return root


def add_tags(element: Element, tags: Mapping[str, str], space: str = "") -> None:
    """Metadata of a dataset or a band."""
    metadata = SubElement(element, "Metadata", {"domain": space} if space else {})
    for name, value in tags.items():
        SubElement(metadata, "MDI", key=name).text = value


def add_band(
    root: Element, number: int, dtype: str, band: BandInfo, nodata: float | None
) -> Element:
    """A band that has no source yet."""
    element = SubElement(root, "VRTRasterBand", dataType=GDAL_TYPES[dtype], band=str(number))
    add_tags(element, band.tags)
    for name, text in (
        ("Description", band.description),
        ("UnitType", band.unit),
        ("Offset", repr(band.offset)),
        ("Scale", repr(band.scale)),
        ("ColorInterp", band.colorinterp.capitalize()),
        ("NoDataValue", None if nodata is None else repr(nodata)),
    ):
        if text is not None:
            SubElement(element, name).text = text
    return element


def _rect(element: Element, name: str, window: Window) -> None:
    SubElement(
        element,
        name,
        xOff=str(window.left),
        yOff=str(window.top),
        xSize=str(window.width),
        ySize=str(window.height),
    )

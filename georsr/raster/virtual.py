"""GDAL's virtual format (VRT): a mosaic as a document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, tostring

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

from georsr.raster.env import absolute
from georsr.raster.info import BandInfo
from georsr.types import Window

if TYPE_CHECKING:
    from georsr.raster.mosaic import Mosaic, Piece

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

SAMPLED = 256
"""Windows in which a mosaic is sampled."""


@lru_cache(maxsize=1)  # gaps, samples and probes of one mosaic ask for the same places
def virtual_places(document: str) -> list[Window]:
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


def covered(places: Sequence[Window]) -> int:
    """Pixels that lie in at least one of many windows."""
    sides = np.array([(w.left, w.top, w.right, w.bottom) for w in set(places)], float)
    return round(shapely.union_all(shapely.box(*sides.reshape(-1, 4).T)).area)


def windows_inside(places: Sequence[Window], max_pixels: int) -> list[Window]:
    """Windows spread over the rasters of a mosaic, together of at most ``max_pixels``.

    One in the middle of each of many rasters, a grid of them in each of a few.
    """
    count = min(SAMPLED, len(places))
    each = max(1, math.isqrt(SAMPLED // count))
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


def virtual_document(mosaic: Mosaic) -> str:
    """XML text of a VRT that reads a mosaic's rasters where they are."""
    first = mosaic.pieces[0].info
    root = begin_document(mosaic.width, mosaic.height, first.crs, mosaic.transform)
    for space, tags in _common_tags(mosaic):
        add_tags(root, tags, space)
    for number in range(1, first.count + 1 + (first.alpha_band is not None)):
        band = next((band for band in first.bands if band.number == number), None)
        if band is None:
            _alpha(root, mosaic, number)
        else:
            _band(root, mosaic, band)
    if mosaic.masked:
        mask = SubElement(SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        for piece in mosaic.pieces:
            # a later raster's hole shows the earlier one
            source = _source(mask, piece, "mask,1", "uint8", "ComplexSource")
            SubElement(source, "NODATA").text = "0"
    return tostring(root, encoding="unicode")


def _common_tags(mosaic: Mosaic) -> Iterator[tuple[str, dict[str, str]]]:
    """Tags that all rasters have alike; and how they are registered, as the first one."""
    first = mosaic.pieces[0].info
    yield "", {"AREA_OR_POINT": first.area_or_point} | _alike(mosaic, "")
    for space in first.tags:
        if space and (tags := _alike(mosaic, space)):
            yield space, tags


def _alike(mosaic: Mosaic, space: str) -> dict[str, str]:
    items = [set(piece.info.tags.get(space, {}).items()) for piece in mosaic.pieces]
    return dict(sorted(set.intersection(*items)))


def _band(root: Element, mosaic: Mosaic, band: BandInfo) -> None:
    nodata = band.nodata if mosaic.nodata is None else mosaic.nodata
    element = add_band(root, band.number, band.dtype, band, nodata)
    masked = mosaic.pieces[0].info.alpha_band is not None
    for piece in mosaic.pieces:
        if masked or piece.info.mask_kind == "mask":
            source = _source(element, piece, str(band.number), band.dtype, "ComplexSource")
            SubElement(source, "UseMaskBand").text = "true"
        elif nodata is not None:
            source = _source(element, piece, str(band.number), band.dtype, "ComplexSource")
            SubElement(source, "NODATA").text = repr(nodata)
        else:
            _source(element, piece, str(band.number), band.dtype, "SimpleSource")


def _alpha(root: Element, mosaic: Mosaic, number: int) -> None:
    dtype = mosaic.pieces[0].info.dtype
    element = SubElement(root, "VRTRasterBand", dataType=GDAL_TYPES[dtype], band=str(number))
    SubElement(element, "ColorInterp").text = "Alpha"
    for piece in mosaic.pieces:
        source = _source(element, piece, str(number), dtype, "ComplexSource")
        SubElement(source, "NODATA").text = "0"


def _source(element: Element, piece: Piece, band: str, dtype: str, kind: str) -> Element:
    """One raster's part in a band."""
    path, blocks = absolute(piece.info.address), piece.info.block_shape
    return add_source(element, kind, (path, False), band, dtype, blocks, piece.place)


def add_source(
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
    _rectangle(source, "SrcRect", Window(0, 0, place.height, place.width))
    _rectangle(source, "DstRect", place)
    return source


def begin_document(width: int, height: int, crs: CRS | None, transform: Affine | None) -> Element:
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


def _rectangle(element: Element, name: str, window: Window) -> None:
    SubElement(
        element,
        name,
        xOff=str(window.left),
        yOff=str(window.top),
        xSize=str(window.width),
        ySize=str(window.height),
    )

"""GDAL's virtual format (VRT): a mosaic as a document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from georsr.raster.env import is_remote
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


def virtual_document(mosaic: Mosaic) -> str:
    """XML text of a VRT that reads a mosaic's rasters where they are."""
    first = mosaic.pieces[0].info
    root = Element("VRTDataset", rasterXSize=str(mosaic.width), rasterYSize=str(mosaic.height))
    if first.crs is not None:
        SubElement(root, "SRS").text = first.crs.to_wkt()
    a, b, c, d, e, f = tuple(mosaic.transform)[:6]
    SubElement(root, "GeoTransform").text = ", ".join(map(repr, (c, a, b, f, d, e)))
    for space, tags in _common_tags(mosaic):
        metadata = SubElement(root, "Metadata", {"domain": space} if space else {})
        for name, value in tags.items():
            SubElement(metadata, "MDI", key=name).text = value
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
    element = SubElement(
        root, "VRTRasterBand", dataType=GDAL_TYPES[band.dtype], band=str(band.number)
    )
    tags = SubElement(element, "Metadata")
    for name, value in band.tags.items():
        SubElement(tags, "MDI", key=name).text = value
    nodata = band.nodata if mosaic.nodata is None else mosaic.nodata
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
    info = piece.info
    path = info.path
    if not is_remote(path) and Path(path).exists():  # else it is no file: /vsizip and the like
        path = str(Path(path).absolute())
    source = SubElement(element, kind)
    SubElement(source, "SourceFilename", relativeToVRT="0").text = path
    SubElement(source, "SourceBand").text = band
    rows, columns = info.block_shape
    # with these GDAL needs not open the file before it is read, and may close it again
    SubElement(
        source,
        "SourceProperties",
        RasterXSize=str(info.width),
        RasterYSize=str(info.height),
        DataType=GDAL_TYPES[dtype],
        BlockXSize=str(columns),
        BlockYSize=str(rows),
    )
    _rectangle(source, "SrcRect", Window(0, 0, info.height, info.width))
    _rectangle(source, "DstRect", piece.place)
    return source


def _rectangle(element: Element, name: str, window: Window) -> None:
    SubElement(
        element,
        name,
        xOff=str(window.left),
        yOff=str(window.top),
        xSize=str(window.width),
        ySize=str(window.height),
    )

"""Build VRT documents (GDAL's virtual format), and read where their rasters lie."""

from __future__ import annotations

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


@lru_cache(maxsize=1)  # called several times for the same mosaic
def vrt_dst_windows(document: str) -> list[Window]:
    """Return the windows of the rasters in a VRT; an empty list for a derived VRT without them."""
    try:
        root = fromstring(document)
    except ParseError:
        return []
    height, width = int(root.get("rasterYSize", 0)), int(root.get("rasterXSize", 0))
    band = root.find("VRTRasterBand")
    windows = []
    for rect in [] if band is None else band.iter("DstRect"):
        top, left, rows, columns = (
            round(float(rect.get(name, 0))) for name in ("yOff", "xOff", "ySize", "xSize")
        )
        window = Window(top, left, rows, columns).intersection(Window(0, 0, height, width))
        if window is not None:
            windows.append(window)
    return windows


def union_area(windows: Sequence[Window]) -> int:
    """Return the number of pixels that lie in at least one of the windows."""
    bounds = np.array([(w.left, w.top, w.right, w.bottom) for w in set(windows)], float)
    return round(shapely.union_all(shapely.box(*bounds.reshape(-1, 4).T)).area)


def add_vrt_source(
    element: Element,
    kind: str,
    path: tuple[str, bool],
    band: str,
    dtype: str,
    block_shape: tuple[int, int],
    window: Window,
) -> Element:
    """Add a complete raster as a source of a band.

    Parameters
    ----------
    element
        Element of the band.
    kind
        ``SimpleSource`` or ``ComplexSource``.
    path
        Path of the raster, and whether it is relative to the folder of the VRT.
    band
        Band number, or ``mask,1`` for the mask.
    dtype
        Data type of the band.
    block_shape
        (rows, columns) of the raster's blocks.
    window
        Position of the raster in the VRT, in pixels.
    """
    source = SubElement(element, kind)
    SubElement(source, "SourceFilename", relativeToVRT=str(int(path[1]))).text = path[0]
    SubElement(source, "SourceBand").text = band
    rows, columns = block_shape
    # with these properties GDAL opens the file only when it reads it, and may close it again
    SubElement(
        source,
        "SourceProperties",
        RasterXSize=str(window.width),
        RasterYSize=str(window.height),
        DataType=GDAL_TYPES[dtype],
        BlockXSize=str(columns),
        BlockYSize=str(rows),
    )
    _add_rect(source, "SrcRect", Window(0, 0, window.height, window.width))
    _add_rect(source, "DstRect", window)
    return source


def vrt_root(width: int, height: int, crs: CRS | None, transform: Affine | None) -> Element:
    """Return the root element of a VRT without bands."""
    root = Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if crs is not None:
        SubElement(root, "SRS").text = crs.to_wkt()
    if transform is not None:
        a, b, c, d, e, f = tuple(transform)[:6]
        SubElement(root, "GeoTransform").text = ", ".join(map(repr, (c, a, b, f, d, e)))
    return root


def add_tags(element: Element, tags: Mapping[str, str], space: str = "") -> None:
    """Add metadata to a dataset or a band."""
    metadata = SubElement(element, "Metadata", {"domain": space} if space else {})
    for name, value in tags.items():
        SubElement(metadata, "MDI", key=name).text = value


def add_band(
    root: Element, number: int, dtype: str, band: BandInfo, nodata: float | None
) -> Element:
    """Add a band without a source."""
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


def _add_rect(element: Element, name: str, window: Window) -> None:
    SubElement(
        element,
        name,
        xOff=str(window.left),
        yOff=str(window.top),
        xSize=str(window.width),
        ySize=str(window.height),
    )

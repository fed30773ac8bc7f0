"""Build, read and check VRT documents, GDAL's virtual format.

A VRT can name any file, URL or other document as the source of its pixels, and GDAL opens them with
any of its drivers. A VRT is therefore opened only if all its elements and attributes are known, its
files lie in or under its own folder (or anywhere on this machine, if the user trusts it), and each
file is an image of an allowed format or a VRT that passes the same checks.
"""

from __future__ import annotations

# ruff: noqa: PTH114
# A mosaic may have 10,000 files, and pathlib would take longer than the checks
import html
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, tostring

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from georsr.errors import InputError, UsageError
from georsr.io.gdal_env import (
    ReadPolicy,
    containing_archive,
    image_drivers,
    is_plain_crs,
    is_regular,
    is_remote,
    is_sqlite_with_log,
    join_path,
    may_name_other_files,
    names_proj_file,
    network_drivers,
    open_with_drivers,
    parent_folder,
    read_header,
    root_cause,
    shorten,
    subdataset_file,
    suppress_rasterio_warnings,
)
from georsr.io.metadata import BandInfo
from georsr.io.sidecars import (
    TIFF_SIGNATURES,
    check_dataset,
    check_hdf5,
    check_sidecars,
    check_tiff,
)
from georsr.window import AnyArray, Window

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


def window_boxes(windows: Sequence[Window]) -> AnyArray:
    """Return n windows as an array (n,) of polygons in pixels, x right and y down."""
    bounds = np.array([(w.left, w.top, w.right, w.bottom) for w in windows], float)
    return np.asarray(shapely.box(*bounds.reshape(-1, 4).T))


def hidden_windows(windows: Sequence[Window]) -> list[int]:
    """Return the indices of the windows that later windows cover completely."""
    boxes = window_boxes(windows)
    first, second = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    later = second > first
    above: dict[int, list[int]] = {}
    for below, other in zip(first[later].tolist(), second[later].tolist(), strict=True):
        above.setdefault(below, []).append(other)
    return [
        index
        for index, others in sorted(above.items())
        if shapely.union_all(boxes[others]).covers(boxes[index])
    ]


def union_area(windows: Sequence[Window]) -> int:
    """Return the number of pixels that lie in at least one of the windows."""
    return round(shapely.union_all(window_boxes([*set(windows)])).area)


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
    band, dtype
        Number of the raster's band, or ``mask,1`` for its mask; data type of the band.
    block_shape, window
        (rows, columns) of the raster's blocks, and its position in the VRT, in pixels.
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
    for space in dict.fromkeys(("", *band.tags)):
        add_tags(element, band.tags.get(space, {}), space)
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


_MAX_DEPTH = 8
_CHUNK_BYTES, _MAX_CHUNKS = 16384, 4096
"""Size and largest number of the chunks in which GDAL reads a document."""

_ELEMENTS = """
    VRTDataset SRS GeoTransform GCPList GCP Metadata MDI BlockXSize BlockYSize
    VRTRasterBand NoDataValue HideNoDataValue ColorInterp ColorTable Entry Description UnitType
    Offset Scale CategoryNames Category Histograms HistItem HistMin HistMax BucketCount
    IncludeOutOfRange Approximate HistCounts GDALRasterAttributeTable FieldDefn Name Type Usage
    Row F MaskBand Overview OverviewList SimpleSource ComplexSource AveragedSource
    NoDataFromMaskSource KernelFilteredSource Kernel Size Coefs SourceBand SourceProperties SrcRect
    DstRect UseMaskBand NODATA ScaleOffset ScaleRatio LUT ColorTableComponent Exponent SrcMin
    SrcMax DstMin DstMax Clamp MaskValueThreshold RemappedValue PixelFunctionType
    PixelFunctionArguments PixelFunctionLanguage SourceTransferType OpenOptions OOI
    PansharpeningOptions Algorithm AlgorithmOptions Weights Resampling NumThreads BitDepth NoData
    SpatialExtentAdjustment PanchroBand SpectralBand
    GDALWarpOptions WarpMemoryLimit ResampleAlg WorkingDataType Option MultiBand Cutline
    CutlineBlendDist Transformer ApproxTransformer MaxError BaseTransformer GenImgProjTransformer
    SrcGeoTransform SrcInvGeoTransform DstGeoTransform DstInvGeoTransform ReprojectTransformer
    ReprojectionTransformer SourceSRS TargetSRS SourceCRS TargetCRS Options GCPTransformer
    TPSTransformer RPCTransformer SrcGCPTransformer SrcTPSTransformer SrcRPCTransformer Order
    Reversed HeightOffset HeightScale PixErrThreshold BandList BandMapping SrcNoDataReal
    SrcNoDataImag DstNoDataReal DstNoDataImag SrcAlphaBand DstAlphaBand
    SourceFilename SourceDataset
    """
_ATTRIBUTES = """
    rasterXSize rasterYSize subClass dataType band domain format key name role relativeToVRT shared
    xOff yOff xSize ySize BlockXSize BlockYSize dataAxisToSRSAxisMapping coordinateEpoch mapping
    Id Info Pixel Line X Y Z Projection c1 c2 c3 c4 index tableType Row0Min BinSize resampling src
    dst dstBand normalized
    """
_FILE_ELEMENTS = ("sourcefilename", "sourcedataset")
"""Elements of a VRT whose text is the name of a file, in lower case: GDAL ignores case."""
_KNOWN_ELEMENTS = frozenset(_ELEMENTS.lower().split())
_KNOWN_ATTRIBUTES = frozenset(_ATTRIBUTES.lower().split())
"""GDAL treats an attribute like an element, so that an unknown one may name a file."""
_SUBCLASSES = (
    "",
    "VRTWarpedDataset",
    "VRTPansharpenedDataset",
    "VRTSourcedRasterBand",
    "VRTWarpedRasterBand",
    "VRTPansharpenedRasterBand",
    "VRTDerivedRasterBand",
)
_CRS_ELEMENTS = ("srs", "sourcesrs", "targetsrs", "sourcecrs", "targetcrs")
_DOMAINS_OF_GDAL = ("OVERVIEWS", "PROXYOVERVIEWREQUEST", "VRT_SOURCES", "NEW_VRT_SOURCES")
_REMOTE_SOURCE = re.compile(r"[^?&#\s]+(?<!\.vrt)", re.IGNORECASE)
_HARMLESS_OPTIONS = ("NUM_THREADS", "OVERVIEW_LEVEL")


def open_vrt(path: str, policy: ReadPolicy) -> Any:
    """Check a VRT and all files that it names, and open it.

    A VRT on a network is opened from the text that was checked, because the server may send another
    text the next time.
    """
    path = _resolve_link(path)
    document = read_document(path)
    root = check_document(document, path, policy)
    with suppress_rasterio_warnings():
        if not is_remote(path):
            return rasterio.open(path, driver="VRT")
        folder, drivers = parent_folder(path), ",".join(network_drivers())
        for element in root.iter():
            if element.tag.lower() in _FILE_ELEMENTS:
                name = element.text or ""
                name = join_path(folder, name) if _is_relative(element, path) else name
                element.text = f"vrt://{_vsi_name(name)}?if={drivers}"  # no other drivers
                element.attrib.clear()
        return rasterio.open(tostring(root, encoding="unicode"), driver="VRT")


def read_document(path: str) -> str:
    """Read the text of a VRT; UsageError if there is none, InputError if it cannot be read."""
    if not is_remote(path) and not path.startswith("/vsi"):
        try:
            if Path(path).exists() and not is_regular(path):
                raise InputError(f"{path}: is not a regular file, expected a VRT document")
            return _decode(Path(path).read_bytes(), path)
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such file") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    # rasterio cannot read bytes of GDAL's virtual file systems: read the file as raw pixels, which
    # are zero after its end
    raw = (
        f'<VRTDataset rasterXSize="{_CHUNK_BYTES}" rasterYSize="{_MAX_CHUNKS}">'
        '<VRTRasterBand dataType="Byte" '
        'band="1" subClass="VRTRawRasterBand"><SourceFilename relativeToVRT="0">'
        f"{html.escape(_vsi_name(path))}</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>1"
        f"</PixelOffset><LineOffset>{_CHUNK_BYTES}</LineOffset></VRTRasterBand></VRTDataset>"
    )
    text = b""
    try:
        with (
            suppress_rasterio_warnings(),
            rasterio.Env(GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE="ALL"),
            rasterio.open(raw, driver="VRT") as dataset,
        ):
            for row in range(dataset.height):
                part = dataset.read(1, window=((row, row + 1), (0, _CHUNK_BYTES))).tobytes()
                text += part.rstrip(b"\0")
                if part.endswith(b"\0"):
                    break
    except RasterioError as error:
        if re.search(r"No such file|does not exist|404", root_cause(error)):
            raise UsageError(f"{path}: no such file") from error
        raise InputError(f"{path}: cannot be read: {root_cause(error)}") from error
    if not text:
        raise UsageError(f"{path}: no such file, or an empty one")
    return _decode(text, path)


def _decode(text: bytes, path: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:  # GDAL would read names that differ from those checked here
        raise InputError(f"{path}: is not a VRT document: is not UTF-8") from error


def _resolve_link(path: str) -> str:
    """Return the target of a link: GDAL resolves relative names from its folder."""
    try:
        while not path.startswith("/vsi") and not is_remote(path) and Path(path).is_symlink():
            Path(path).resolve(strict=True)  # raises if links form a loop
            path = join_path(parent_folder(path), str(Path(path).readlink()))
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path}: is a broken link") from error
    return path


def _vsi_name(path: str) -> str:
    return f"/vsicurl/{path}" if re.match(r"^(https?|ftp)://", path) else path


def check_document(document: str, path: str, policy: ReadPolicy, depth: int = 0) -> Element:
    """Check that all elements of a VRT are known and its files are allowed; return its root.

    Relative names are resolved from the folder of ``path``; ``depth`` is the number of VRTs that
    this one is nested in.

    Raises
    ------
    UsageError
        The document may read a file that it must not read.
    InputError
        The document is not a VRT.
    """
    # GDAL's parser is not an XML parser: documents that the two may read differently are refused
    if "\0" in document or re.search(
        r"<!(?!--|\[CDATA\[)|.<\?|^<\?(?!xml [^<>]*\?>)", document, re.DOTALL
    ):
        raise InputError(f"{path}: is not a plain VRT document: has a DTD or instructions")
    try:
        root = fromstring(document)
    except (ParseError, ValueError) as error:
        raise InputError(f"{path}: is not a VRT document: {error}") from error
    if root.tag != "VRTDataset":
        raise InputError(f"{path}: is not a VRT document: its root is {root.tag}")
    if depth > _MAX_DEPTH:
        raise UsageError(f"{path}: lies {depth} VRTs deep, expected at most {_MAX_DEPTH}")
    seen = set()  # most elements of a mosaic with many bands are equal
    for element in root.iter():
        content = (element.tag, element.text, len(element) > 0, *element.attrib.items())
        if content not in seen or element.tag.lower() == "metadata":
            _check_element(element, path)
            seen.add(content)
    files = [element for element in root.iter() if element.tag.lower() in _FILE_ELEMENTS]
    for name, relative in dict.fromkeys((e.text or "", _is_relative(e, path)) for e in files):
        _check_source(name, relative, path, policy, depth)
    return root


def _check_element(element: Element, path: str) -> None:
    """Raise if an element is unknown: it may name a file or contain code."""
    tag = element.tag.lower()
    values = {name.lower(): value for name, value in element.attrib.items()}
    if tag not in _KNOWN_ELEMENTS:
        raise _refusal(path, f"the element {element.tag}")
    _check_values(element, path)
    if tag in _FILE_ELEMENTS and len(element):
        raise _refusal(path, f"elements in {element.tag}")
    unknown = sorted(values.keys() - _KNOWN_ATTRIBUTES)
    if unknown and tag != "pixelfunctionarguments":
        raise _refusal(path, f"the attribute {unknown[0]} of {element.tag}")
    if values.get("subclass", "") not in _SUBCLASSES:
        raise _refusal(path, f"the kind {values['subclass']}")
    if tag == "metadata":
        _check_domain(element, values.get("domain", "").upper(), path)
    elif tag == "pixelfunctionlanguage" and (element.text or "").strip().upper() != "C":
        raise _refusal(path, f"a pixel function in {element.text}")
    elif tag == "ooi" and values.get("key") not in _HARMLESS_OPTIONS:
        raise _refusal(path, f"the open option {values.get('key')}")


def _check_values(element: Element, path: str) -> None:
    """Raise if GDAL or PROJ would open a file because of a text, or GDAL reads it differently."""
    tag, text = element.tag.lower(), element.text or ""
    if len({name.lower() for name in element.attrib}) < len(element.attrib):
        raise _refusal(path, f"an attribute of {element.tag} twice")  # GDAL takes the first
    if any(names_proj_file(value) for value in (text, *element.attrib.values())):
        raise UsageError(f"{path}: names a file of PROJ by its path, expected a plain name")
    if tag in _CRS_ELEMENTS and not is_plain_crs(text):
        raise _refusal(path, f"the coordinate reference system {text}")


def _check_domain(element: Element, domain: str, path: str) -> None:
    """Raise if GDAL opens files that the metadata name."""
    if domain in _DOMAINS_OF_GDAL:
        raise _refusal(path, f"metadata of the domain {domain}")
    if domain.startswith("XML:"):  # a separate document, which GDAL does not interpret
        for child in list(element):
            element.remove(child)


def _is_relative(element: Element, path: str) -> bool:
    """Return whether the name of a file is relative to the folder of the VRT."""
    names = {name.lower(): value for name, value in element.attrib.items()}
    value = names.get("relativetovrt", "0").strip()
    if value not in ("0", "1"):
        raise _refusal(path, f"relativeToVRT={value}")
    return value == "1"


def _refusal(path: str, content: str) -> UsageError:
    return UsageError(
        f"{path}: has {shorten(content)}, which may read any file; expected a VRT of images alone, "
        "as gdalbuildvrt and gdalwarp write them; if you trust it, turn it into a GeoTIFF with "
        "gdal_translate"
    )


def _check_source(name: str, relative: bool, path: str, policy: ReadPolicy, depth: int) -> None:
    """Check one file that a VRT names."""
    subdataset = subdataset_file(name)
    file = subdataset or name
    if not file or file.startswith("<"):
        raise _refusal(path, "a document in place of a file name")
    if name != name.strip() or not name.isprintable():
        raise _refusal(
            path, f"the file name {name!r}, with spaces at its ends or control characters"
        )
    if re.match(r"^[A-Za-z][A-Za-z0-9_]+:", file) and not is_remote(file):
        raise UsageError(f"{path}: refers to {shorten(name)}, expected the name of an image file")
    folder = parent_folder(path)
    target = join_path(folder, file) if relative else file
    if subdataset and (
        len(file) == 1 or Path(join_path(folder, name) if relative else name).exists()
    ):
        raise _refusal(path, f"the file name {name}")
    _check_location(target, folder, path, policy)
    address = name.replace(file, target, 1)
    if is_remote(target):
        if not _REMOTE_SOURCE.fullmatch(target) or subdataset:
            raise UsageError(
                f"{path}: refers to {shorten(name)}, expected the plain address of an image, not "
                "of another VRT; name that one instead"
            )
        return
    if address in policy.checked:
        return
    if target.lower().endswith(".vrt"):
        policy.checked.add(target)
        target = _resolve_link(target)
        check_document(read_document(target), target, policy, depth + 1)
        check_sidecars(target, policy)
    elif read_header(target).startswith(TIFF_SIGNATURES) and subdataset is None:
        check_tiff(target, policy)
    else:
        policy.checked.add(address)
        _check_image(target, path, policy, address)


def _check_location(target: str, folder: str, path: str, policy: ReadPolicy) -> None:
    """Raise if a file is not in or under the folder of the VRT that names it."""
    if is_remote(path):
        plain = ".." not in target.split("/") and "%" not in target
        inside = plain and _vsi_name(target).startswith(_vsi_name(folder) + "/")
    elif is_remote(target):
        inside = False
    elif path.startswith("/vsi"):
        inside = posixpath.normpath(target).startswith(posixpath.normpath(folder) + "/")
    else:
        file = containing_archive(target) if target.startswith("/vsi") else target
        inside = file is not None and (policy.trusts_vrt or _is_within(file, folder, policy))
    if not inside:
        raise UsageError(
            f"{path}: refers to {shorten(target)}, which is not in or under the folder of the "
            "VRT; put the VRT into a folder above its files, or name those files instead of it, "
            "or, if you trust it and they are on this machine, use --allow-driver VRT"
        )


def _is_within(target: str, folder: str, policy: ReadPolicy) -> bool:
    """Return whether a file lies in or under a folder, links resolved."""
    parent, name = os.path.split(target)
    try:
        for path in (parent, folder):
            if path not in policy.real_paths:  # a mosaic has thousands of files in a few folders
                policy.real_paths[path] = os.path.realpath(path)
        real = f"{policy.real_paths[parent]}/{name}"
        if name in ("", ".", "..") or os.path.islink(target):
            real = os.path.realpath(target)
        return real.startswith(f"{policy.real_paths[folder]}/".replace("//", "/"))
    except (OSError, ValueError, RuntimeError):
        return False


def _check_image(target: str, path: str, policy: ReadPolicy, address: str) -> None:
    """Check a source of a VRT that is not a TIFF by opening it with the allowed drivers.

    ``address`` is the name of the file, or of a subdataset in it.
    """
    if target.startswith("/vsi"):
        if not read_header(target):
            raise UsageError(
                f"{path}: refers to {shorten(target)}, whose content cannot be checked"
            )
    elif not Path(target).exists():
        return  # reading it raises an error later
    elif not is_regular(target):
        raise UsageError(f"{path}: refers to {shorten(target)}, expected a file")
    if may_name_other_files(target) or is_sqlite_with_log(target):
        raise UsageError(
            f"{path}: refers to {shorten(target)}, which GDAL may take for a document that names "
            "other files, or write files next to it; expected an image"
        )
    check_sidecars(target, policy)
    check_hdf5(target, policy)
    try:
        with suppress_rasterio_warnings(), open_with_drivers(address, image_drivers()) as dataset:
            check_dataset(dataset, address, policy)
    except RasterioError as error:
        raise UsageError(
            f"{path}: refers to {shorten(target)}, which is no image of a format that georsr "
            f"reads: {root_cause(error)}"
        ) from error

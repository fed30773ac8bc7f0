"""Open a VRT after its document, and every file that it names, have been checked.

A VRT can name any file, address or other document as its pixels, and GDAL opens them by any of its
drivers. What is checked here: all elements and attributes are known, files lie in or under the
folder of the VRT (or anywhere on this machine, if the user trusts it), and each is an image of an
allowed format, or such a VRT itself.
"""

# ruff: noqa: PTH114
# A mosaic has 10,000 files, and pathlib takes longer than the checks of each

from __future__ import annotations

import html
import os
import posixpath
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring, tostring

import rasterio
from rasterio.errors import RasterioError

from georsr.errors import InputError, UsageError
from georsr.io.drivers import (
    ReadPolicy,
    containing_archive,
    image_drivers,
    is_plain_crs,
    is_regular,
    is_sqlite_with_log,
    join_path,
    may_name_other_files,
    names_proj_file,
    network_drivers,
    open_with_drivers,
    parent_folder,
    read_header,
    shorten,
    subdataset_file,
)
from georsr.io.gdal_env import is_remote, root_cause, suppress_rasterio_warnings
from georsr.io.sidecars import (
    TIFF_SIGNATURES,
    check_dataset,
    check_hdf5,
    check_sidecars,
    check_tiff,
)

_MAX_DEPTH = 8
_LINE, _LINES = 16384, 4096
"""Bytes of a line, and lines at most, in which a document is read by GDAL."""

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
"""Elements of a VRT whose text names a file. GDAL takes small letters for capitals."""
_KNOWN_ELEMENTS = frozenset(_ELEMENTS.lower().split())
_KNOWN_ATTRIBUTES = frozenset(_ATTRIBUTES.lower().split())
"""GDAL takes an attribute for an element: one that is not known may name a file."""
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
    """Open a VRT whose document, and everything it refers to, has been checked.

    A VRT of a network is opened from the text that was checked: its server may give another answer
    when it is asked again.
    """
    path = _followed(path)
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
                element.text = f"vrt://{_vsi(name)}?if={drivers}"  # GDAL gives it to no others
                element.attrib.clear()
        return rasterio.open(tostring(root, encoding="unicode"), driver="VRT")


def read_document(path: str) -> str:
    """Return the text of a VRT.

    Raises
    ------
    UsageError
        There is no such file.
    InputError
        It cannot be read.
    """
    if not is_remote(path) and not path.startswith("/vsi"):
        try:
            if Path(path).exists() and not is_regular(path):
                raise InputError(f"{path}: is not a regular file, expected a VRT document")
            return _decoded(Path(path).read_bytes(), path)
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such file") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    # GDAL reads any file of its virtual file systems as raw pixels, zeros after its end
    raw = (
        f'<VRTDataset rasterXSize="{_LINE}" rasterYSize="{_LINES}"><VRTRasterBand dataType="Byte" '
        'band="1" subClass="VRTRawRasterBand"><SourceFilename relativeToVRT="0">'
        f"{html.escape(_vsi(path))}</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>1"
        f"</PixelOffset><LineOffset>{_LINE}</LineOffset></VRTRasterBand></VRTDataset>"
    )
    text = b""
    try:
        with (
            suppress_rasterio_warnings(),
            rasterio.Env(GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE="ALL"),
            rasterio.open(raw, driver="VRT") as dataset,
        ):
            for row in range(dataset.height):
                part = dataset.read(1, window=((row, row + 1), (0, _LINE))).tobytes()
                text += part.rstrip(b"\0")
                if part.endswith(b"\0"):
                    break
    except RasterioError as error:
        if re.search(r"No such file|does not exist|404", root_cause(error)):
            raise UsageError(f"{path}: no such file") from error
        raise InputError(f"{path}: cannot be read: {root_cause(error)}") from error
    if not text:
        raise UsageError(f"{path}: no such file, or an empty one")
    return _decoded(text, path)


def _decoded(text: bytes, path: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:  # GDAL would read other names than those checked here
        raise InputError(f"{path}: is not a VRT document: is not UTF-8") from error


def _followed(path: str) -> str:
    """Return the file that a name is a link to: GDAL counts relative names from its folder."""
    try:
        while not path.startswith("/vsi") and not is_remote(path) and Path(path).is_symlink():
            Path(path).resolve(strict=True)  # no circle
            path = join_path(parent_folder(path), str(Path(path).readlink()))
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path}: is a link that leads nowhere") from error
    return path


def _vsi(path: str) -> str:
    return f"/vsicurl/{path}" if re.match(r"^(https?|ftp)://", path) else path


def check_document(document: str, path: str, policy: ReadPolicy, depth: int = 0) -> Element:
    """Check a VRT document: all its elements are known, and all its files are allowed.

    Parameters
    ----------
    document
        XML text.
    path
        Where it lies, which relative names count from.
    policy
    depth
        Of VRTs within VRTs.

    Returns
    -------
    Element
        Its root.

    Raises
    ------
    UsageError
        It may read what it must not: what, and what to do.
    InputError
        It is no VRT.
    """
    # GDAL's parser is no parser of XML: what the two may read differently is refused
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
    seen = set()  # of a mosaic of many bands most elements are alike
    for element in root.iter():
        looks = (element.tag, element.text, len(element) > 0, *element.attrib.items())
        if looks not in seen or element.tag.lower() == "metadata":
            _check_element(element, path)
            seen.add(looks)
    files = [element for element in root.iter() if element.tag.lower() in _FILE_ELEMENTS]
    for name, relative in dict.fromkeys((e.text or "", _is_relative(e, path)) for e in files):
        _check_source(name, relative, path, policy, depth)
    return root


def _check_element(element: Element, path: str) -> None:
    """Refuse an element that is not on the list: it may name a file, or hold code."""
    tag = element.tag.lower()
    values = {name.lower(): value for name, value in element.attrib.items()}
    if tag not in _KNOWN_ELEMENTS:
        raise _refused(path, f"the element {element.tag}")
    _check_values(element, path)
    if tag in _FILE_ELEMENTS and len(element):
        raise _refused(path, f"elements in {element.tag}")
    unknown = sorted(values.keys() - _KNOWN_ATTRIBUTES)
    if unknown and tag != "pixelfunctionarguments":
        raise _refused(path, f"the attribute {unknown[0]} of {element.tag}")
    if values.get("subclass", "") not in _SUBCLASSES:
        raise _refused(path, f"the kind {values['subclass']}")
    if tag == "metadata":
        _check_domain(element, values.get("domain", "").upper(), path)
    elif tag == "pixelfunctionlanguage" and (element.text or "").strip().upper() != "C":
        raise _refused(path, f"a pixel function in {element.text}")
    elif tag == "ooi" and values.get("key") not in _HARMLESS_OPTIONS:
        raise _refused(path, f"the open option {values.get('key')}")


def _check_values(element: Element, path: str) -> None:
    """Refuse text by which GDAL or PROJ would open a file, and what GDAL reads differently."""
    tag, text = element.tag.lower(), element.text or ""
    if len({name.lower() for name in element.attrib}) < len(element.attrib):
        raise _refused(path, f"an attribute of {element.tag} twice")  # GDAL takes the first
    if any(names_proj_file(value) for value in (text, *element.attrib.values())):
        raise UsageError(f"{path}: names a file of PROJ by its path, expected a plain name")
    if tag in _CRS_ELEMENTS and not is_plain_crs(text):
        raise _refused(path, f"the coordinate reference system {text}")


def _check_domain(element: Element, domain: str, path: str) -> None:
    """Refuse metadata that GDAL follows."""
    if domain in _DOMAINS_OF_GDAL:
        raise _refused(path, f"metadata of the domain {domain}")
    if domain.startswith("XML:"):  # a document of its own, which GDAL hands on as it is
        for child in list(element):
            element.remove(child)


def _is_relative(element: Element, path: str) -> bool:
    """Return whether the name of a file counts from the folder of the VRT."""
    names = {name.lower(): value for name, value in element.attrib.items()}
    value = names.get("relativetovrt", "0").strip()
    if value not in ("0", "1"):
        raise _refused(path, f"relativeToVRT={value}")
    return value == "1"


def _refused(path: str, what: str) -> UsageError:
    return UsageError(
        f"{path}: has {shorten(what)}, which may read any file; expected a VRT of images alone, "
        "as gdalbuildvrt and gdalwarp write them; if you trust it, turn it into a GeoTIFF with "
        "gdal_translate"
    )


def _check_source(name: str, relative: bool, path: str, policy: ReadPolicy, depth: int) -> None:
    """Check one file that a VRT names."""
    subdataset = subdataset_file(name)
    file = subdataset or name
    if not file or file.startswith("<"):
        raise _refused(path, "a document in place of a file name")
    if name != name.strip() or not name.isprintable():
        raise _refused(
            path, f"the file name {name!r}, with spaces at its ends or control characters"
        )
    if re.match(r"^[A-Za-z][A-Za-z0-9_]+:", file) and not is_remote(file):
        raise UsageError(f"{path}: refers to {shorten(name)}, expected the name of an image file")
    folder = parent_folder(path)
    target = join_path(folder, file) if relative else file
    if subdataset and (
        len(file) == 1 or Path(join_path(folder, name) if relative else name).exists()
    ):
        raise _refused(path, f"the file name {name}")
    _check_place(target, folder, path, policy)
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
        target = _followed(target)
        check_document(read_document(target), target, policy, depth + 1)
        check_sidecars(target, policy)
    elif read_header(target).startswith(TIFF_SIGNATURES) and subdataset is None:
        check_tiff(target, policy)
    else:
        policy.checked.add(address)
        _check_image(target, path, policy, address)


def _check_place(target: str, folder: str, path: str, policy: ReadPolicy) -> None:
    """Refuse a file outside the folder of the VRT that names it."""
    if is_remote(path):
        plain = ".." not in target.split("/") and "%" not in target
        inside = plain and _vsi(target).startswith(_vsi(folder) + "/")
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
            "or, if you trust it and they are on this machine, say --allow-driver VRT"
        )


def _is_within(target: str, folder: str, policy: ReadPolicy) -> bool:
    """Return whether a file lies in or under a folder, links resolved."""
    place, name = os.path.split(target)
    try:
        for other in (place, folder):
            if other not in policy.real_paths:  # a mosaic has thousands of files in a few folders
                policy.real_paths[other] = os.path.realpath(other)
        real = f"{policy.real_paths[place]}/{name}"
        if name in ("", ".", "..") or os.path.islink(target):
            real = os.path.realpath(target)
        return real.startswith(f"{policy.real_paths[folder]}/".replace("//", "/"))
    except (OSError, ValueError, RuntimeError):
        return False


def _check_image(target: str, path: str, policy: ReadPolicy, address: str) -> None:
    """Check a source of a VRT that is no plain TIFF, by opening it with the allowed drivers.

    ``address`` is its name, or that of a subdataset in it.
    """
    if target.startswith("/vsi"):
        if not read_header(target):
            raise UsageError(f"{path}: refers to {shorten(target)}, which cannot be looked into")
    elif not Path(target).exists():
        return  # reading it will say so
    elif not is_regular(target):
        raise UsageError(f"{path}: refers to {shorten(target)}, expected a file")
    if may_name_other_files(target) or is_sqlite_with_log(target):
        raise UsageError(
            f"{path}: refers to {shorten(target)}, which GDAL may take for a document that names "
            "other files, or write beside; expected an image"
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

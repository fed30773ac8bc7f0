"""Read the metadata of a raster and select its bands: `RasterInfo` and `BandInfo`.

The roles of bands, and rasters that are not images, are found by metadata. The georeferencing of a
window, and of the finer grid of an output, is computed from that of the raster.

By default GDAL declares the fourth band of an 8-bit raster to be alpha, also in aerial photographs
in which it is near infrared. The values of such a band show whether it is alpha.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Literal
from xml.etree.ElementTree import ParseError, fromstring

import attrs
import numpy as np
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.io import MemoryFile
from rasterio.rpc import RPC
from rasterio.windows import Window as RasterioWindow

from georsr.errors import UsageError, redact_url, worded
from georsr.io.gdal_env import shorten, suppress_rasterio_warnings
from georsr.io.source_tags import Tags, TagSelection
from georsr.radiometry.nodata import can_represent, nearest_float
from georsr.tiling.grid import spread_starts
from georsr.window import AnyArray, Window

ALPHA_CHOICES = ("auto", "mask", "data")
"""How to treat a band that is declared to be alpha: decide by its values, as alpha, as data."""
MIN_BANDS = 4
"""A raster with fewer bands cannot have near infrared after red, green and blue."""
MIN_VALUES = 16
"""Smallest number of different values of an image; the soft edges of a mask have fewer."""
ALPHA_IMAGE_FRACTION = 0.8
"""Smallest fraction of an image's values that are neither transparent nor opaque."""
ALPHA_WINDOWS, ALPHA_WINDOW_SIZE = 4, 64
"""Number of windows along each axis whose values are examined, and their size in pixels."""


def detect_alpha_band(dataset: Any, colors: tuple[str, ...], choice: str) -> tuple[int | None, str]:
    """Return the number of the alpha band from 1, or None, and a note on what was assumed.

    ``colors`` has the colour interpretation of each band; ``choice`` is one of `ALPHA_CHOICES`.
    """
    if choice == "data" or "alpha" not in colors:
        return None, ""
    number = colors.index("alpha") + 1
    dtype = np.dtype(dataset.dtypes[number - 1])
    if choice == "mask" or dataset.count < MIN_BANDS or dtype.kind != "u":
        return number, ""
    if not looks_like_image(_sample(dataset, number), float(np.iinfo(dtype).max)):
        return number, ""
    return None, (
        f"band {number} is declared to be alpha, but its values are those of an image, such as "
        "near infrared: it is treated as data; if it is alpha, use --alpha mask"
    )


def looks_like_image(values: AnyArray, opaque: float) -> bool:
    """Return whether values are those of an image: many, and mostly neither 0 nor ``opaque``.

    Zeros are ignored, because they may be nodata.
    """
    nonzero = values[values != 0]
    between = nonzero[nonzero != opaque]
    mostly = between.size > ALPHA_IMAGE_FRACTION * nonzero.size
    return mostly and np.unique(between).size >= MIN_VALUES


def _sample(dataset: Any, number: int) -> AnyArray:
    height, width = min(ALPHA_WINDOW_SIZE, dataset.height), min(ALPHA_WINDOW_SIZE, dataset.width)
    windows = [
        RasterioWindow(left, top, width, height)
        for top in spread_starts(dataset.height, height, ALPHA_WINDOWS)
        for left in spread_starts(dataset.width, width, ALPHA_WINDOWS)
    ]
    return np.concatenate([dataset.read(number, window=window).ravel() for window in windows])


SUPPORTED_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def colorinterp_names(dataset: Any) -> tuple[str, ...]:
    """Return the name of each band's colour interpretation; "undefined" if rasterio has none."""
    try:
        return tuple(item.name for item in dataset.colorinterp)
    except ValueError:  # an interpretation of a newer GDAL
        return ("undefined",) * int(dataset.count)


def band_texts(dataset: Any, kind: str) -> tuple[str | None, ...]:
    """Return the descriptions or units of all bands; None if missing or not UTF-8."""
    try:
        return tuple(text or None for text in getattr(dataset, kind))
    except UnicodeDecodeError:  # rasterio decodes the texts of all bands or none
        return (None,) * int(dataset.count)


def undecodable_note(dataset: Any) -> str:
    """Return one line on band texts that cannot be copied to the output; empty if all can."""
    undecodable = []
    for kind in ("descriptions", "units"):
        try:
            getattr(dataset, kind)
        except UnicodeDecodeError:
            undecodable.append(kind)
    if not undecodable:
        return ""
    return (
        f"{' and '.join(undecodable)} of bands are not UTF-8 and are not copied; rewrite them in "
        "UTF-8 if the output needs them"
    )


def select_bands(
    dataset: Any, path: str, indexes: Sequence[int] | None, colors: Sequence[str], alpha: int | None
) -> tuple[tuple[int, ...], bool]:
    """Return the selected bands without the band ``alpha``, and whether that is selected, too.

    By default all bands are. A band may be repeated: 1,1,1 gives a grey band to a model of three
    bands.

    Raises
    ------
    UsageError
        The selection is empty, not integers, or out of range; the message lists the bands.
    """
    existing = range(1, dataset.count + 1)
    if not existing:
        raise UsageError(_no_bands(dataset, path))
    selected = list(existing) if indexes is None else _integers(indexes, path)
    for number in selected:
        if number not in existing:
            raise UsageError(
                f"{path}: there is no band {number}; available: {_list_bands(dataset, colors)}"
            )
    numbers = tuple(number for number in selected if number != alpha)
    if not numbers:
        raise UsageError(
            f"{path}: no band besides alpha is selected; available: {_list_bands(dataset, colors)}"
        )
    return numbers, alpha in selected


def common_dtype(dataset: Any, path: str, numbers: Sequence[int], *, force: bool = False) -> str:
    """Return the data type that represents all values of the selected bands exactly.

    Mixed types are promoted as numpy does (uint8 with uint16 gives uint16, uint16 with int16
    gives int32), as long as the result is one of `SUPPORTED_DTYPES`. ``force`` accepts indices of a
    palette and bit masks.

    Raises
    ------
    UsageError
        A data type is not supported, or a band holds palette indices or a bit mask.
    """
    dtypes = {number: dataset.dtypes[number - 1] for number in numbers}
    for number, dtype in dtypes.items():
        if dtype not in SUPPORTED_DTYPES:
            wider = "float64" if dtype in ("int64", "uint64") else "float32"
            remedy = (
                "super-resolve its amplitude instead"
                if dtype.startswith("complex")
                else f"convert it first, for example with `rio convert --dtype {wider}`"
            )
            raise UsageError(
                f"{path}: band {number} has data type {dtype}, which is not supported "
                f"(supported: {', '.join(SUPPORTED_DTYPES)}); {remedy}"
            )
    if not force:
        _reject_classes(dataset, path, dtypes)
    selected = sorted(set(dtypes.values()))
    result = np.result_type(*(np.dtype(name) for name in selected)).name
    if result not in SUPPORTED_DTYPES:
        raise UsageError(
            f"{path}: no supported data type holds all of {', '.join(selected)}; "
            "select bands of one type, or convert them first"
        )
    return result


def _reject_classes(dataset: Any, path: str, dtypes: Mapping[int, str]) -> None:
    """Raise if a band, of those numbered in ``dtypes``, holds bits, palette indices or classes."""
    colors = colorinterp_names(dataset)
    has_integers = any(np.dtype(dtype).kind in "iu" for dtype in dtypes.values())
    classes = _class_tables(dataset) if has_integers else {}
    for number in dtypes:
        name = f"{path}: band {number}"
        if dataset.tags(number, ns="IMAGE_STRUCTURE").get("NBITS") == "1":
            raise UsageError(
                f"{name} holds 1 bit per pixel (NBITS=1): a bit mask is not an "
                "image; convert it first, for example with `gdal_translate -co NBITS=8`, or "
                "process it as it is with --force"
            )
        if colors[number - 1] == "palette":
            raise UsageError(
                f"{name} has a colour palette: its values are indices, not intensities; "
                "expand it first, for example with `gdal_translate -expand rgb`, or use "
                "--force"
            )
        if number in classes:
            raise UsageError(
                f"{name} has {classes[number]}: its values are classes, not intensities; choose "
                "other bands with --bidx, or insist with --force"
            )


def _class_tables(dataset: Any) -> dict[int, str]:
    """Return band number -> description of the table that says what its integers mean.

    rasterio does not read category names and attribute tables. GDAL writes them into a VRT.
    """
    with MemoryFile(ext=".vrt") as memory:
        # GDAL opens the VRT after it has written it. This can fail, with errors that are not
        # rasterio's: a pansharpened VRT opens its files at once, by paths relative to the copy.
        with suppress(Exception):
            rasterio.shutil.copy(dataset, memory.name, driver="VRT")
        try:
            document = fromstring(memory.read())
        except ParseError:
            return {}
    tables = {}
    for band in document.iter("VRTRasterBand"):
        number = int(band.get("band", 0))
        if any(category.text for category in band.iter("Category")):
            tables[number] = "category names"
        for table in band.iter("GDALRasterAttributeTable"):
            named = any(usage.text == "2" for usage in table.iter("Usage"))
            if table.find("Row") is not None and (named or table.get("tableType") == "thematic"):
                tables[number] = "an attribute table of classes"
    return tables


def _integers(indexes: Sequence[int], path: str) -> list[int]:
    try:
        numbers = [operator.index(number) for number in indexes]
    except TypeError as err:
        raise UsageError(f"{path}: band numbers must be integers, got {indexes!r}") from err
    if not numbers:
        raise UsageError(f"{path}: the list of bands is empty")
    return numbers


def _list_bands(dataset: Any, colors: Sequence[str]) -> str:
    names = zip(band_texts(dataset, "descriptions"), colors, strict=True)
    return ", ".join(f"{i} ({name or color})" for i, (name, color) in enumerate(names, 1))


def _no_bands(dataset: Any, path: str) -> str:
    names = dataset.subdatasets
    if not names:
        return f"{path}: has no raster bands"
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{path}: has no bands; use one of its subdatasets: {', '.join(names[:5])}{rest}"


SourceNodata = float | Literal["none"] | None
"""Nodata value that overrides that of the file; ``none``: every value counts; None: as declared."""
MaskKind = Literal["none", "nodata", "mask", "alpha"]


@dataclass(frozen=True)
class BandInfo:
    """Metadata of a selected band.

    Attributes
    ----------
    number : int
        Number in the file, from 1.
    dtype : str
        Data type in the file, as a name of numpy.
    nodata : float or None
        Value of invalid pixels; None if there is none or ``dtype`` cannot represent it.
    scale, offset : float
        ``physical = stored * scale + offset``; copied to the output, never applied.
    tags : mapping of namespace to tags
        Tags that also hold for the output.
    """

    number: int
    dtype: str
    description: str | None = None
    colorinterp: str = "undefined"
    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    nodata: float | None = None
    tags: Tags = field(default_factory=dict)


@dataclass(frozen=True)
class RasterInfo:
    """Metadata of a raster and of the bands selected from it.

    Attributes
    ----------
    path : str
        Path that the user gave, without passwords and signatures, for messages and tags.
    address : str
        Path that the user gave, with which the raster is opened.
    dtype : str
        Common data type of the selected bands, which `RasterReader.read` returns.
    bands : tuple of BandInfo
        Selected bands in the order of the selection, without the alpha band.
    alpha_band : int or None
        Number of the alpha band, which is the mask whether or not it is selected.
    keep_alpha : bool
        Whether the output has the alpha band; False if a selection of bands omits it.
    mask_kind : {"none", "nodata", "mask", "alpha"}
        How the file declares invalid pixels. NaN and infinity are always invalid.
    transform : Affine or None
        Transform from pixel corners (column, row) to the CRS; None if missing or the identity.
    gcps, gcps_crs, rpcs
        Ground control points with their CRS, rational polynomial coefficients; in source pixels.
    area_or_point : {"Area", "Point"}
        Label that is copied; GDAL's ``transform`` refers to pixel corners in both cases.
    tags : mapping of namespace to tags
        Tags that also hold for the output.
    left_out : tuple of str
        Other metadata, which are not in the output, in words.
    block_shape : (rows, columns)
        Block size of the first selected band.
    overviews : tuple of int
        Decimation factors of the overviews.
    files : tuple of str
        Files that GDAL reads for this raster, including sidecars and sources of a VRT.
    notes : tuple of str
        Assumptions about the raster, one line each.
    min_is_white : bool
        Whether 0 is shown as white (photometric interpretation MINISWHITE), as in many scans.
    selectable_bands : tuple of str
        Number and name of each band that can be selected, such as ``4 (nir)``, for messages.
    """

    path: str
    driver: str
    width: int
    height: int
    dtype: str
    bands: tuple[BandInfo, ...]
    alpha_band: int | None
    keep_alpha: bool
    mask_kind: MaskKind
    crs: CRS | None
    transform: Affine | None
    gcps: tuple[GroundControlPoint, ...]
    gcps_crs: CRS | None
    rpcs: RPC | None
    area_or_point: str
    tags: Tags
    block_shape: tuple[int, int]
    overviews: tuple[int, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    selectable_bands: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    address: str = field(default="", repr=False, compare=False)
    min_is_white: bool = False

    @property
    def count(self) -> int:
        """Return the number of selected bands, without alpha."""
        return len(self.bands)

    @property
    def indexes(self) -> tuple[int, ...]:
        """Return the numbers of the selected bands."""
        return tuple(band.number for band in self.bands)

    def band_labels(self) -> tuple[str, ...]:
        """Return number and name of each selected band, as in ``selectable_bands``."""
        return tuple(band_label(b.number, b.description or b.colorinterp) for b in self.bands)

    @property
    def nodata(self) -> tuple[float | None, ...]:
        """Nodata value of each selected band."""
        return tuple(band.nodata for band in self.bands)


def band_label(number: int, name: str) -> str:
    """Return number and name of a band for messages."""
    return f"{number} ({name})"


def crs_unit(info: RasterInfo) -> str | None:
    """Return the unit of coordinates in a raster's CRS."""
    if info.crs is None:
        return None
    return "degree" if info.crs.is_geographic else str(info.crs.linear_units)


def format_pixel_size(info: RasterInfo) -> str:
    """Format the pixel size of a raster with a geotransform, in units of its CRS."""
    assert info.transform is not None
    a, b, _, d, e, _ = tuple(info.transform)[:6]
    return f"{a:.9g} x {e:.9g}" + (f" rotated by {b:.6g}, {d:.6g}" if b or d else "")


def describe(
    dataset: Any,
    path: str,
    indexes: Sequence[int] | None,
    nodata: SourceNodata,
    *,
    force: bool = False,
    alpha: str = "auto",
) -> RasterInfo:
    """Read the metadata of an open dataset, and check that its bands can be super-resolved.

    Parameters
    ----------
    dataset
        Open rasterio dataset.
    path, indexes, nodata, force, alpha
        As for `georsr.io.reader.open_raster`.

    Raises
    ------
    UsageError
        A band or data type is not supported, the data type cannot represent ``nodata``, or the
        pixel size is 0 or NaN.
    """
    address, path = path, redact_url(path)
    with suppress_rasterio_warnings():
        colors = colorinterp_names(dataset)
        alpha_band, note = detect_alpha_band(dataset, colors, alpha)
        if alpha_band is None:
            colors = tuple("undefined" if color == "alpha" else color for color in colors)
        numbers, keep_alpha = select_bands(dataset, path, indexes, colors, alpha_band)
        dtype = common_dtype(dataset, path, numbers, force=force)
        gcps, gcps_crs = dataset.gcps
        selection = TagSelection(dataset, numbers, alpha_band)
        bands = tuple(_bands(dataset, path, colors, nodata, selection))
        tags, point = selection.of_dataset(), dataset.tags().get("AREA_OR_POINT") == "Point"
        return RasterInfo(
            path=path,
            driver=dataset.driver,
            width=dataset.width,
            height=dataset.height,
            dtype=dtype,
            bands=bands,
            alpha_band=alpha_band,
            keep_alpha=keep_alpha,
            mask_kind=_mask_kind(dataset, bands, alpha_band),
            # for some drivers rasterio returns an empty CRS, which is false
            crs=dataset.crs or None,
            transform=_transform(dataset.transform, path),
            gcps=tuple(gcps),
            gcps_crs=gcps_crs or None,
            rpcs=dataset.rpcs,
            area_or_point="Point" if point else "Area",
            tags=tags,
            left_out=tuple(map(redact_url, (*selection.left_out(), *_hidden_gcps(dataset)))),
            block_shape=tuple(dataset.block_shapes[numbers[0] - 1]),
            overviews=tuple(dataset.overviews(numbers[0])),
            files=tuple(dataset.files),
            notes=tuple(
                worded(f"{path}: {text}") for text in (note, undecodable_note(dataset)) if text
            ),
            selectable_bands=tuple(
                band_label(number, name or color)
                for number, name, color in zip(
                    dataset.indexes, band_texts(dataset, "descriptions"), colors, strict=True
                )
                if number != alpha_band
            ),
            address=address,
            min_is_white=dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES",
        )


def has_own_mask(flags: Sequence[MaskFlags]) -> bool:
    """Return whether a band has a mask other than nodata and alpha."""
    if MaskFlags.all_valid in flags or MaskFlags.alpha in flags:
        return False
    return MaskFlags.per_dataset in flags or MaskFlags.nodata not in flags


def _mask_kind(dataset: Any, bands: Sequence[BandInfo], alpha: int | None) -> MaskKind:
    if alpha is not None:
        return "alpha"
    flags = dataset.mask_flag_enums
    if any(has_own_mask(flags[band.number - 1]) for band in bands):
        return "mask"
    return "nodata" if any(band.nodata is not None for band in bands) else "none"


def _bands(
    dataset: Any,
    path: str,
    colors: Sequence[str],
    nodata: SourceNodata,
    selection: TagSelection,
) -> Iterator[BandInfo]:
    """Yield the selected bands; rasterio returns a property of all bands, perhaps thousands."""
    dtypes, declared = dataset.dtypes, dataset.nodatavals
    scales, offsets = dataset.scales, dataset.offsets
    names, units = band_texts(dataset, "descriptions"), band_texts(dataset, "units")
    for number in selection.numbers:
        i = number - 1
        if isinstance(nodata, float | int) and not can_represent(dtypes[i], nodata):
            raise UsageError(
                f"{path}: nodata {nodata:g} cannot occur in band {number} of type {dtypes[i]}; "
                "use a value of this type"
            )
        yield BandInfo(
            number=number,
            dtype=dtypes[i],
            description=names[i],
            colorinterp=colors[i],
            scale=scales[i],
            offset=offsets[i],
            unit=units[i],
            nodata=_nodata(dtypes[i], declared[i], nodata),
            tags=selection.of_band(number),
        )


def _nodata(dtype: str, declared: float | None, nodata: SourceNodata) -> float | None:
    """Return the nodata value of a band: that of the user, or else the declared one."""
    if nodata is not None:
        return None if nodata == "none" else float(nodata)
    if declared is None:
        return None
    if np.dtype(dtype).kind == "f":
        return nearest_float(dtype, declared)  # programs write the range of another type
    return declared if can_represent(dtype, declared) else None  # no pixel can have this value


def _hidden_gcps(dataset: Any) -> list[str]:
    """Return a line on ground control points that a raster has in addition to its transform."""
    both = dataset.gcps[0] and dataset.transform != Affine.identity()
    return ["ground control points (it has a transform)"] if both else []


def crs_name(crs: CRS | None) -> str:
    """Return the code of a CRS, or else its name, for messages."""
    if not crs:
        return "none"
    authority = crs.to_authority()
    if authority:
        return ":".join(authority)
    wkt = crs.to_wkt()
    name = re.search(r'"([^"]+)"', wkt)
    return f'"{name[1]}"' if name else shorten(wkt)


def _transform(transform: Affine, path: str) -> Affine | None:
    if transform == Affine.identity():
        return None
    singular = transform.a * transform.e == transform.b * transform.d
    if not all(math.isfinite(value) for value in tuple(transform)[:6]) or singular:
        raise UsageError(
            f"{path}: the geotransform is singular or has NaN: "
            f"{tuple(transform)[:6]}; repair it first, for example with `rio edit-info --transform`"
        )
    return transform


CLASSES = re.compile(
    r"\b(scl|scene[ _]classification\w*|classification|class(es)?|land[ _-]?cover|land[ _-]?use|"
    r"lulc|categor\w+|labels?|qa[ _]\w+|fmask|cloud[ _]mask)\b",
    re.IGNORECASE,
)
"""Matches the name of a band whose values are classes or flags."""
ELEVATIONS = re.compile(
    r"(^|[\W_])(elevations?|altitudes?|dem|dsm|dtm|dhm|srtm\w*|height above\w*)($|[\W_])",
    re.IGNORECASE,
)
"""Matches the name of a band, or of a file with one band, whose values are heights."""
LENGTHS = ("m", "metre", "metres", "meter", "meters", "ft", "feet", "foot")


def reject_non_images(info: RasterInfo, model: str) -> None:
    """Raise UsageError if a band holds classes or heights: no network is trained for them.

    ``model`` is the name of the model, for the message.
    """
    for band in info.bands:
        content = _non_image_content(info, band)
        if content is not None:
            raise UsageError(
                f"{info.path}: band {band.number} holds {content}, and {model} was trained on "
                "images: choose other bands with --bidx, use --model bicubic or nearest, or "
                "process it all the same with --force"
            )


def _non_image_content(info: RasterInfo, band: BandInfo) -> str | None:
    name = band.description or ""
    thematic = band.tags.get("", {}).get("LAYER_TYPE", "").lower() == "thematic"
    if thematic or CLASSES.search(name):
        return f"classes ({name or 'LAYER_TYPE thematic'})"
    if ELEVATIONS.search(name):
        return f"heights ({name})"
    if info.count > 1 or band.dtype == "uint8":
        return None
    stem = PurePath(info.path).stem
    if (band.unit or "").lower() in LENGTHS:
        return f"heights (its unit is {band.unit})"
    return f"heights (the file is called {stem})" if ELEVATIONS.search(stem) else None


def scale_transform(transform: Affine, scale: int) -> Affine:
    """Return the transform of a grid with ``scale`` times finer pixels and the same outer corners.

    This is correct for any affine transform: rotated, sheared or south-up. Dividing only the pixel
    sizes, as is often done, shifts rotated rasters. It is also correct for ``AREA_OR_POINT=Point``,
    because GDAL's transforms refer to corners and the half-pixel shift is applied in the file.
    """
    # transform * Affine.scale(1 / scale), written out because affine 3 renamed the operator
    a, b, c, d, e, f = tuple(transform)[:6]
    return Affine(a / scale, b / scale, c, d / scale, e / scale, f)


def window_metadata(info: RasterInfo, window: Window) -> RasterInfo:
    """Return the metadata of a window of a raster."""
    down, right, transform = window.top, window.left, info.transform
    if transform is not None:
        x, y = transform @ (right, down)
        a, b, _, d, e, _ = tuple(transform)[:6]
        transform = Affine(a, b, x, d, e, y)
    return replace(
        info,
        height=window.height,
        width=window.width,
        transform=transform,
        gcps=tuple(
            GroundControlPoint(g.row - down, g.col - right, g.x, g.y, g.z, g.id, g.info)
            for g in info.gcps
        ),
        rpcs=info.rpcs
        and attrs.evolve(
            info.rpcs, line_off=info.rpcs.line_off - down, samp_off=info.rpcs.samp_off - right
        ),
    )


def scale_gcps(gcps: Iterable[GroundControlPoint], scale: int) -> tuple[GroundControlPoint, ...]:
    """Return ground control points on a grid with ``scale`` times finer pixels.

    GDAL counts their rows and columns from the outer corner of the first pixel, so they are scaled
    without a shift.
    """
    return tuple(
        GroundControlPoint(g.row * scale, g.col * scale, g.x, g.y, g.z, g.id, g.info) for g in gcps
    )


def scale_rpcs(rpcs: RPC, scale: int) -> RPC:
    """Return rational polynomial coefficients on a grid with ``scale`` times finer pixels.

    RPCs count lines and samples from the *centre* of the first pixel, half a pixel from its
    corner: ``off' = (off + 0.5) * scale - 0.5``.
    """
    return attrs.evolve(
        rpcs,
        line_off=(rpcs.line_off + 0.5) * scale - 0.5,
        samp_off=(rpcs.samp_off + 0.5) * scale - 0.5,
        line_scale=rpcs.line_scale * scale,
        samp_scale=rpcs.samp_scale * scale,
    )

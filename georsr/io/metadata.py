"""What a raster says about itself, read once and carried as plain values.

Alpha: whether a band that says it is transparency is that, or an image.

GDAL calls the fourth band of a raster of bytes alpha unless it is told otherwise, so that the near
infrared of many an aerial photograph goes by that name.

Which bands of a raster are worked on, and whether they can be.

The ground size of a pixel.

From an open dataset to a `RasterInfo`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.rpc import RPC
from rasterio.windows import Window

from georsr.errors import UsageError
from georsr.io.gdal_env import suppress_rasterio_warnings
from georsr.radiometry.nodata import can_represent
from georsr.redact import redact_url
from georsr.window import AnyArray

ALPHA_CHOICES = ("auto", "mask", "data")
"""Look at it; believe what it says; take it for an image."""
MIN_BANDS = 4
"""A raster of fewer bands has no near infrared behind red, green and blue."""
MIN_VALUES = 16
"""An image has more; soft edges of a mask may have some."""
ALPHA_IMAGE_FRACTION = 0.8
"""Of an image between transparent and opaque; a mask is mostly opaque, even with soft edges."""
ALPHA_WINDOWS, ALPHA_WINDOW_SIZE = 4, 64
"""Windows that are looked at along each axis, and their size."""


def detect_alpha_band(dataset: Any, colors: tuple[str, ...], choice: str) -> tuple[int | None, str]:
    """The alpha band of a raster, and one line on what was assumed; None and empty: none.

    Parameters
    ----------
    dataset
        Of rasterio.
    colors
        Colour interpretation of each band.
    choice
        One of `ALPHA_CHOICES`.
    """
    if choice == "data" or "alpha" not in colors:
        return None, ""
    number = colors.index("alpha") + 1
    dtype = np.dtype(dataset.dtypes[number - 1])
    if choice == "mask" or dataset.count < MIN_BANDS or dtype.kind != "u":
        return number, ""
    if not looks_like_image(_sampled(dataset, number), float(np.iinfo(dtype).max)):
        return number, ""
    return None, (
        f"band {number} says that it is alpha, but its values are those of an image: taken as a "
        "band like the others, such as near infrared; if it is alpha, say --alpha mask"
    )


def looks_like_image(values: AnyArray, opaque: float) -> bool:
    """Whether values are those of an image: mostly between transparent and opaque, and many.

    Parameters
    ----------
    values
        Of any shape; zeros do not count, which an image may have for nodata.
    opaque
        The largest value of the type.
    """
    seen = values[values != 0]
    between = seen[seen != opaque]
    enough = between.size > ALPHA_IMAGE_FRACTION * seen.size
    return enough and np.unique(between).size >= MIN_VALUES


def _sampled(dataset: Any, number: int) -> AnyArray:
    height, width = min(ALPHA_WINDOW_SIZE, dataset.height), min(ALPHA_WINDOW_SIZE, dataset.width)
    tops = np.linspace(0, dataset.height - height, ALPHA_WINDOWS).round().astype(int)
    lefts = np.linspace(0, dataset.width - width, ALPHA_WINDOWS).round().astype(int)
    places = dict.fromkeys((int(top), int(left)) for top in tops for left in lefts)
    windows = [Window(left, top, width, height) for top, left in places]
    return np.concatenate([dataset.read(number, window=window).ravel() for window in windows])


SUPPORTED_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def colorinterp_names(dataset: Any) -> tuple[str, ...]:
    """Colour interpretation of every band by name; what rasterio does not know is undefined."""
    try:
        return tuple(item.name for item in dataset.colorinterp)
    except ValueError:  # newer GDAL has interpretations this rasterio has no name for
        return ("undefined",) * int(dataset.count)


def band_texts(dataset: Any, kind: str) -> tuple[str | None, ...]:
    """Descriptions or units of every band; None where there is none, or one that is not UTF-8."""
    try:
        return tuple(text or None for text in getattr(dataset, kind))
    except UnicodeDecodeError:  # rasterio decodes those of all bands, or of none
        return (None,) * int(dataset.count)


def undecodable_note(dataset: Any) -> str:
    """One line on texts of bands that cannot be carried to the product; empty: all can."""
    lost = []
    for kind in ("descriptions", "units"):
        try:
            getattr(dataset, kind)
        except UnicodeDecodeError:
            lost.append(kind)
    if not lost:
        return ""
    return (
        f"{' and '.join(lost)} of bands are not UTF-8, and are left out; write them again in UTF-8 "
        "if the product is to have them"
    )


def select_bands(
    dataset: Any, path: str, indexes: Sequence[int] | None, colors: Sequence[str], alpha: int | None
) -> tuple[tuple[int, ...], bool]:
    """Choose bands: by default all but the alpha band.

    Parameters
    ----------
    indexes : sequence of int, optional
        Band numbers from 1, in the order wanted. The same band may be named twice (a grey band
        can be given to a three-band model as 1,1,1). The alpha band, if named, is carried as alpha.
    colors : sequence of str
        Colour interpretation of every band.
    alpha : int, optional
        Number of the alpha band.

    Returns
    -------
    numbers : tuple of int
        The selected bands without the alpha band.
    carried : bool
        Whether the alpha band is part of the selection.

    Raises
    ------
    UsageError
        Empty, not whole numbers, or out of range: the message lists the bands there are.
    """
    everything = range(1, dataset.count + 1)
    if not everything:
        raise UsageError(_no_bands(dataset, path))
    wanted = list(everything) if indexes is None else _integers(indexes, path)
    for number in wanted:
        if number not in everything:
            raise UsageError(
                f"{path}: there is no band {number}; available: {_listing(dataset, colors)}"
            )
    numbers = tuple(number for number in wanted if number != alpha)
    if not numbers:
        raise UsageError(
            f"{path}: no band besides alpha is selected; available: {_listing(dataset, colors)}"
        )
    return numbers, alpha in wanted


def common_dtype(dataset: Any, path: str, numbers: Sequence[int], *, force: bool = False) -> str:
    """Type that holds every value of the selected bands exactly; refuse what is not continuous.

    Mixed types are promoted as numpy does (uint8 with uint16 gives uint16, uint16 with int16
    gives int32), as long as the result is one of `SUPPORTED_DTYPES`. ``force`` accepts indices of a
    palette and bit masks.
    """
    colors = colorinterp_names(dataset)
    for number in numbers:
        dtype = dataset.dtypes[number - 1]
        where = f"{path}: band {number}"
        if dtype not in SUPPORTED_DTYPES:
            remedy = (
                "super-resolve its amplitude instead"
                if dtype.startswith("complex")
                else "convert it first, for example with `rio convert --dtype float32`"
            )
            raise UsageError(
                f"{where} has data type {dtype}, which is not supported "
                f"(supported: {', '.join(SUPPORTED_DTYPES)}); {remedy}"
            )
        if force:
            continue
        if dataset.tags(number, ns="IMAGE_STRUCTURE").get("NBITS") == "1":
            raise UsageError(
                f"{where} holds 1 bit per pixel (NBITS=1): super-resolving a bit mask has no "
                "meaning; convert it first, for example with `gdal_translate -co NBITS=8`, or "
                "insist with --force"
            )
        if colors[number - 1] == "palette":
            raise UsageError(
                f"{where} has a colour palette: its values are indices, not brightness; "
                "expand it first, for example with `gdal_translate -expand rgb`, or insist with "
                "--force"
            )
    dtypes = sorted({dataset.dtypes[number - 1] for number in numbers})
    result = np.result_type(*(np.dtype(name) for name in dtypes)).name
    if result not in SUPPORTED_DTYPES:
        raise UsageError(
            f"{path}: no supported data type holds all of {', '.join(dtypes)}; "
            "select bands of one type, or convert them first"
        )
    return result


def _integers(indexes: Sequence[int], path: str) -> list[int]:
    try:
        wanted = [operator.index(number) for number in indexes]
    except TypeError as err:
        raise UsageError(f"{path}: band numbers must be whole numbers, got {indexes!r}") from err
    if not wanted:
        raise UsageError(f"{path}: the list of bands is empty")
    return wanted


def _listing(dataset: Any, colors: Sequence[str]) -> str:
    names = zip(band_texts(dataset, "descriptions"), colors, strict=True)
    return ", ".join(f"{i} ({name or color})" for i, (name, color) in enumerate(names, 1))


def _no_bands(dataset: Any, path: str) -> str:
    parts = list(dataset.subdatasets)
    if not parts:
        return f"{path}: has no raster bands"
    more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
    return f"{path}: has no bands of its own; name one of its parts: {', '.join(parts[:5])}{more}"


MaskKind = Literal["none", "nodata", "mask", "alpha"]


@dataclass(frozen=True)
class BandInfo:
    """One selected band.

    Attributes
    ----------
    number : int
        Position in the file, from 1.
    dtype : str
        Type stored in the file, as numpy names it.
    nodata : float or None
        Value that marks invalid pixels; None if there is none, or if ``dtype`` cannot hold it.
    scale, offset : float
        ``physical = stored * scale + offset``; carried, never applied.
    """

    number: int
    dtype: str
    description: str | None = None
    colorinterp: str = "undefined"
    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    nodata: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RasterInfo:
    """Frozen description of a source raster and of the bands selected from it.

    Attributes
    ----------
    path : str
        As it was given, without passwords and signatures: for people, products and reports.
    address : str
        As it was given: where it is opened.
    dtype : str
        Common type of the selected bands: what `RasterReader.read` returns.
    bands : tuple of BandInfo
        Selected bands in the order asked for, without the alpha band.
    alpha_band : int or None
        Number of the alpha band, which acts as mask whether or not it was selected.
    keep_alpha : bool
        The alpha band is part of the product; False if explicit bands left it out.
    mask_kind : {"none", "nodata", "mask", "alpha"}
        How the file says which pixels are valid. NaN and infinity are invalid besides.
    transform : Affine or None
        Pixel corner (column, row) to CRS; None where the file has none or the identity.
    gcps, gcps_crs, rpcs
        Ground control points with their CRS, rational polynomial coefficients; in source pixels.
    area_or_point : {"Area", "Point"}
        A label carried along; GDAL's ``transform`` refers to pixel corners in both cases.
    tags : mapping of namespace to tags
        Without those that describe the encoding or the pixel values of this very file.
    block_shape : (rows, columns)
        Of the first selected band.
    overviews : tuple of int
        Decimation factors of the overviews.
    files : tuple of str
        Every file GDAL reads for this raster (sidecars, sources of a VRT).
    notes : tuple of str
        What was assumed about it, a line each.
    selectable_bands : tuple of str
        Number and name of every band that can be selected, such as ``4 (nir)``, for messages.
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
    tags: Mapping[str, Mapping[str, str]]
    block_shape: tuple[int, int]
    overviews: tuple[int, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    selectable_bands: tuple[str, ...] = ()
    address: str = field(default="", repr=False, compare=False)

    @property
    def count(self) -> int:
        """Number of selected bands, alpha not counted."""
        return len(self.bands)

    @property
    def indexes(self) -> tuple[int, ...]:
        """Numbers of the selected bands."""
        return tuple(band.number for band in self.bands)

    def band_labels(self) -> tuple[str, ...]:
        """Number and name of each selected band, as in ``selectable_bands``."""
        return tuple(band_label(b.number, b.description or b.colorinterp) for b in self.bands)

    @property
    def nodata(self) -> tuple[float | None, ...]:
        """Nodata value of each selected band."""
        return tuple(band.nodata for band in self.bands)


def band_label(number: int, name: str) -> str:
    """How messages name a band."""
    return f"{number} ({name})"


def format_pixel_size(info: RasterInfo) -> str:
    """Steps of a raster that has a geotransform, in words and in units of its CRS."""
    assert info.transform is not None
    a, b, _, d, e, _ = tuple(info.transform)[:6]
    return f"{a:.9g} x {e:.9g}" + (f" rotated by {b:.6g}, {d:.6g}" if b or d else "")


# Namespaces that describe the file's encoding or its grid: wrong for any other file
_OWN_NAMESPACES = (
    "IMAGE_STRUCTURE",
    "OVERVIEWS",
    "DERIVED_SUBDATASETS",
    "SUBDATASETS",
    "RPC",
    "GEOLOCATION",
    "TILING_SCHEME",
    "COLOR_PROFILE",
)
_OWN_TAGS = (
    "AREA_OR_POINT",  # carried by name
    "OVR_RESAMPLING_ALG",
    "TIFFTAG_XRESOLUTION",
    "TIFFTAG_YRESOLUTION",
    "TIFFTAG_RESOLUTIONUNIT",
)


def describe(
    dataset: Any,
    path: str,
    indexes: Sequence[int] | None,
    nodata: float | None,
    *,
    force: bool = False,
    alpha: str = "auto",
) -> RasterInfo:
    """Read everything that will be carried to the product, and refuse what cannot be worked on.

    Parameters
    ----------
    dataset
        Open.
    path, indexes, nodata, force, alpha
        As for `georsr.io.reader.open_raster`.

    Raises
    ------
    UsageError
        Bands, data types, a ``nodata`` the data type cannot hold, or a pixel size of 0 or NaN.
    """
    address, path = path, redact_url(path)
    with suppress_rasterio_warnings():
        colors = colorinterp_names(dataset)
        masking, assumed = detect_alpha_band(dataset, colors, alpha)
        if masking is None:
            colors = tuple("undefined" if color == "alpha" else color for color in colors)
        numbers, carried = select_bands(dataset, path, indexes, colors, masking)
        dtype = common_dtype(dataset, path, numbers, force=force)
        gcps, gcps_crs = dataset.gcps
        stored = _Stored.of(dataset)
        bands = tuple(_band(dataset, stored, path, number, colors, nodata) for number in numbers)
        tags = dataset.tags()
        return RasterInfo(
            path=path,
            driver=dataset.driver,
            width=dataset.width,
            height=dataset.height,
            dtype=dtype,
            bands=bands,
            alpha_band=masking,
            keep_alpha=carried,
            mask_kind=_mask_kind(dataset, bands, masking),
            crs=_crs(dataset.crs),
            transform=_transform(dataset.transform, path),
            gcps=tuple(gcps),
            gcps_crs=_crs(gcps_crs),
            rpcs=dataset.rpcs,
            area_or_point="Point" if tags.get("AREA_OR_POINT") == "Point" else "Area",
            tags=_tags(dataset),
            block_shape=tuple(dataset.block_shapes[numbers[0] - 1]),
            overviews=tuple(dataset.overviews(numbers[0])),
            files=tuple(dataset.files),
            notes=tuple(f"{path}: {note}" for note in (assumed, undecodable_note(dataset)) if note),
            selectable_bands=tuple(
                band_label(number, name or color)
                for number, name, color in zip(
                    dataset.indexes, stored.descriptions, colors, strict=True
                )
                if number != masking
            ),
            address=address,
        )


def has_own_mask(flags: Sequence[MaskFlags]) -> bool:
    """Whether the validity of a band is kept apart from its values, and not in an alpha band."""
    if MaskFlags.all_valid in flags or MaskFlags.alpha in flags:
        return False
    return MaskFlags.per_dataset in flags or MaskFlags.nodata not in flags


def _mask_kind(dataset: Any, bands: Sequence[BandInfo], alpha: int | None) -> MaskKind:
    if alpha is not None:
        return "alpha"
    if any(has_own_mask(dataset.mask_flag_enums[band.number - 1]) for band in bands):
        return "mask"
    return "nodata" if any(band.nodata is not None for band in bands) else "none"


class _Stored(NamedTuple):
    """What rasterio tells of all bands at once, asked for once: there may be thousands."""

    dtypes: Sequence[str]
    nodatavals: Sequence[float | None]
    scales: Sequence[float]
    offsets: Sequence[float]
    descriptions: Sequence[str | None]
    units: Sequence[str | None]

    @classmethod
    def of(cls, dataset: Any) -> _Stored:
        """Ask."""
        return cls(
            dataset.dtypes,
            dataset.nodatavals,
            dataset.scales,
            dataset.offsets,
            band_texts(dataset, "descriptions"),
            band_texts(dataset, "units"),
        )


def _band(
    dataset: Any,
    known: _Stored,
    path: str,
    number: int,
    colors: Sequence[str],
    nodata: float | None,
) -> BandInfo:
    i = number - 1
    dtype = known.dtypes[i]
    if nodata is not None and not can_represent(dtype, nodata):
        raise UsageError(
            f"{path}: nodata {nodata:g} cannot occur in band {number} of type {dtype}; "
            "give a value of that type"
        )
    stored = known.nodatavals[i]
    if stored is not None and not can_represent(dtype, stored):
        stored = None  # no pixel can have it
    return BandInfo(
        number=number,
        dtype=dtype,
        description=known.descriptions[i],
        colorinterp=colors[i],
        scale=known.scales[i],
        offset=known.offsets[i],
        unit=known.units[i],
        nodata=stored if nodata is None else float(nodata),
        tags={
            name: value
            for name, value in dataset.tags(number).items()
            if not name.startswith("STATISTICS_")
        },
    )


def _tags(dataset: Any) -> dict[str, dict[str, str]]:
    spaces = [""] + [
        name
        for name in dataset.tag_namespaces()
        if name and name not in _OWN_NAMESPACES and ":" not in name
    ]
    found = {}
    for space in spaces:
        tags = dataset.tags(ns=space) if space else dataset.tags()
        found[space] = {name: value for name, value in tags.items() if name not in _OWN_TAGS}
    return {space: tags for space, tags in found.items() if tags}


def _crs(crs: CRS | None) -> CRS | None:
    return crs or None  # rasterio gives an empty CRS, which is false, for some drivers


def _transform(transform: Affine, path: str) -> Affine | None:
    if transform == Affine.identity():
        return None
    sides = transform.a * transform.e, transform.b * transform.d
    if not all(math.isfinite(value) for value in tuple(transform)[:6]) or sides[0] == sides[1]:
        raise UsageError(
            f"{path}: the georeferencing has pixels without area or with NaN: "
            f"{tuple(transform)[:6]}; repair it first, for example with `rio edit-info --transform`"
        )
    return transform

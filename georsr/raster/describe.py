"""From an open dataset to a `RasterInfo`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import MaskFlags

from georsr.errors import UsageError
from georsr.raster.alpha import alpha_number
from georsr.raster.bands import band_texts, color_names, common_dtype, select_bands, undecoded
from georsr.raster.env import own_warnings
from georsr.raster.info import BandInfo, MaskKind, RasterInfo, band_label
from georsr.raster.mask import holds
from georsr.redact import redact_url

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
    bidx: Sequence[int] | None,
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
    path, bidx, nodata, force, alpha
        As for `georsr.raster.open_raster`.

    Raises
    ------
    UsageError
        Bands, data types, a ``nodata`` the data type cannot hold, or a pixel size of 0 or NaN.
    """
    address, path = path, redact_url(path)
    with own_warnings():
        colors = color_names(dataset)
        masking, assumed = alpha_number(dataset, colors, alpha)
        if masking is None:
            colors = tuple("undefined" if color == "alpha" else color for color in colors)
        numbers, carried = select_bands(dataset, path, bidx, colors, masking)
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
            carries_alpha=carried,
            mask_kind=_mask_kind(dataset, bands, masking),
            crs=_crs(dataset.crs),
            transform=_transform(dataset.transform, path),
            gcps=tuple(gcps),
            gcps_crs=_crs(gcps_crs),
            rpcs=dataset.rpcs,
            area_or_point="Point" if tags.get("AREA_OR_POINT") == "Point" else "Area",
            tags=_tags(dataset),
            color_space=dataset.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE"),
            block_shape=tuple(dataset.block_shapes[numbers[0] - 1]),
            overviews=tuple(dataset.overviews(numbers[0])),
            files=tuple(dataset.files),
            notes=tuple(f"{path}: {note}" for note in (assumed, undecoded(dataset)) if note),
            choices=tuple(
                band_label(number, name or color)
                for number, name, color in zip(
                    dataset.indexes, stored.descriptions, colors, strict=True
                )
                if number != masking
            ),
            address=address,
        )


def explicit_mask(flags: Sequence[MaskFlags]) -> bool:
    """Whether the validity of a band is kept apart from its values, and not in an alpha band."""
    if MaskFlags.all_valid in flags or MaskFlags.alpha in flags:
        return False
    return MaskFlags.per_dataset in flags or MaskFlags.nodata not in flags


def _mask_kind(dataset: Any, bands: Sequence[BandInfo], alpha: int | None) -> MaskKind:
    if alpha is not None:
        return "alpha"
    if any(explicit_mask(dataset.mask_flag_enums[band.number - 1]) for band in bands):
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
    if nodata is not None and not holds(dtype, nodata):
        raise UsageError(
            f"{path}: nodata {nodata:g} cannot occur in band {number} of type {dtype}; "
            "give a value of that type"
        )
    stored = known.nodatavals[i]
    if stored is not None and not holds(dtype, stored):
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

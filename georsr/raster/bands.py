"""Which bands of a raster are worked on, and whether they can be."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from georsr.errors import UsageError

SUPPORTED = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def color_names(dataset: Any) -> tuple[str, ...]:
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


def undecoded(dataset: Any) -> str:
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
    dataset: Any, path: str, bidx: Sequence[int] | None, colors: Sequence[str], alpha: int | None
) -> tuple[tuple[int, ...], bool]:
    """Choose bands: by default all but the alpha band.

    Parameters
    ----------
    bidx : sequence of int, optional
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
    wanted = list(everything) if bidx is None else _integers(bidx, path)
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
    gives int32), as long as the result is one of `SUPPORTED`. ``force`` takes indices of a palette
    and bit masks for what they are not.
    """
    colors = color_names(dataset)
    for number in numbers:
        dtype = dataset.dtypes[number - 1]
        where = f"{path}: band {number}"
        if dtype not in SUPPORTED:
            remedy = (
                "super-resolve its amplitude instead"
                if dtype.startswith("complex")
                else "convert it first, for example with `rio convert --dtype float32`"
            )
            raise UsageError(
                f"{where} has data type {dtype}, which is not supported "
                f"(supported: {', '.join(SUPPORTED)}); {remedy}"
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
    if result not in SUPPORTED:
        raise UsageError(
            f"{path}: no supported data type holds all of {', '.join(dtypes)}; "
            "select bands of one type, or convert them first"
        )
    return result


def _integers(bidx: Sequence[int], path: str) -> list[int]:
    try:
        wanted = [operator.index(number) for number in bidx]
    except TypeError as err:
        raise UsageError(f"{path}: band numbers must be whole numbers, got {bidx!r}") from err
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

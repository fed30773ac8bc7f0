"""Which pixels count: pure functions on arrays.

Plausible values for pixels that have none, so that a network can be run over them.
"""

from __future__ import annotations

import math

import numpy as np
from rasterio.fill import fillnodata

from georsr.io.gdal_env import gdal_env
from georsr.window import AnyArray, BoolArray, FloatArray

MAX_FILL_DISTANCE = 32
"""Farthest a value is carried into an invalid area, in pixels; beyond it the mean stands."""


def fill_invalid(values: FloatArray, valid: BoolArray, *, empty: float = 0.0) -> FloatArray:
    """Replace invalid pixels by interpolation from the valid ones of the same band.

    Parameters
    ----------
    values : float32 (C, h, w)
        What stands at invalid pixels (NaN, nodata, anything) has no influence on the result.
    valid : bool (C, h, w)
    empty : float
        Value of a band without any valid pixel, in the unit of ``values``.

    Returns
    -------
    float32 (C, h, w)
        Valid pixels are bit for bit those of ``values``. Invalid ones are interpolated within
        `MAX_FILL_DISTANCE` pixels of valid ones, and the band's mean valid value elsewhere. The
        input itself is returned if everything is valid.
    """
    if valid.all():
        return values
    filled = values.copy()
    for band, good in zip(filled, valid, strict=True):
        if good.all():
            continue
        if not good.any():
            band[:] = empty
            continue
        # What fillnodata does not reach keeps its value: give it the mean beforehand
        band[~good] = np.float32(band[good].mean(dtype=np.float64))
        with gdal_env(cache=None):
            guess = fillnodata(band, mask=good, max_search_distance=MAX_FILL_DISTANCE)
        np.copyto(band, guess, where=~good)
    return filled


NODATA_ULPS = 16
"""Distance, in steps of the type, within which a floating point value counts as nodata.

GDAL's own readers treat float values within a few units in the last place of nodata as nodata.
A written value must stay clear of all of them.
"""


def can_represent(dtype: str, value: float) -> bool:
    """Whether a pixel of type ``dtype`` can have this value (NaN only in floats)."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return not math.isfinite(value) or abs(value) <= float(np.finfo(kind).max)
    limits = np.iinfo(kind)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


def nodata_tolerance(dtype: str, nodata: float) -> float:
    """Half-width of the interval of values that GDAL may take for ``nodata``; 0 for integers."""
    kind = np.dtype(dtype)
    if kind.kind != "f" or not math.isfinite(nodata):
        return 0.0
    return NODATA_ULPS * float(np.finfo(kind).eps) * abs(nodata)


def is_nodata(values: AnyArray, nodata: float) -> BoolArray:
    """Pixels of ``values`` (any shape) that carry ``nodata``.

    For floats, values that differ from ``nodata`` by rounding only count too.
    """
    if values.dtype.kind != "f":
        return np.asarray(values == values.dtype.type(nodata))
    if math.isnan(nodata):
        return np.isnan(values)
    target = values.dtype.type(nodata)
    if not np.isfinite(target):
        return np.asarray(values == target)
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.abs(values - target)
    return np.asarray(gap <= nodata_tolerance(values.dtype.name, nodata) / 4)


def valid_pixels(values: AnyArray, nodata: float | None) -> BoolArray:
    """Pixels of ``values`` (any shape) that are finite and do not carry ``nodata``."""
    valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if nodata is not None:
        valid &= ~is_nodata(values, nodata)
    return valid


def dataset_mask(valid: BoolArray) -> AnyArray:
    """Mask of a whole product from per-band validity.

    Parameters
    ----------
    valid : bool (C, h, w)

    Returns
    -------
    uint8 (h, w)
        255 where every band is valid, 0 elsewhere: GeoTIFF has one mask for all bands, and a
        pixel that is invalid in any of them must not pass for a measurement.
    """
    return np.where(valid.all(axis=0), np.uint8(255), np.uint8(0))

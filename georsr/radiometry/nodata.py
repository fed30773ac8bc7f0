"""Find invalid pixels, and fill them with plausible values before a network sees them.

`georsr.io.reader.RasterReader` joins the nodata values found here with the alpha band and the
masks of a file.
"""

from __future__ import annotations

import math

import numpy as np
from rasterio.fill import fillnodata

from georsr.window import AnyArray, BoolArray, FloatArray

MAX_FILL_DISTANCE = 32
"""Distance in pixels up to which invalid pixels are interpolated; those farther away get the
mean."""


def fill_invalid(values: FloatArray, valid: BoolArray, *, empty: float = 0.0) -> FloatArray:
    """Replace invalid pixels by interpolation from the valid ones of the same band.

    Parameters
    ----------
    values : float32 (C, h, w)
        Values at invalid pixels (NaN, nodata, anything) have no influence on the result.
    valid : bool (C, h, w)
        Whether a pixel is valid.
    empty : float
        Value of a band without a valid pixel, in the unit of ``values``.

    Returns
    -------
    float32 (C, h, w)
        Valid pixels are bit for bit those of ``values``. Invalid ones are interpolated within
        `MAX_FILL_DISTANCE` pixels of valid ones; the others get the mean of the band's valid
        pixels. If every pixel is valid, ``values`` itself is returned.
    """
    if valid.all():
        return values
    filled = values.copy()
    for band, band_valid in zip(filled, valid, strict=True):
        if band_valid.all():
            continue
        if not band_valid.any():
            band[:] = empty
            continue
        # fillnodata keeps the value of pixels that are too far away: the mean must be there before
        band[~band_valid] = np.float32(band[band_valid].mean(dtype=np.float64))
        interpolated = fillnodata(band, mask=band_valid, max_search_distance=MAX_FILL_DISTANCE)
        np.copyto(band, interpolated, where=~band_valid)
    return filled


NODATA_ULPS = 16
"""Distance in machine epsilons within which a floating point value counts as nodata.

GDAL's own readers treat values within a few units in the last place of nodata as nodata. A valid
value that is written must be farther away than any of them.
"""


def can_represent(dtype: str, value: float) -> bool:
    """Return whether a pixel of type ``dtype`` can have ``value``; only floats can be NaN."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return not math.isfinite(value) or abs(value) <= float(np.finfo(kind).max)
    limits = np.iinfo(kind)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


def nodata_tolerance(dtype: str, nodata: float) -> float:
    """Return the distance from ``nodata`` within which GDAL may read nodata; 0 for integers."""
    kind = np.dtype(dtype)
    if kind.kind != "f" or not math.isfinite(nodata):
        return 0.0
    return NODATA_ULPS * float(np.finfo(kind).eps) * abs(nodata)


def is_nodata(values: AnyArray, nodata: float) -> BoolArray:
    """Return which pixels of ``values`` (any shape) are nodata.

    Floating point values that differ from ``nodata`` only by rounding count too.
    """
    if values.dtype.kind != "f":
        return np.asarray(values == values.dtype.type(nodata))
    if math.isnan(nodata):
        return np.isnan(values)
    target = values.dtype.type(nodata)
    if not np.isfinite(target):
        return np.asarray(values == target)
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.abs(values - target)
    return np.asarray(distance <= nodata_tolerance(values.dtype.name, nodata) / 4)


def valid_pixels(values: AnyArray, nodata: float | None) -> BoolArray:
    """Return which pixels of ``values`` (any shape) are finite and not nodata."""
    valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if nodata is not None:
        valid &= ~is_nodata(values, nodata)
    return valid


def dataset_mask(valid: BoolArray) -> AnyArray:
    """Combine the validity of all bands in one mask.

    Parameters
    ----------
    valid : bool (C, h, w)
        Whether a pixel is valid in each band.

    Returns
    -------
    uint8 (h, w)
        255 where every band is valid, else 0: a GeoTIFF has one mask for all bands, and a pixel
        that is invalid in one of them must not pass for a measurement.
    """
    return np.where(valid.all(axis=0), np.uint8(255), np.uint8(0))


def erode_mask(valid: BoolArray, radius: int, *, border: bool = True) -> BoolArray:
    """Return the pixels without an invalid one within ``radius`` pixels of them.

    Parameters
    ----------
    valid
        (..., h, w).
    radius
        Half the size of the square that must be valid, in pixels.
    border
        Whether pixels beyond the image count as valid.
    """
    padding = [(0, 0)] * (valid.ndim - 2) + [(radius, radius)] * 2
    eroded = np.pad(valid, padding, constant_values=border)
    for axis in (-2, -1):
        windows = np.lib.stride_tricks.sliding_window_view(eroded, 2 * radius + 1, axis=axis)
        eroded = np.asarray(windows.all(-1))
    return eroded

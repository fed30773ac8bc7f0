"""Find invalid pixels, and fill them with plausible values before a network sees them.

`georsr.io.reader.RasterReader` joins the nodata values found here with the alpha band and the
masks of a file.
"""

from __future__ import annotations

import math
from decimal import Decimal

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
    values : float32 or float64 (C, h, w)
        Values at invalid pixels (NaN, nodata, anything) have no influence on the result.
    valid : bool (C, h, w)
        Whether a pixel is valid.
    empty : float
        Value of a band without a valid pixel, in the unit of ``values``.

    Returns
    -------
    array (C, h, w) of the same type
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
        # fillnodata computes in float32, which may hold only the differences of float64 values, and
        # no sum of the largest float32 values
        known = band[band_valid].astype(np.float64)
        low, high = known.min(), known.max()
        if band.dtype == np.float32 and max(-low, high) < 2.0**100:
            _fill_band(band, band_valid)
            continue
        centre, unit = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low or 1.0
        shifted = np.zeros(band.shape, np.float32)
        shifted[band_valid] = (known - centre) / unit
        _fill_band(shifted, band_valid)
        band[~band_valid] = shifted[~band_valid].astype(np.float64) * unit + centre
    return filled


def _fill_band(band: FloatArray, valid: BoolArray) -> None:
    # fillnodata keeps the value of pixels that are too far away: the mean must be there before
    band[~valid] = np.float32(band[valid].mean(dtype=np.float64))
    interpolated = fillnodata(band, mask=valid, max_search_distance=MAX_FILL_DISTANCE)
    np.copyto(band, interpolated, where=~valid)


NODATA_ULPS = 16
"""Distance in machine epsilons within which a floating point value counts as nodata.

GDAL's own readers treat values within a few units in the last place of nodata as nodata. A valid
value that is written must be farther away than any of them.
"""
HUGE, HUGE_TOLERANCE = 1e30, 1e-3
"""Nodata from this magnitude on may be written down with few digits, such as -3.4e38 for
-3.4028235e38: values that give the same text when they are rounded to so many digits count as
nodata, if they are within this fraction of it."""


def can_represent(dtype: str, value: float) -> bool:
    """Return whether a pixel of type ``dtype`` can have ``value``, but for rounding.

    Only floats can be NaN, and the largest ones may be written down rounded up.
    """
    kind = np.dtype(dtype)
    if kind.kind == "f":
        largest = float(np.finfo(kind).max)
        return not math.isfinite(value) or abs(value) / (1 + HUGE_TOLERANCE) <= largest
    limits = np.iinfo(kind)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


def nearest_float(dtype: str, value: float) -> float:
    """Return the finite value of a floating-point type nearest to ``value``, NaN and infinity."""
    if not math.isfinite(value):
        return value
    limits = np.finfo(dtype)
    return float(np.dtype(dtype).type(min(max(value, float(limits.min)), float(limits.max))))


def nodata_tolerance(dtype: str, nodata: float) -> float:
    """Return the distance from ``nodata`` within which GDAL may read nodata; 0 for integers."""
    kind = np.dtype(dtype)
    if kind.kind != "f" or not math.isfinite(nodata):
        return 0.0
    tolerance = NODATA_ULPS * float(np.finfo(kind).eps)
    if abs(nodata) < HUGE:
        return tolerance * abs(nodata)
    size = nearest_float(dtype, abs(nodata))
    tolerance *= size
    if not can_represent(dtype, nodata):
        return tolerance
    return max(tolerance, 4 * min(_last_digit(dtype, nodata) / 2, HUGE_TOLERANCE * size))


def _last_digit(dtype: str, value: float) -> float:
    """Return the value of the last digit that a data type writes: 1e37 for 3.4e38."""
    text = np.format_float_scientific(np.dtype(dtype).type(nearest_float(dtype, value)), trim="-")
    exponent = Decimal(text).normalize().as_tuple().exponent
    return float(Decimal(1).scaleb(int(exponent)))


def is_nodata(values: AnyArray, nodata: float) -> BoolArray:
    """Return which pixels of ``values`` (any shape) are nodata.

    Floating point values that differ from ``nodata`` only by rounding count too. Infinity is also
    how GDAL reads a number beyond the data type, such as -1.79769e308 for float32: the lowest or
    largest value of the type counts too.
    """
    if values.dtype.kind != "f":
        return np.asarray(values == values.dtype.type(nodata))
    if math.isnan(nodata):
        return np.isnan(values)
    largest = np.finfo(values.dtype).max
    if math.isinf(nodata):
        return np.asarray((values == nodata) | (values == math.copysign(largest, nodata)))
    target = values.dtype.type(nearest_float(values.dtype.name, nodata))
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.abs(values - target)
        rounded = np.float64(f"{target:.1e}").astype(values.dtype)
    near = distance <= nodata_tolerance(values.dtype.name, nodata) / 4
    if abs(target) > largest / 2:  # GDAL, too, takes -3.4e38 for -3.4028235e38
        near |= values == rounded
    return np.asarray(near)


MIN_FILL_PIXELS, MIN_FILL_FRACTION = 16, 1e-3
"""Smallest number and fraction of the pixels that have a fill value."""
MAX_FILL_VALUES = 8
"""Largest number of fill values next to each other."""
MIN_DATA_VALUES = 16
"""Smallest number of different values besides fill values; data with fewer are no image."""
OUTLIER_RANGES = 1e6
"""Distance from the data, in ranges of most of them, from which a value is no measurement, such as
a fill value that was resampled."""


def find_fill_values(pixels: AnyArray) -> tuple[list[float], AnyArray]:
    """Find values that look like undeclared nodata in the valid pixels of a band, (n,).

    They are the lowest or the highest values, many pixels have exactly these, and they are farther
    from all others than those from each other.

    Returns
    -------
    fills : list of float
        The fill values, those of most pixels first.
    rest : (m,)
        The other pixels, less those that are too far from them to be measurements.
    """
    ends = (pixels.min(), pixels.max()) if pixels.size else ()
    if all((pixels == end).sum() < 2 for end in ends):
        return [], _measurements(pixels)
    values, counts = np.unique(pixels, return_counts=True)
    enough = max(MIN_FILL_PIXELS, int(MIN_FILL_FRACTION * pixels.size))
    low, high = _data_span(values.astype(np.float64), counts, enough)
    rest = pixels[(pixels >= values[low]) & (pixels <= values[high - 1])]
    outside = np.r_[0:low, high : len(values)]
    order = outside[np.argsort(-counts[outside], kind="stable")]
    return [float(value) for value in values[order]], _measurements(rest)


def _data_span(values: AnyArray, counts: AnyArray, enough: int) -> tuple[int, int]:
    """Return first and last index + 1 of the sorted different values that are no fill values."""
    low, high = 0, len(values)
    changed = True
    while changed:
        changed = False
        for reverse in (False, True):
            ordered, weights = values[low:high], counts[low:high]
            if reverse:
                ordered, weights = -ordered[::-1], weights[::-1]
            count = _leading_fills(ordered, weights, enough)
            low, high = (low, high - count) if reverse else (low + count, high)
            changed = changed or count > 0
    return low, high


def _leading_fills(values: AnyArray, counts: AnyArray, enough: int) -> int:
    """Return how many of the lowest values are fill values."""
    for count in range(min(MAX_FILL_VALUES, len(values) - MIN_DATA_VALUES), 0, -1):
        if counts[:count].sum() < max(enough, MIN_FILL_PIXELS * count):
            continue
        cumulative = counts[count:].cumsum()
        ends = np.searchsorted(cumulative, cumulative[-1] * np.array([0.005, 0.995]))
        first, last = values[count:][ends]
        with np.errstate(over="ignore"):
            if values[count] - values[count - 1] > last - first:
                return count
    return 0


def _measurements(pixels: AnyArray) -> AnyArray:
    """Return the pixels without those that are too far from most of them."""
    if pixels.dtype.kind != "f" or pixels.size == 0:
        return pixels
    sample = pixels[:: max(1, pixels.size // 4096)].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        low, middle, high = np.percentile(sample, (10, 50, 90))
        margin = OUTLIER_RANGES * (high - low)
    if not 0 < margin < np.inf:
        return pixels
    near = (pixels >= middle - margin) & (pixels <= middle + margin)
    return pixels if near.all() else pixels[near]


def valid_pixels(values: AnyArray, *nodata: float | None) -> BoolArray:
    """Return which pixels of ``values`` (any shape) are finite and none of the nodata values."""
    valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    for value in nodata:
        if value is not None:
            valid &= ~is_nodata(values, value)
    return valid


def dataset_mask(valid: BoolArray) -> AnyArray:
    """Combine the validity of all bands, (C, h, w), in one mask, (h, w) uint8.

    It is 255 where every band is valid, else 0: a GeoTIFF has one mask for all bands, and a pixel
    that is invalid in one of them must not pass for a measurement.
    """
    return np.where(valid.all(axis=0), np.uint8(255), np.uint8(0))


def erode_mask(valid: BoolArray, radius: int, *, border: bool = True) -> BoolArray:
    """Return the pixels of (..., h, w) without an invalid one in a square around them.

    The square reaches ``radius`` pixels to each side; ``border`` says whether pixels beyond the
    image count as valid.
    """
    padding = [(0, 0)] * (valid.ndim - 2) + [(radius, radius)] * 2
    eroded = np.pad(valid, padding, constant_values=border)
    for axis in (-2, -1):
        windows = np.lib.stride_tricks.sliding_window_view(eroded, 2 * radius + 1, axis=axis)
        eroded = np.asarray(windows.all(-1))
    return eroded

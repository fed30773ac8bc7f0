"""Map stored pixel values to the 0..1 scale of a network and back, with one affine map per band.

The map is the same for the whole raster, so that tiles agree where they meet. It is chosen from a
sample: a small raster is sampled completely, a larger one is decimated, and a raster that is too
large to be decoded completely is sampled by small windows. The rule is the same for files and for
arrays, so that both get the same map. Files with overviews are sampled from an overview instead.
`georsr.io.reader.choose_normalization` chooses the map of a file, from its metadata or a sample.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from georsr.errors import RadiometryWarning, UsageError
from georsr.radiometry.nodata import fill_invalid, find_fill_values
from georsr.tiling.grid import spread_starts
from georsr.window import AnyArray, BoolArray, FloatArray, Window

WINDOWS_PER_AXIS = 16
"""Number of windows along each axis of a raster that is sampled by windows."""
MAX_MOSAIC_WINDOWS = 256
"""Largest number of windows in which a mosaic is sampled."""
MAX_PIXELS = 2**20
"""Largest number of pixels per band in a sample."""
MAX_DECIMATION = 16
"""A raster of up to this many times the pixels of the sample is decimated; a larger one is sampled
by windows."""

IndexArray = npt.NDArray[np.int64]


def decimated_shape(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """Return (rows, columns) of a raster decimated to at most ``max_pixels``."""
    factor = (height * width / max_pixels) ** 0.5
    # an axis shorter than the factor keeps one pixel, so the other one is decimated more
    rows, columns = max(1, int(height / factor)), max(1, int(width / factor))
    if rows > columns:
        return min(rows, max(1, max_pixels // columns)), columns
    return rows, min(columns, max(1, max_pixels // rows))


def sample_windows(height: int, width: int, max_pixels: int) -> list[Window]:
    """Return windows spread over a raster, of at most ``max_pixels`` together."""
    size = _window_size(max_pixels)
    return [
        Window(top, left, min(size, height), min(size, width))
        for top in spread_starts(height, size, WINDOWS_PER_AXIS)
        for left in spread_starts(width, size, WINDOWS_PER_AXIS)
    ]


def sample_windows_in(rasters: Sequence[Window], max_pixels: int) -> list[Window]:
    """Return windows spread over the rasters of a mosaic, of at most ``max_pixels`` together.

    Each of many rasters has one window in its middle, each of a few has a grid of windows.
    """
    count = min(MAX_MOSAIC_WINDOWS, len(rasters))
    per_axis = max(1, math.isqrt(MAX_MOSAIC_WINDOWS // count))
    size = max(1, int((max_pixels / count) ** 0.5) // per_axis)
    chosen = [rasters[i * len(rasters) // count] for i in range(count)]
    return [
        Window(
            raster.top + top, raster.left + left, min(size, raster.height), min(size, raster.width)
        )
        for raster in chosen
        for top in spread_starts(raster.height, size, per_axis)
        for left in spread_starts(raster.width, size, per_axis)
    ]


def sample_indices(
    height: int, width: int, max_pixels: int = MAX_PIXELS
) -> tuple[IndexArray, IndexArray]:
    """Return the rows and columns whose crossings are the sample of a raster without overviews."""
    pixels = height * width
    if pixels <= max_pixels:
        return np.arange(height), np.arange(width)
    if pixels <= MAX_DECIMATION * max_pixels:
        rows, columns = decimated_shape(height, width, max_pixels)
        return _nearest(height, rows), _nearest(width, columns)
    size = _window_size(max_pixels)
    return _window_indices(height, size), _window_indices(width, size)


def _window_size(max_pixels: int) -> int:
    return max(1, int(max_pixels**0.5) // WINDOWS_PER_AXIS)


def _window_indices(length: int, size: int) -> IndexArray:
    """Return the ascending indices of the windows along an axis; overlaps count twice."""
    starts = np.asarray(spread_starts(length, size, WINDOWS_PER_AXIS))
    return np.sort((starts[:, None] + np.arange(min(size, length))).ravel())


def _nearest(length: int, count: int) -> IndexArray:
    """Return the indices that GDAL reads when it decimates an axis by nearest neighbour.

    They are those under the centres of the output pixels, with GDAL's small number (rasterio.cpp).
    """
    centres = (np.arange(count) + 0.5) * (length / count) + 1e-10
    indices: IndexArray = np.minimum(np.floor(centres).astype(np.int64), length - 1)
    return indices


AUTO_PERCENTILES = (0.5, 99.5)
REACH = 2.0**12
"""Distance from the range 0..1, in ranges, up to which a value is added to a network's output.
float32 keeps 12 bits of the range beside such a value; values farther away would take the digits of
the pixels around them."""
HEADROOM = 16.0
"""Divisor of stored values that are interpolated: a power of two, which changes no digit, and sums
of values near the end of a floating-point type stay finite."""


LARGEST = float(np.finfo(np.float64).max) / 4
"""Magnitude of limits up to which their difference is finite."""


def calculation_dtype(dtype: str) -> np.dtype[np.floating]:
    """Return float32 if it holds every value of a data type, else float64."""
    return np.promote_types(dtype, np.float32)


@dataclass(frozen=True)
class Normalization:
    """The map ``(value - lo) / (hi - lo)`` of each band, the same for the whole raster."""

    lo: tuple[float, ...]
    """Stored values that become 0, one for each band."""
    hi: tuple[float, ...]
    """Stored values that become 1, not below ``lo``. A band with ``hi == lo`` is only shifted."""
    kind: str
    """How the limits were chosen: "dtype", "fixed", "percentile" or "reflectance"; "none" for
    stored values that are interpolated, which are neither clipped nor rounded."""

    def __post_init__(self) -> None:
        if len(self.lo) != len(self.hi) or not self.lo:
            raise ValueError(f"lo and hi need one value per band, got {self.lo} and {self.hi}")
        for low, high in zip(self.lo, self.hi, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"a stretch needs finite lo <= hi, got {low} and {high}")

    def forward(self, values: AnyArray) -> FloatArray:
        """Map stored values (C, h, w) of any real type to float32 (C, h, w), without clipping.

        Types whose values float32 cannot represent are subtracted in float64. For interpolation
        (``kind`` "none") the result is float64 for these types.
        """
        calc = calculation_dtype(values.dtype.name).type
        with np.errstate(over="ignore", invalid="ignore"):  # at pixels that are not valid
            out: FloatArray = np.subtract(values, _column(self.lo, calc), dtype=calc)
            out /= _column(self._span, calc)
            return out if self.kind == "none" else out.astype(np.float32, copy=False)

    def forward_filled(self, values: AnyArray, usable: BoolArray) -> FloatArray:
        """Fill the pixels of (C, h, w) that are not `usable`, then map values as `forward` does."""
        filled = values.astype(calculation_dtype(values.dtype.name))
        return self.forward(filled if usable.all() else fill_invalid(filled, usable))

    def usable(self, values: AnyArray, valid: BoolArray) -> BoolArray:
        """Return which pixels (C, h, w) are valid and not `out_of_reach`."""
        beyond = self.out_of_reach(values)
        return valid if beyond is None else valid & ~beyond

    def out_of_reach(self, values: AnyArray) -> BoolArray | None:
        """Return which stored values (C, h, w) are more than `REACH` ranges away from 0..1.

        A network's output keeps these values as they are. Without one, and for interpolation,
        the result is None.
        """
        if self.kind == "none":
            return None
        span = np.asarray(self._span)
        low, high = np.asarray(self.lo) - REACH * span, np.asarray(self.hi) + REACH * span
        if values.dtype.kind != "f":
            limits = np.iinfo(values.dtype)
            if low.max() <= limits.min and high.min() >= limits.max:
                return None
        calc = calculation_dtype(values.dtype.name).type
        with np.errstate(over="ignore"):
            beyond = (values < _column(low, calc)) | (values > _column(high, calc))
        return beyond if beyond.any() else None

    def inverse(
        self,
        x: FloatArray,
        out: FloatArray | None = None,
        dtype: np.dtype[np.floating] | type[np.floating] = np.float32,
    ) -> FloatArray:
        """Map (C, h, w) on the 0..1 scale back to stored units.

        Parameters
        ----------
        x
            Normalized values.
        out
            Array for the result, which may be ``x`` itself; by default a new one.
        dtype
            Type to calculate in, and of the result: `calculation_dtype` of the stored values.
            Results beyond its range become its largest finite values.
        """
        kind = np.dtype(dtype).type
        overflows: list[str] = []
        with np.errstate(over="call", call=lambda error, _: overflows.append(error)):
            values: FloatArray = np.multiply(
                x, _column(self._span, kind), out=out if x.dtype == kind else None
            )
            if any(self.lo):
                values += _column(self.lo, kind)
        if overflows:
            np.clip(values, np.finfo(kind).min, np.finfo(kind).max, out=values)
        return values

    def scale_difference(self, difference: FloatArray) -> FloatArray:
        """Convert a difference on the 0..1 scale, float32 (C, ...), to stored units."""
        spans = np.asarray(self._span, np.float32)
        scaled: FloatArray = difference * spans.reshape(-1, *(1,) * (difference.ndim - 1))
        return scaled

    def clip_with_remainder(self, x: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Clip finite float32 values of any shape to 0..1 and return what was cut off.

        Returns
        -------
        clipped : float32
            ``x`` clipped to 0..1; ``x`` itself if no value lies outside, and for interpolation.
        remainder : float32 or None
            ``x - clipped``, which is added to the network's output; None if no value lies outside.
        """
        if self.kind == "none" or x.size == 0 or (x.min() >= 0.0 and x.max() <= 1.0):
            return x, None
        clipped = np.clip(x, np.float32(0.0), np.float32(1.0))
        return clipped, x - clipped

    def to_json(self) -> str:
        """Return one line of JSON, which `from_json` reads back exactly."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Normalization:
        """Read the text of `to_json`; unknown or missing keys raise a UsageError."""
        try:
            fields = json.loads(text)
            return cls(tuple(fields.pop("lo")), tuple(fields.pop("hi")), **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise UsageError(f"not a stretch: {text!r}: {err}") from err

    def to_stretch(self) -> str:
        """Return the limits as the option ``stretch``; those of a constant band are widened."""
        limits = (
            (low, high if low < high else low + max(1.0, math.ulp(low)))
            for low, high in zip(self.lo, self.hi, strict=True)
        )
        return ";".join(f"{low},{high}" for low, high in limits)

    @property
    def _span(self) -> tuple[float, ...]:
        # 1 for a constant band, or one whose range is zero in float32
        spans = (high - low for low, high in zip(self.lo, self.hi, strict=True))
        return tuple(span if span > 2.0**-150 else 1.0 for span in spans)


def unscaled(count: int) -> Normalization:
    """Return the normalization with which stored values are interpolated."""
    return Normalization((0.0,) * count, (HEADROOM,) * count, "none")


def _warn(text: str) -> None:
    warnings.warn(
        f"array: {text}, tell that by src_nodata or valid", RadiometryWarning, stacklevel=4
    )


def normalization_of_sample(
    values: AnyArray, valid: BoolArray, mode: str = "auto", warn: Callable[[str], None] = _warn
) -> Normalization:
    """Choose the normalization for a sample of pixels.

    Parameters
    ----------
    values : (C, ...), any real type
        Stored values.
    valid : bool, same shape
        Whether a value is valid.
    mode : str
        As for `georsr.io.reader.choose_normalization`, but for ``reflectance``.
    warn : callable
        Called with a text on values that look like nodata and are not declared; percentiles leave
        them out.
    """
    fixed = fixed_normalization(values.dtype.name, len(values), mode)
    return _percentiles(values, valid, mode, warn) if fixed is None else fixed


def fixed_normalization(dtype: str, count: int, mode: str) -> Normalization | None:
    """Return the normalization of ``count`` bands, or None if it depends on the pixels.

    Raises
    ------
    UsageError
        ``mode`` is not known, or needs the metadata of a file.
    """
    if mode == "auto":
        mode = "dtype" if dtype == "uint8" else "percentile"
    kind = mode.partition(":")[0]
    if mode == "dtype":
        limits = None if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
        low, high = (0.0, 1.0) if limits is None else (float(limits.min), float(limits.max))
        return Normalization((low,) * count, (high,) * count, "dtype")
    if kind == "reflectance":
        raise UsageError(
            f"stretch {mode!r} needs the scale and offset of a file, and this is an array; use "
            "LO,HI instead"
        )
    if kind == "percentile":
        _parse_percentiles(mode)
        return None
    pairs = [_parse_pair(part, mode) for part in mode.split(";")]
    if len(pairs) not in (1, count):
        raise _invalid(mode, f"{len(pairs)} ranges for {count} bands; give one, or one per band")
    for low, high in pairs:
        if not low < high:
            raise _invalid(mode, "LO must be less than HI")
    lows, highs = zip(*pairs * (count // len(pairs)), strict=True)
    return Normalization(lows, highs, "fixed")


def _parse_percentiles(mode: str) -> tuple[float, float]:
    _, _, percentiles = mode.partition(":")
    low, high = _parse_pair(percentiles, mode) if percentiles else AUTO_PERCENTILES
    if not 0 <= low < high <= 100:
        raise _invalid(mode, "percentiles need 0 <= LOW < HIGH <= 100")
    return low, high


def _percentiles(
    values: AnyArray, valid: BoolArray, mode: str, warn: Callable[[str], None]
) -> Normalization:
    percentiles = _parse_percentiles(mode)
    calc = calculation_dtype(values.dtype.name).type
    los, his, fills = [], [], dict[str, float]()
    for band, mask in zip(values, valid, strict=True):
        fill_values, pixels = find_fill_values(band[mask])
        for value in fill_values:
            share = float((band[mask] == value).mean())
            name = str(band.dtype.type(value))
            fills[name] = max(share, fills.get(name, 0.0))
        if pixels.size == 0:
            low, high = 0.0, 1.0
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                low, high = (float(value) for value in np.percentile(pixels, percentiles))
            if not calc(low) < calc(high):
                low, high = float(pixels.min()), float(pixels.max())
            low, high = max(low, -LARGEST), min(high, LARGEST)
        los.append(low)
        his.append(high)
    if fills:
        warn(_fills_text(fills))
    return Normalization(tuple(los), tuple(his), "percentile")


def _fills_text(fills: dict[str, float]) -> str:
    """Describe fill values, given with the share of the pixels that have them."""
    shown = sorted(fills, key=lambda name: -fills[name])[:3]
    names = ", ".join(f"{name} ({100 * fills[name]:.2g} %)" for name in shown)
    rest = "" if len(fills) <= len(shown) else f" and {len(fills) - len(shown)} more values"
    return (
        f"pixels of {names}{rest} lie far from all others and are not declared as nodata: they "
        "stay data, and mix with their neighbours; if they are invalid"
    )


def _parse_pair(text: str, mode: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as err:
        raise _invalid(mode, "expected two numbers LO,HI") from err
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _invalid(mode, "the range must be finite")
    return low, high


def _invalid(mode: str, reason: str) -> UsageError:
    return UsageError(
        f"stretch {mode!r}: {reason}; known are auto, dtype, LO,HI, LO,HI;LO,HI;... "
        "percentile[:LOW,HIGH] and reflectance[:LO,HI]"
    )


def _column(values: Sequence[float] | AnyArray, dtype: type[np.floating]) -> AnyArray:
    return np.asarray(values, dtype=dtype)[:, None, None]

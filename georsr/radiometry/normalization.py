"""Radiometry: an affine, invertible map per band between file values and 0..1, one per scene.

Reflectance: the stretch of a scene in physical units, the same for every scene of a sensor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from georsr.errors import UsageError
from georsr.io.metadata import BandInfo, RasterInfo
from georsr.window import AnyArray, BoolArray, FloatArray, PixelSample

REFLECTANCE_RANGE = (0.0, 0.3)
"""Reflectance that becomes 0 and 1: most land surfaces in the visible; more is carried along."""
LANDSAT_C2_SCALE = (2.75e-5, -0.2)
"""Scale and offset of Landsat Collection 2 surface reflectance (USGS, LSDS-1619, table 6-1)."""


def reflectance_limits(info: RasterInfo, mode: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """File values of every band that become 0 and 1.

    Reflectance is ``stored * scale + offset``: from the file where it has them, else from the
    tags of Sentinel-2 products (QUANTIFICATION_VALUE, BOA_ADD_OFFSET) or the names of Landsat
    Collection 2 bands (SR_B4).

    Parameters
    ----------
    info
        The source.
    mode
        ``reflectance`` or ``reflectance:LO,HI``.

    Raises
    ------
    UsageError
        A range that is none, or a band whose scale is not known.
    """
    low, high = _range(mode)
    factors = [_factors(info, band) for band in info.bands]
    return (
        tuple((low - offset) / scale for scale, offset in factors),
        tuple((high - offset) / scale for scale, offset in factors),
    )


def _range(mode: str) -> tuple[float, float]:
    _, colon, given = mode.partition(":")
    if not colon:
        return REFLECTANCE_RANGE
    try:
        low, high = (float(part) for part in given.split(","))
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"stretch {mode!r}: expected reflectance:LO,HI with LO less than HI")
    return low, high


def _factors(info: RasterInfo, band: BandInfo) -> tuple[float, float]:
    if (band.scale, band.offset) != (1.0, 0.0):
        if band.scale > 0:
            return band.scale, band.offset
        raise UsageError(f"{info.path}: band {band.number} has scale {band.scale:g}, expected > 0")
    tags = dict(info.tags.get("", {}))
    quantities = [value for key, value in tags.items() if key.endswith("QUANTIFICATION_VALUE")]
    try:
        scale = 1.0 / float(quantities[0])
        said = tags | dict(band.tags)  # GDAL's driver tells it band by band
        added = float(said.get("BOA_ADD_OFFSET", said.get("RADIO_ADD_OFFSET", "0")))
    except (IndexError, ValueError, ZeroDivisionError):
        pass
    else:
        return scale, added * scale
    if re.match(r"SR_B\d", band.description or ""):
        return LANDSAT_C2_SCALE
    if band.dtype.startswith("float"):
        return 1.0, 0.0
    raise UsageError(
        f"{info.path}: band {band.number} has no scale and offset, so that its reflectance is not "
        "known: set them (gdal_edit.py -scale 0.0001 -offset 0), or use --stretch LO,HI in file "
        "values"
    )


AUTO_PERCENTILES = (0.5, 99.5)


class Sampler(Protocol):
    """What `choose_normalization` needs of a reader."""

    @property
    def info(self) -> RasterInfo:
        """Description of the raster."""

    def sample(self, max_pixels: int = ...) -> PixelSample:
        """Pixels from all over the raster."""


@dataclass(frozen=True)
class Normalization:
    """``(value - lo) / (hi - lo)`` per band, the same for the whole scene.

    Attributes
    ----------
    lo, hi : tuple of float
        File values that become 0 and 1, one per band; ``hi >= lo``. A band with ``hi == lo`` is
        only shifted.
    kind : str
        How they were found: "dtype", "fixed", "percentile" or "reflectance".
    """

    lo: tuple[float, ...]
    hi: tuple[float, ...]
    kind: str

    def __post_init__(self) -> None:
        if len(self.lo) != len(self.hi) or not self.lo:
            raise ValueError(f"lo and hi need one value per band, got {self.lo} and {self.hi}")
        for low, high in zip(self.lo, self.hi, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"a stretch needs finite lo <= hi, got {low} and {high}")

    def forward(self, values: AnyArray) -> FloatArray:
        """File values (C, h, w), any real type, to float32 (C, h, w) on the 0..1 scale, unclipped.

        Types whose values float32 cannot hold are subtracted in float64, in small pieces.
        """
        exact = values.dtype.kind == "f" or values.dtype.itemsize <= 2
        calc = np.float32 if exact and values.dtype.itemsize <= 4 else np.float64
        out = np.empty(values.shape, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # at pixels that are not valid
            np.subtract(values, _column(self.lo, calc), out=out, dtype=calc, casting="unsafe")
            out /= _column(self._span, np.float32)
        return out

    def inverse(self, x: FloatArray, out: FloatArray | None = None) -> FloatArray:
        """From the 0..1 scale, float32 (C, h, w), back to the unit of the file, float32.

        ``out``, which may be ``x`` itself, is where to; None is a new array.
        """
        made: FloatArray = np.multiply(x, _column(self._span, np.float32), out=out)
        if any(self.lo):
            made += _column(self.lo, np.float32)
        return made

    def scale_difference(self, difference: FloatArray) -> FloatArray:
        """A difference on the 0..1 scale, float32 (C, ...), in the unit of the file."""
        spans = np.asarray(self._span, np.float32)
        scaled: FloatArray = difference * spans.reshape(-1, *(1,) * (difference.ndim - 1))
        return scaled

    @staticmethod
    def clip_with_remainder(x: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Separate what a network can see from what it cannot.

        Parameters
        ----------
        x : float32, any shape, finite

        Returns
        -------
        clipped : float32
            ``x`` within 0..1; ``x`` itself if nothing lies outside.
        remainder : float32 or None
            ``x - clipped``, to be carried round the network; None if nothing lies outside.
        """
        if x.size == 0 or (x.min() >= 0.0 and x.max() <= 1.0):
            return x, None
        clipped = np.clip(x, np.float32(0.0), np.float32(1.0))
        return clipped, x - clipped

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back exactly."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Normalization:
        """Inverse of `to_json`; unknown or missing keys are a UsageError."""
        try:
            fields = json.loads(text)
            return cls(tuple(fields.pop("lo")), tuple(fields.pop("hi")), **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise UsageError(f"not a stretch: {text!r}: {err}") from err

    @property
    def _span(self) -> tuple[float, ...]:
        # a constant band, or one whose range float32 cannot tell from zero: shift only
        spans = (high - low for low, high in zip(self.lo, self.hi, strict=True))
        return tuple(span if np.float32(span) > 0 else 1.0 for span in spans)


def choose_normalization(reader: Sampler, mode: str = "auto") -> Normalization:
    """Decide the stretch of a whole scene.

    Parameters
    ----------
    reader : RasterReader
    mode : str
        - ``auto``: 0..255 for uint8, otherwise percentiles 0.5 and 99.5 of the valid pixels;
        - ``dtype``: the whole range of an integer type, 0..1 for floats;
        - ``LO,HI``: fixed, for all bands, or ``LO,HI;LO,HI;...`` one pair per band;
        - ``reflectance`` or ``reflectance:LO,HI``: 0 to 0.3, or this range, of what scales and
          offsets of the file, or its sensor, make of its values;
        - ``percentile`` or ``percentile:LOW,HIGH``: percentiles of the valid pixels, per band.

    Returns
    -------
    Stretch
        A band whose percentiles coincide is given its minimum and maximum; a constant one has
        ``lo == hi``; one without a valid pixel in the sample has 0..1.

    Raises
    ------
    UsageError
        ``mode`` is none of these.
    """
    info = reader.info
    if mode.partition(":")[0] == "reflectance":
        return Normalization(*reflectance_limits(info, mode), "reflectance")
    found = fixed_normalization(info.dtype, info.count, mode)
    if found is not None:
        return found
    sample = reader.sample()
    return _percentiles(sample.values, sample.valid, mode)


def normalization_of_sample(
    values: AnyArray, valid: BoolArray, mode: str = "auto"
) -> Normalization:
    """Like `choose_normalization`, from pixels in memory.

    Parameters
    ----------
    values : (C, ...), any real type
    valid : bool, same shape
    mode : str
    """
    found = fixed_normalization(values.dtype.name, len(values), mode)
    return _percentiles(values, valid, mode) if found is None else found


def fixed_normalization(dtype: str, count: int, mode: str) -> Normalization | None:
    """The stretch of ``count`` bands where no pixels are needed to choose it, else None.

    Raises
    ------
    UsageError
        ``mode`` is none that `choose_normalization` knows.
    """
    if mode == "auto":
        mode = "dtype" if dtype == "uint8" else "percentile"
    if mode == "dtype":
        if np.dtype(dtype).kind == "f":
            return _constant(0.0, 1.0, count, "dtype")
        limits = np.iinfo(dtype)
        return _constant(float(limits.min), float(limits.max), count, "dtype")
    if mode.partition(":")[0] == "reflectance":
        raise UsageError(
            f"stretch {mode!r} is for files, which have scales and offsets: give --stretch LO,HI"
        )
    if mode.split(":")[0] == "percentile":
        _limits(mode)
        return None
    pairs = [_pair(part, mode) for part in mode.split(";")]
    if len(pairs) not in (1, count):
        raise _bad(mode, f"{len(pairs)} ranges for {count} bands; give one, or one per band")
    for low, high in pairs:
        if not low < high:
            raise _bad(mode, "LO must be less than HI")
    if len(pairs) == 1:
        return _constant(*pairs[0], count, "fixed")
    return Normalization(tuple(low for low, _ in pairs), tuple(high for _, high in pairs), "fixed")


def _limits(mode: str) -> tuple[float, float]:
    _, _, given = mode.partition(":")
    low, high = _pair(given, mode) if given else AUTO_PERCENTILES
    if not 0 <= low < high <= 100:
        raise _bad(mode, "percentiles need 0 <= LOW < HIGH <= 100")
    return low, high


def _percentiles(values: AnyArray, valid: BoolArray, mode: str) -> Normalization:
    limits = _limits(mode)
    los, his = [], []
    for band, mask in zip(values, valid, strict=True):
        good = band[mask]
        if good.size == 0:
            bottom, top = 0.0, 1.0
        else:
            bottom, top = (float(value) for value in np.percentile(good, limits))
            if not np.float32(bottom) < np.float32(top):
                bottom, top = float(good.min()), float(good.max())
        los.append(bottom)
        his.append(top)
    return Normalization(tuple(los), tuple(his), "percentile")


def _constant(low: float, high: float, count: int, kind: str) -> Normalization:
    return Normalization((low,) * count, (high,) * count, kind)


def _pair(text: str, mode: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as err:
        raise _bad(mode, "expected two numbers LO,HI") from err
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _bad(mode, "the range must be finite")
    return low, high


def _bad(mode: str, why: str) -> UsageError:
    return UsageError(
        f"stretch {mode!r}: {why}; known are auto, dtype, LO,HI, LO,HI;LO,HI;... "
        "percentile[:LOW,HIGH] and reflectance[:LO,HI]"
    )


def _column(values: Sequence[float], dtype: type[np.floating]) -> AnyArray:
    return np.asarray(values, dtype=dtype)[:, None, None]

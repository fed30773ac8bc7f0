"""Choose the normalization of a raster from its metadata or from a sample of its pixels."""

from __future__ import annotations

import math
import re

from georsr.errors import RadiometryWarning, UsageError
from georsr.io.metadata import BandInfo, RasterInfo
from georsr.io.reader import RasterReader, warn_once
from georsr.radiometry.normalization import (
    Normalization,
    fixed_normalization,
    normalization_of_sample,
)

DEFAULT_REFLECTANCE = (0.0, 0.3)
"""Reflectance that becomes 0 and 1. Most land surfaces lie in it in the visible spectrum; larger
values are preserved, but the network does not see them."""
LANDSAT_C2_SCALE = (2.75e-5, -0.2)
"""Scale and offset of Landsat Collection 2 surface reflectance (USGS, LSDS-1619, table 6-1)."""


def choose_normalization(reader: RasterReader, mode: str = "auto") -> Normalization:
    """Choose the normalization of a raster.

    Parameters
    ----------
    reader : RasterReader
        Reader of the raster, with the bands to be normalized.
    mode : str
        - ``auto``: 0..255 for uint8, otherwise percentiles 0.5 and 99.5 of the valid pixels;
        - ``dtype``: the full range of an integer type, 0..1 for floats;
        - ``LO,HI``: fixed limits for all bands, or ``LO,HI;LO,HI;...`` with a pair per band;
        - ``reflectance`` or ``reflectance:LO,HI``: limits in reflectance, 0 and 0.3 by default;
        - ``percentile`` or ``percentile:LOW,HIGH``: percentiles of the valid pixels of each band.

    Returns
    -------
    Normalization
        If the percentiles of a band coincide, its minimum and maximum are used; a constant band
        has ``lo == hi``; a band without a valid pixel in the sample has the limits 0 and 1.

    Raises
    ------
    UsageError
        ``mode`` is none of these, or the reflectance of a band is not known.

    Warns
    -----
    RadiometryWarning
        Many pixels have a value that looks like nodata and is not declared; percentiles leave it
        out.
    """
    info = reader.info
    if mode.partition(":")[0] == "reflectance":
        return Normalization(*reflectance_limits(info, mode), "reflectance")
    fixed = fixed_normalization(info.dtype, info.count, mode)
    if fixed is not None:
        return fixed

    def warn(text: str) -> None:
        warn_once(reader, f"{info.path}: {text}, use --nodata", RadiometryWarning)

    sample = reader.sample()
    return normalization_of_sample(sample.values, sample.valid, mode, warn)


def reflectance_limits(info: RasterInfo, mode: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute the file values of each band that become 0 and 1.

    Reflectance is ``stored * scale + offset``. Scale and offset are those of the band, else those
    in the tags of a Sentinel-2 product (QUANTIFICATION_VALUE, BOA_ADD_OFFSET), else those of
    Landsat Collection 2 if the band has one of its names (such as SR_B4).

    Parameters
    ----------
    info
        Metadata of the raster.
    mode
        ``reflectance`` or ``reflectance:LO,HI``.

    Returns
    -------
    lo, hi : tuple of float
        Stored values, one for each band.

    Raises
    ------
    UsageError
        The limits are invalid, or scale and offset of a band are not known.
    """
    low, high = _parse_limits(mode)
    factors = [_scale_and_offset(info, band) for band in info.bands]
    return (
        tuple((low - offset) / scale for scale, offset in factors),
        tuple((high - offset) / scale for scale, offset in factors),
    )


def _parse_limits(mode: str) -> tuple[float, float]:
    _, colon, limits = mode.partition(":")
    if not colon:
        return DEFAULT_REFLECTANCE
    try:
        low, high = (float(part) for part in limits.split(","))
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"stretch {mode!r}: expected reflectance:LO,HI with LO less than HI")
    return low, high


def _scale_and_offset(info: RasterInfo, band: BandInfo) -> tuple[float, float]:
    if (band.scale, band.offset) != (1.0, 0.0):
        if band.scale > 0:
            return band.scale, band.offset
        raise UsageError(f"{info.path}: band {band.number} has scale {band.scale:g}, expected > 0")
    tags = dict(info.tags.get("", {}))
    quantities = [value for key, value in tags.items() if key.endswith("QUANTIFICATION_VALUE")]
    try:
        scale = 1.0 / float(quantities[0])
        all_tags = tags | dict(band.tags)  # GDAL's Sentinel-2 driver has the offset in each band
        added = float(all_tags.get("BOA_ADD_OFFSET", all_tags.get("RADIO_ADD_OFFSET", "0")))
    except (IndexError, ValueError, ZeroDivisionError):
        pass
    else:
        return scale, added * scale
    if re.match(r"SR_B\d", band.description or ""):
        return LANDSAT_C2_SCALE
    if band.dtype.startswith("float"):
        return 1.0, 0.0
    raise UsageError(
        f"{info.path}: band {band.number} has no scale and offset, so its reflectance is not "
        "known: set them (gdal_edit.py -scale 0.0001 -offset 0), or use --stretch LO,HI in file "
        "values"
    )

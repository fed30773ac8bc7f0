"""Reflectance: the stretch of a scene in physical units, the same for every scene of a sensor."""

from __future__ import annotations

import math
import re

from georsr.errors import UsageError
from georsr.raster.info import BandInfo, RasterInfo

RANGE = (0.0, 0.3)
"""Reflectance that becomes 0 and 1: most land surfaces in the visible; more is carried along."""
LANDSAT_C2 = (2.75e-5, -0.2)
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
        return RANGE
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
        return LANDSAT_C2
    if band.dtype.startswith("float"):
        return 1.0, 0.0
    raise UsageError(
        f"{info.path}: band {band.number} has no scale and offset, so that its reflectance is not "
        "known: set them (gdal_edit.py -scale 0.0001 -offset 0), or use --stretch LO,HI in file "
        "values"
    )

"""Plausible values for pixels that have none, so that a network can be run over them."""

from __future__ import annotations

import numpy as np
from rasterio.fill import fillnodata

from georsr.raster.env import gdal_env
from georsr.types import BoolArray, FloatArray

SEARCH = 32
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
        `SEARCH` pixels of valid ones, and are the band's mean valid value farther away. The
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
            guess = fillnodata(band, mask=good, max_search_distance=SEARCH)
        np.copyto(band, guess, where=~good)
    return filled

"""Alpha: whether a band that says it is transparency is that, or an image.

GDAL calls the fourth band of a raster of bytes alpha unless it is told otherwise, so that the near
infrared of many an aerial photograph goes by that name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.windows import Window

from georsr.types import AnyArray

CHOICES = ("auto", "mask", "data")
"""Look at it; believe what it says; take it for an image."""
LEAST_BANDS = 4
"""A raster of fewer bands has no near infrared behind red, green and blue."""
LEAST_VALUES = 16
"""An image has more; soft edges of a mask may have some."""
SHARE = 0.8
"""Of an image between transparent and opaque; a mask is mostly opaque, even with soft edges."""
GRID, SIDE = 4, 64
"""Windows that are looked at along each axis, and their size."""


def alpha_number(dataset: Any, colors: tuple[str, ...], choice: str) -> tuple[int | None, str]:
    """The alpha band of a raster, and one line on what was assumed; None and empty: none.

    Parameters
    ----------
    dataset
        Of rasterio.
    colors
        Colour interpretation of each band.
    choice
        One of `CHOICES`.
    """
    if choice == "data" or "alpha" not in colors:
        return None, ""
    number = colors.index("alpha") + 1
    dtype = np.dtype(dataset.dtypes[number - 1])
    if choice == "mask" or dataset.count < LEAST_BANDS or dtype.kind != "u":
        return number, ""
    if not is_image(_looked_at(dataset, number), float(np.iinfo(dtype).max)):
        return number, ""
    return None, (
        f"band {number} says that it is alpha, but its values are those of an image: taken as a "
        "band like the others, such as near infrared; if it is alpha, say --alpha mask"
    )


def is_image(values: AnyArray, opaque: float) -> bool:
    """Whether values are those of an image: mostly between transparent and opaque, and many.

    Parameters
    ----------
    values
        Of any shape; zeros do not count, which an image may have for nodata.
    opaque
        The largest value of the type.
    """
    seen = values[values != 0]
    between = seen[seen != opaque]
    enough = between.size > SHARE * seen.size
    return enough and np.unique(between).size >= LEAST_VALUES


def _looked_at(dataset: Any, number: int) -> AnyArray:
    height, width = min(SIDE, dataset.height), min(SIDE, dataset.width)
    tops = np.linspace(0, dataset.height - height, GRID).round().astype(int)
    lefts = np.linspace(0, dataset.width - width, GRID).round().astype(int)
    places = dict.fromkeys((int(top), int(left)) for top in tops for left in lefts)
    windows = [Window(left, top, width, height) for top, left in places]
    return np.concatenate([dataset.read(number, window=window).ravel() for window in windows])

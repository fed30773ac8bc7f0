"""Content: rasters that are no images, by what they say about themselves."""

from __future__ import annotations

import re
from pathlib import PurePath

from georsr.errors import UsageError
from georsr.raster.info import BandInfo, RasterInfo

CLASSES = re.compile(
    r"\b(scl|scene[ _]classification\w*|classification|class(es)?|land[ _-]?cover|land[ _-]?use|"
    r"lulc|categor\w+|labels?|qa[ _]\w+|fmask|cloud[ _]mask)\b",
    re.IGNORECASE,
)
"""In the name of a band whose values are classes or flags."""
ELEVATIONS = re.compile(
    r"(^|[\W_])(elevations?|altitudes?|dem|dsm|dtm|dhm|srtm\w*|height above\w*)($|[\W_])",
    re.IGNORECASE,
)
"""In the name of a band, or of a file of one band, whose values are heights."""
LENGTHS = ("m", "metre", "metres", "meter", "meters", "ft", "feet", "foot")


def check_content(info: RasterInfo, model: str) -> None:
    """Refuse what a network for images would make nonsense of.

    Parameters
    ----------
    info
        The source.
    model
        Name of the network, for the message.

    Raises
    ------
    UsageError
        A band holds classes, or heights.
    """
    for band in info.bands:
        what = _content(info, band)
        if what is not None:
            raise UsageError(
                f"{info.path}: band {band.number} holds {what}, not brightness, and {model} was "
                "made for images: choose other bands with --bidx, take --model bicubic or "
                "nearest, or insist with --force"
            )


def _content(info: RasterInfo, band: BandInfo) -> str | None:
    name = band.description or ""
    thematic = band.tags.get("LAYER_TYPE", "").lower() == "thematic"
    if thematic or CLASSES.search(name):
        return f"classes ({name or 'LAYER_TYPE thematic'})"
    if ELEVATIONS.search(name):
        return f"heights ({name})"
    if info.count > 1 or band.dtype == "uint8":
        return None
    stem = PurePath(info.path).stem
    if (band.unit or "").lower() in LENGTHS:
        return f"heights (its unit is {band.unit})"
    return f"heights (the file is called {stem})" if ELEVATIONS.search(stem) else None

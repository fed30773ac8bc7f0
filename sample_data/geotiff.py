"""GeoTIFF: one scene with everything its file says, written and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from dice import Array
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

COPYRIGHT = "CC0-1.0, no rights reserved; drawn by a program, shows no real place"


@dataclass(frozen=True)
class Product:
    """A scene: pixels (bands, rows, columns) and what a reader is told about them."""

    name: str
    pixels: Array
    crs: str
    transform: Affine
    bands: Mapping[str, ColorInterp]
    about: str
    nodata: int | None = None
    scale: float = 1.0
    tags: Mapping[str, str] = field(default_factory=dict)
    band_tags: tuple[Mapping[str, str], ...] = ()


def write(product: Product, folder: Path) -> Path:
    """Write one product as ``folder / product.name``, tiled, DEFLATE, predictor 2."""
    path = folder / product.name
    count, height, width = product.pixels.shape
    colours = tuple(product.bands.values())
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=product.pixels.dtype,
        crs=product.crs,
        transform=product.transform,
        nodata=product.nodata,
        tiled=True,
        blockxsize=128,
        blockysize=128,
        compress="deflate",
        predictor=2,
        zlevel=9,
        photometric="RGB" if colours[0] is ColorInterp.red else "MINISBLACK",
    ) as file:
        file.colorinterp = colours
        file.descriptions = tuple(product.bands)
        if product.scale != 1:
            file.scales = (product.scale,) * count
        file.update_tags(
            TIFFTAG_IMAGEDESCRIPTION=product.about, TIFFTAG_COPYRIGHT=COPYRIGHT, **product.tags
        )
        for band, tags in enumerate(product.band_tags, start=1):
            file.update_tags(band, **tags)
        file.write(product.pixels)
    return path


def differences(one: Path, other: Path) -> list[str]:
    """Names of what differs between the decoded contents of two files; [] if nothing does."""
    with rasterio.open(one) as a, rasterio.open(other) as b:
        looks = {
            "crs": lambda f: f.crs,
            "transform": lambda f: tuple(f.transform),
            "size": lambda f: (f.count, f.height, f.width),
            "dtypes": lambda f: f.dtypes,
            "nodata": lambda f: f.nodata,
            "descriptions": lambda f: f.descriptions,
            "colour interpretation": lambda f: f.colorinterp,
            "scales and offsets": lambda f: (f.scales, f.offsets),
            "units": lambda f: f.units,
            "tags": lambda f: [f.tags(band) for band in range(f.count + 1)],
        }
        found = [name for name, look in looks.items() if look(a) != look(b)]
        if "size" in found or not np.array_equal(a.read(), b.read()):
            found.append("pixels")
    return found

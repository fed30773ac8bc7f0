"""Draw the sample scenes and write them as GeoTIFFs; or check that the files are those drawn.

    python sample_data/make_scenes.py [--out DIR] [--check]

``--check`` draws again into a temporary folder and compares the decoded contents: every pixel,
the georeferencing and the other metadata, bit for bit. The bytes of the files may differ, since
GDAL and its compression library may lay the same content out otherwise in another version.

The same seed gives the same pixels on every machine: random numbers are raw PCG64 words, the
drawing uses only operations that IEEE 754 defines exactly (sums in a written order, products,
quotients, square roots; angles and outlines are rounded first), and the scenes are settled so
that no degraded value is near a rounding threshold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from dice import Array
from farm import draw_farm
from fields import draw_fields
from geotiff import Product, differences, write
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from settle import degrade_valid, settle
from town import draw_town

from georsr.radiometry.degradation import bicubic_downsample, to_uint8

HERE = Path(__file__).resolve().parent

RGB = {"red": ColorInterp.red, "green": ColorInterp.green, "blue": ColorInterp.blue}
FOUR = {
    "blue": ColorInterp.blue,
    "green": ColorInterp.green,
    "red": ColorInterp.red,
    "nir": ColorInterp.nir,
}
WAVELENGTHS = ("490", "560", "665", "842")

# 30 degrees of rotation, a shear of -0.02 and pixels of 0.5 by 0.55 m, written out so that no
# sine is involved
FARM_TRANSFORM = Affine(
    0.4330127018922193, 0.2845262794416288, 842150.25, 0.25, -0.4708139720814413, 6518730.5
)

ISOLATED = ((0, 0), (3, 61), (41, 17), (42, 18), (77, 101), (110, 44), (139, 9))
"""(row, column) of single missing pixels of the coarse four-band scene."""


def footprint(height: int, width: int) -> Array:
    """Valid pixels, (height, width) bool: a slanted orbit edge on the right, and single holes."""
    row, column = np.indices((height, width))
    valid = 100 * column + 27 * row < 15050
    for hole in ISOLATED:
        valid[hole] = False
    return np.asarray(valid)


def town() -> list[Product]:
    """Return the town at 0.5 m, the truth, and degraded to 1 m and 2 m."""
    truth = settle(draw_town(), (2, 4), margin=1e-3)
    pictures = {
        0.5: (truth, "town, truth"),
        1.0: (to_uint8(bicubic_downsample(truth, 2)), "town, truth degraded x2, bicubic"),
        2.0: (to_uint8(bicubic_downsample(truth, 4)), "town, truth degraded x4, bicubic"),
    }
    return [
        Product(
            name=f"town_rgb_{pixel:g}m.tif",
            pixels=picture,
            crs="EPSG:32632",
            transform=Affine(pixel, 0, 681240, 0, -pixel, 5241870),
            bands=RGB,
            about=about,
        )
        for pixel, (picture, about) in pictures.items()
    ]


def fields() -> list[Product]:
    """Return the fields at 10 m and their truth at 5 m: four bands, reflectance times 10000."""
    drawn = draw_fields()
    valid = footprint(drawn.shape[1] // 2, drawn.shape[2] // 2)
    fine = valid.repeat(2, axis=0).repeat(2, axis=1)
    truth = settle(drawn, (2,), margin=0.02, valid=fine) * fine
    pictures = {
        10: (degrade_valid(truth, fine, 2), "fields, truth degraded x2, bicubic over valid pixels"),
        5: (truth, "fields, truth"),
    }
    return [
        Product(
            name=f"fields_4band_{pixel}m.tif",
            pixels=picture,
            crs="EPSG:32633",
            transform=Affine(pixel, 0, 502380, 0, -pixel, 5297640),
            bands=FOUR,
            about=about,
            nodata=0,
            scale=0.0001,
            band_tags=tuple({"CENTRAL_WAVELENGTH_NM": each} for each in WAVELENGTHS),
        )
        for pixel, (picture, about) in pictures.items()
    ]


def farm() -> Product:
    """Return the farm, whose raster is rotated and sheared, with tags of its own."""
    return Product(
        name="rotated_rgb_0.5m.tif",
        pixels=settle(draw_farm(), (2, 4), margin=1e-3),
        crs="EPSG:2154",
        transform=FARM_TRANSFORM,
        bands=RGB,
        about="farm, raster rotated by 30 degrees",
        tags={"TIFFTAG_DATETIME": "2026:05:14 10:30:00", "FLIGHT_LINE": "7", "CAMERA": "drawn"},
        band_tags=tuple({"GAIN": gain} for gain in ("1.00", "1.05", "1.12")),
    )


def products() -> list[Product]:
    """Draw everything."""
    return [*town(), *fields(), farm()]


def make(folder: Path) -> list[Path]:
    """Write all scenes into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write(product, folder) for product in products()]


def check(folder: Path) -> list[str]:
    """Draw again and compare with the files in a folder: one line per file that differs."""
    complaints = []
    with tempfile.TemporaryDirectory() as again:
        for path in make(Path(again)):
            kept = folder / path.name
            found = differences(kept, path) if kept.exists() else ["everything: it is missing"]
            if found:
                complaints.append(f"{kept.name}: differs in {', '.join(found)}")
    return complaints


def main() -> int:
    """Run the command line; 1 if the check finds a difference."""
    parser = argparse.ArgumentParser(description="Draw the sample scenes.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder (default: this one)")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    if options.check:
        complaints = check(options.out)
        print("\n".join(complaints) or "all scenes are as drawn")
        return 1 if complaints else 0
    for path in make(options.out):
        print(f"{path.stat().st_size:8d}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

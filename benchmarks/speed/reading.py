"""What it costs to read JPEG 2000 in rows of tiles, against reading all of it once.

    python benchmarks/speed/reading.py [--width 10980] [--rows 2048] [--bands 4] [--block 1024]

A VRT over one file per band, as products of Sentinel-2 have them, of waves and noise without loss.
Prints processor seconds: of whole rows of blocks, each decoded once; of rows of tiles with the
cache that georsr takes; and of rows of tiles with the cache that it takes for other rasters.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from georsr.io.gdal_env import CACHE_BYTES
from georsr.io.reader import RasterReader, open_raster
from georsr.window import Window

TILE, STEP = 192, 176
WHERE = Affine(10, 0, 4e5, 0, -10, 5e6)


def make_scene(folder: Path, width: int, rows: int, bands: int, block: int) -> Path:
    """A VRT over files of JPEG 2000."""
    y, x = np.mgrid[:rows, :width]
    sources = []
    for band in range(bands):
        noise = np.random.default_rng(band).normal(0, 120, (rows, width))
        waves = 1500 + 600 * np.sin(x / 37 + band) + 500 * np.cos(y / 23) + noise
        with rasterio.open(
            folder / f"{band}.jp2",
            "w",
            driver="JP2OpenJPEG",
            width=width,
            height=rows,
            count=1,
            dtype="uint16",
            crs="EPSG:32632",
            transform=WHERE,
            QUALITY="100",
            REVERSIBLE="YES",
            BLOCKXSIZE=block,
            BLOCKYSIZE=block,
        ) as dataset:
            dataset.write(waves.clip(1, 9999).astype("uint16"), 1)
        sources.append(
            f'<VRTRasterBand dataType="UInt16" band="{band + 1}"><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{band}.jp2</SourceFilename></SimpleSource>'
            "</VRTRasterBand>"
        )
    where = ", ".join(map(str, WHERE.to_gdal()))
    path = folder / "scene.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{rows}"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>{where}</GeoTransform>{''.join(sources)}</VRTDataset>"
    )
    return path


def seconds(reader: RasterReader, height: int, step: int) -> float:
    """Processor seconds of reading windows of all columns, from the first row to the last."""
    info, since = reader.info, time.process_time()
    for top in range(0, info.height, step):
        reader.read(Window(top, 0, min(height, info.height - top), info.width))
    return time.process_time() - since


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 10980), ("rows", 2048), ("bands", 4), ("block", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = make_scene(Path(name), **vars(arguments))
        once = 0.0
        for what, height, step, cache in (
            ("rows of blocks", arguments.block, arguments.block, None),
            ("rows of tiles", TILE, STEP, None),
            ("rows of tiles", TILE, STEP, CACHE_BYTES),
        ):
            with open_raster(path) as reader:
                reader.cache = cache or reader.cache
                took = seconds(reader, height, step)
                once = once or took
                kept = f"cache of {reader.cache / 2**20:.0f} MiB"
            print(f"{what}, {kept}: {took:.1f} s, {took / once:.2f}", flush=True)


if __name__ == "__main__":
    main()

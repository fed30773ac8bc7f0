"""Blocks in the default encoding: by ISA-L, as georsr makes them, and by GDAL's own encoder.

    python benchmarks/speed/encoding.py [--rounds 15] [--scene FILE]

Prints milliseconds and bytes of a block of 512 x 512 x 3, both ways in alternation, and the ratios.
Blocks are cut from an enlarged aerial scene; as more than bytes it is stretched and given noise, as
sensors have it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from end_to_end import SAMPLE
from rasterio.enums import Resampling

from georsr.io.reader import open_raster
from georsr.window import AnyArray
from georsr.writer.encoder import BlockEncoder, make_encoder
from georsr.writer.layout import OutputLayout, output_layout

SIDE, SCALE = 512, 4
BY_GDAL = {"DISCARD_LSB": "0"}
"""An option that changes no byte, and that only GDAL knows."""


def block_of(scene: Path, dtype: str) -> AnyArray:
    """(3, 512, 512) of a scene at four times its resolution."""
    with rasterio.open(scene) as dataset:
        window = rasterio.windows.Window(0, 0, SIDE // SCALE, SIDE // SCALE)
        size = (3, SIDE, SIDE)
        image = dataset.read([1, 2, 3], window=window, out_shape=size, resampling=Resampling.cubic)
    if dtype == "uint8":
        return image
    noise = np.random.default_rng(0).normal(0, 20, image.shape)
    stretched = (image * 37.0 + noise).clip(0)
    return (stretched / 1e4 if dtype == "float32" else stretched).astype(dtype)


def layout_of(block: AnyArray, folder: Path, options: dict[str, str]) -> OutputLayout:
    """Of an output whose blocks are of this kind."""
    path = folder / "source.tif"
    profile = {"driver": "GTiff", "width": 128, "height": 128, "count": len(block)}
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(1, 0, 4e5, 0, -1, 5e6)}
    with rasterio.open(path, "w", **profile, **place, dtype=block.dtype) as dataset:
        dataset.write(block[:, :128, :128])
    with open_raster(path) as reader:
        return output_layout(reader.info, SCALE, blocksize=SIDE, creation_options=options)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scene", type=Path, default=SAMPLE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("uint8", "uint16", "int16", "float32"):
            block = np.ascontiguousarray(block_of(arguments.scene, dtype))
            layouts = [layout_of(block, Path(folder), options) for options in ({}, BY_GDAL)]
            if [make_encoder(layout) is None for layout in layouts] != [False, True]:
                raise SystemExit("there is no ISA-L here (package isal): nothing to compare")
            encoders = [BlockEncoder(layout) for layout in layouts]
            seconds: list[list[float]] = [[], []]
            sizes = [0, 0]
            for _ in range(arguments.rounds):
                for i, encode in enumerate(encoders):
                    since = time.perf_counter()
                    made = encode(block, None)
                    seconds[i].append(time.perf_counter() - since)
                    sizes[i] = sum(map(len, made.tiles))
            ours, theirs = (1e3 * statistics.median(each) for each in seconds)
            print(
                f"{dtype}: {ours:.1f} ms, GDAL {theirs:.1f}, {ours / theirs:.2f} of the time; "
                f"{sizes[0]} bytes, GDAL {sizes[1]}, {sizes[0] / sizes[1]:.3f} of the size",
                flush=True,
            )


if __name__ == "__main__":
    main()

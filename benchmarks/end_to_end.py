"""Whole runs against the bare network over the same tiles, in alternation.

    python benchmarks/end_to_end.py [--model NAME] [--size 2048] [--rounds 3] [--scene FILE]

Prints, each as a ratio to the bare network of the same round: georsr end to end (read, network,
blend, write, verify), GDAL cubic resampling of the same scene to a file, and one forward pass over
the whole image. The scene is a mosaic of the sample scene, mirrored so that it has no seams.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling
from rasterio.warp import reproject

from georsr.api import super_resolve
from georsr.config import SRConfig
from georsr.device import place
from georsr.engine.inference import Inference, choose_batch
from georsr.engine.preflight import plan_for
from georsr.models.load import open_model
from georsr.raster.reader import open_raster
from georsr.tiling.padding import pad_to

SAMPLE = Path(__file__).resolve().parents[1] / "sample_data" / "town_rgb_0.5m.tif"


def make_scene(path: Path, source: Path, size: int) -> None:
    """Mirror a small scene into a size x size one."""
    with rasterio.open(source) as dataset:
        image, profile = dataset.read([1, 2, 3]), dataset.profile
    both = np.concatenate([image, image[:, ::-1]], axis=1)
    both = np.concatenate([both, both[:, :, ::-1]], axis=2)
    repeats = (1, -(-size // both.shape[1]), -(-size // both.shape[2]))
    profile.update(width=size, height=size, count=3, tiled=True, compress="deflate")
    profile.update(blockxsize=256, blockysize=256)
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(np.tile(both, repeats)[:, :size, :size])


def bare_network(scene: Path, inference: Inference, config: SRConfig) -> float:
    """Seconds of the network alone over the tiles of a run, all of them in memory."""
    with open_raster(scene) as reader:
        plan = plan_for(reader.info, inference.spec, config)
        with rasterio.open(scene) as dataset:
            image = dataset.read().astype(np.float32) / 255
    tiles = []
    for tile in plan:
        rows, columns = tile.read.slices
        tiles.append(pad_to(image[:, rows, columns], tile.read.height, tile.read.width))
    since = time.perf_counter()
    for i in range(0, len(tiles), inference.batch):
        inference(tiles[i : i + inference.batch], ["a tile"] * inference.batch)
    return time.perf_counter() - since


def gdal_cubic(scene: Path, out: Path, scale: int) -> float:
    """Seconds of GDAL's cubic resampling into a compressed, tiled file."""
    since = time.perf_counter()
    with rasterio.open(scene) as src:
        profile = src.profile | {"width": src.width * scale, "height": src.height * scale}
        transform = src.transform @ rasterio.Affine.scale(1 / scale)
        with rasterio.open(out, "w", **(profile | {"transform": transform})) as dst:
            for band in range(1, src.count + 1):
                reproject(
                    rasterio.band(src, band), rasterio.band(dst, band), resampling=Resampling.cubic
                )
    return time.perf_counter() - since


def whole_image(scene: Path, inference: Inference) -> float:
    """Seconds of one forward pass over everything (memory grows with the image)."""
    with rasterio.open(scene) as dataset:
        image = dataset.read().astype(np.float32) / 255
    since = time.perf_counter()
    inference([image], ["the image"])
    return time.perf_counter() - since


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="segsr-lite-x4")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scene", type=Path, default=SAMPLE)
    parser.add_argument("--whole", action="store_true", help="also one pass over the whole image")
    arguments = parser.parse_args()
    model, config = open_model(arguments.model), SRConfig(overwrite=True)
    placement = place()
    inference = Inference(model, placement, choose_batch(placement, None))
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scene, out = Path(folder) / "scene.tif", Path(folder) / "out.tif"
        make_scene(scene, arguments.scene, arguments.size)
        for _ in range(arguments.rounds):
            bare = bare_network(scene, inference, config)
            since = time.perf_counter()
            report = super_resolve(scene, out, model, overwrite=True)
            seconds = {"georsr end to end": time.perf_counter() - since}
            seconds["GDAL cubic"] = gdal_cubic(scene, Path(folder) / "cubic.tif", model.spec.scale)
            if arguments.whole:
                seconds["whole-image pass"] = whole_image(scene, inference)
            for name, value in seconds.items():
                ratios.setdefault(name, []).append(value / bare)
            speed = arguments.size**2 / seconds["georsr end to end"] / 1e3
            print(f"bare network {bare:.1f} s; end to end {speed:.0f} k LR pixels/s")
            print(f"  stages, seconds: {report.seconds}")
    size = f"{arguments.size} x {arguments.size}"
    print(f"{model.spec.name}, {size}, {placement.describe()}, torch {torch.__version__}")
    print("ratios to the bare network over the same tiles:")
    for name, values in ratios.items():
        low, mid, high = min(values), statistics.median(values), max(values)
        print(f"  {name:<20} {mid:.3f} (of {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()

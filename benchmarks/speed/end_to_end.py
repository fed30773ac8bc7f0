"""Whole runs against the bare network over the same tiles, in alternation.

    python benchmarks/speed/end_to_end.py [--model NAME] [--size 2048] [--rounds 3] [--scene FILE]
                                    [--threads N] [--backend torch] [--only WAY ...]

Prints, each as a ratio to the bare network of the same round, one tile after the other by all
threads: the bare network with tiles side by side, as georsr runs it; georsr end to end (read,
network, blend, compress, write, read back), georsr with two worker processes of half the threads
each, GDAL cubic resampling of the same scene to a file, one forward pass over the whole image, and
the bare network of SPAN-48 over the same tiles. The scene is a mosaic of the sample scene, mirrored
so that it has no seams.

The clock of a shared machine may change between two runs by more than what is asked. So each run of
georsr in this process, and of the bare network with tiles side by side, is also compared with its
own network: its time on the wall, times threads, and its processor time, both over the processor
time of the network's calls within it; the ratio of these two is the last line. That
needs tiles side by side by one thread each, as with up to four threads.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling
from rasterio.warp import reproject
from span48 import span48

from georsr.api import super_resolve
from georsr.config import SRConfig
from georsr.device import select_device
from georsr.inference.pipeline import OrderedThreadPool, tile_grid_of
from georsr.inference.predictor import TilePredictor, choose_batch, place_model
from georsr.io.reader import open_raster
from georsr.models.io import Model, open_model
from georsr.models.spec import ModelSpec
from georsr.tiling.stitch import pad_to
from georsr.window import FloatArray

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data" / "town_rgb_0.5m.tif"


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


def tiles_of(scene: Path, spec: ModelSpec) -> list[FloatArray]:
    """The tiles of a model's run, all of them in memory."""
    with open_raster(scene) as reader:
        plan = tile_grid_of(reader.info, spec, SRConfig())
        with rasterio.open(scene) as dataset:
            image = dataset.read().astype(np.float32) / 255
    tiles = []
    for tile in plan:
        rows, columns = tile.input_window.slices
        tiles.append(
            pad_to(image[:, rows, columns], tile.input_window.height, tile.input_window.width)
        )
    return tiles


def bare_network(scene: Path, inference: TilePredictor, spec: ModelSpec) -> tuple[float, float]:
    """Time of a network alone over the tiles of a model's run, one after the other."""
    tiles = tiles_of(scene, spec)
    watch = Watch()
    for i in range(0, len(tiles), inference.batch):
        part = tiles[i : i + inference.batch]
        inference(part, ["a tile"] * len(part))
    return watch.stop()


def bare_in_lanes(scene: Path, inference: TilePredictor, spec: ModelSpec) -> tuple[float, float]:
    """The same with tiles side by side."""
    tiles = tiles_of(scene, spec)
    lanes, watch = inference.lanes(len(tiles)), Watch()
    with OrderedThreadPool(lanes.count, lanes.enter) as side:
        for answer in [side.submit(partial(inference, [tile], ["a tile"])) for tile in tiles]:
            answer()
    return watch.stop()


def gdal_cubic(scene: Path, out: Path, scale: int) -> None:
    """GDAL's cubic resampling into a compressed, tiled file."""
    with rasterio.open(scene) as src:
        profile = src.profile | {"width": src.width * scale, "height": src.height * scale}
        transform = src.transform @ rasterio.Affine.scale(1 / scale)
        with rasterio.open(out, "w", **(profile | {"transform": transform})) as dst:
            for band in range(1, src.count + 1):
                reproject(
                    rasterio.band(src, band), rasterio.band(dst, band), resampling=Resampling.cubic
                )


def whole_image(scene: Path, inference: TilePredictor) -> None:
    """One forward pass over everything (memory grows with the image)."""
    with rasterio.open(scene) as dataset:
        image = dataset.read().astype(np.float32) / 255
    inference([image], ["the image"])


def end_to_end(scene: Path, out: Path, model: Model, **options: object) -> None:
    """A whole run."""
    report = super_resolve(scene, out, model, overwrite=True, **options)
    print(f"  stages, seconds: {report.seconds}", flush=True)


class Within:
    """Processor time of the network's calls, whoever makes them, while the block is open."""

    def __enter__(self) -> Self:
        self.seconds, self._lock, self._call = 0.0, threading.Lock(), TilePredictor.forward_pass

        def timed(inference: TilePredictor, x: torch.Tensor) -> torch.Tensor:
            since = time.thread_time()
            made = self._call(inference, x)
            with self._lock:
                self.seconds += time.thread_time() - since
            return made

        TilePredictor.forward_pass = timed
        return self

    def __exit__(self, *_: object) -> None:
        TilePredictor.forward_pass = self._call


class Watch:
    """Seconds on the wall and of processors, since it was made."""

    def __init__(self) -> None:
        self.wall, self.busy = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """(wall, processors of this process, all threads together)."""
        return time.perf_counter() - self.wall, time.process_time() - self.busy


WAYS = {
    "lanes": "bare, side by side",
    "georsr": "georsr end to end",
    "workers": "georsr, two workers",
    "cubic": "GDAL cubic",
    "whole": "whole-image pass",
    "span": "SPAN-48, bare",
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="segsr-lite-x4-sensor")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scene", type=Path, default=SAMPLE)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--backend", choices=["auto", "torch", "onnx"], default="auto")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = open_model(arguments.model)
    options = {"num_threads": arguments.threads, "backend": arguments.backend}
    placement = place_model(model, SRConfig(backend=arguments.backend))
    inference = TilePredictor(model, placement, choose_batch(placement, None))
    span = TilePredictor(
        span48(model.spec.scale, model.spec.tile), select_device(), inference.batch
    )
    ratios: dict[str, list[tuple[float, float]]] = {}
    rates: list[float] = []
    inside: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scene, out = Path(folder) / "scene.tif", Path(folder) / "out.tif"
        make_scene(scene, arguments.scene, arguments.size)
        half = max(1, arguments.threads // 2)
        ways = {
            "lanes": lambda: bare_in_lanes(scene, inference, model.spec),
            "georsr": lambda: end_to_end(scene, out, model, **options),
            "workers": lambda: end_to_end(
                scene, out, model, **{**options, "workers": 2, "num_threads": half}
            ),
            "cubic": lambda: gdal_cubic(scene, Path(folder) / "cubic.tif", model.spec.scale),
            "whole": lambda: whole_image(scene, inference),
            "span": lambda: bare_network(scene, span, model.spec),
        }
        warm_up(inference, span)
        for _ in range(arguments.rounds):
            bare = bare_network(scene, inference, model.spec)
            print(f"bare network {bare[0]:.1f} s, {bare[1]:.1f} s of processors", flush=True)
            for way in arguments.only:
                watch = Watch()
                with Within() as network:
                    # what times itself leaves the making of tiles out
                    wall, busy = ways[way]() or watch.stop()
                ratios.setdefault(way, []).append((wall / bare[0], busy / bare[1]))
                if way == "georsr":
                    rates.append(arguments.size**2 / wall / 1e3)
                if way in ("georsr", "lanes"):
                    share = network.seconds / arguments.threads
                    inside.setdefault(way, []).append((wall / share, busy / network.seconds))
    size = f"{arguments.size} x {arguments.size}"
    print(f"{model.spec.name}, {size}, {placement.describe()}, torch {torch.__version__}")
    if rates:
        print(f"end to end {statistics.median(rates):.0f} thousand LR pixels a second")
    print("ratios to the bare network over the same tiles: time on the wall; of processors")
    for way, pairs in ratios.items():
        columns = [_spread([pair[k] for pair in pairs]) for k in (0, 1)]
        if way == "workers":
            columns[1] = "(of other processes)"
        print(f"  {WAYS[way]:<20} {columns[0]}; {columns[1]}")
    print("to the processor time of the network's calls within it")
    for way, pairs in inside.items():
        columns = [_spread([pair[k] for pair in pairs]) for k in (0, 1)]
        print(f"  {WAYS[way]:<20} {columns[0]}; {columns[1]}")
    if len(inside) > 1:
        both = [
            [statistics.median(pair[k] for pair in inside[way]) for k in (0, 1)]
            for way in ("georsr", "lanes")
        ]
        columns = [f"{run / bare:.3f}" for run, bare in zip(*both, strict=True)]
        print(f"  end to end to bare, by that: {columns[0]}; {columns[1]}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} (of {min(values):.3f} to {max(values):.3f})"


def warm_up(*inferences: TilePredictor) -> None:
    """One tile each: what is built at the first call is no part of the measurement."""
    for inference in inferences:
        side = inference.spec.tile
        inference([np.zeros((3, side, side), np.float32)], ["warm-up"])


if __name__ == "__main__":
    main()

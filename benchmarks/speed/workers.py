"""How much faster two workers are than one, with one thread each.

    python benchmarks/speed/workers.py [--model NAME] [--size 768] [--rounds 2]

Prints the seconds of every run but for the start of the workers, those of their start and end, the
processor time of all processes but for that start, and the ratios. Two workers
cannot be faster than the processor time of both runs allows: that ratio holds on a busy machine,
too.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from georsr.api import super_resolve
from georsr.config import SRConfig
from georsr.distributed.cluster import open_cluster
from georsr.models.io import open_model


def make_scene(path: Path, size: int, full: float = 1.0) -> None:
    """Smooth waves and noise; ``full``: share of the rows that are not nodata."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:size, :size]
    waves = 128 + 60 * np.sin(x / 17) + 50 * np.cos(y / 23)
    values = np.clip(waves + rng.normal(0, 8, (3, size, size)), 0, 255).astype("uint8")
    profile = {"driver": "GTiff", "count": 3, "height": size, "width": size, "dtype": "uint8"}
    if full < 1:
        values[:, round(full * size) :] = 0
        profile["nodata"] = 0
    where = {"crs": "EPSG:32632", "transform": Affine(1, 0, 4e5, 0, -1, 5e6)}
    with rasterio.open(path, "w", tiled=True, **profile, **where) as dataset:
        dataset.write(values)


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def start(model: str, workers: int) -> float:
    """Processor seconds of starting and ending workers."""
    used = processor_seconds()
    with open_cluster(open_model(model), SRConfig(num_threads=1), workers=workers) as cluster:
        cluster.start()
    return processor_seconds() - used


def run(scene: Path, out: Path, model: str, workers: int) -> tuple[float, float, float]:
    """(Seconds of the run, seconds of starting and ending workers, processor seconds)."""
    since, used = time.monotonic(), processor_seconds()
    report = super_resolve(scene, out, model, workers=workers, num_threads=1, overwrite=True)
    inside = report.seconds["total"] - report.seconds["start"]
    return inside, time.monotonic() - since - inside, processor_seconds() - used


def main() -> None:
    """Alternate one and two workers, print every run and the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="segsr-lite-x2")
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    wall, processor, bytes_ = [], [], set()
    with tempfile.TemporaryDirectory() as name:
        scene, out = Path(name) / "in.tif", Path(name) / "out.tif"
        make_scene(scene, arguments.size)
        idle = {workers: start(arguments.model, workers) for workers in (1, 2)}
        for _ in range(arguments.rounds):
            took = {}
            for workers in (1, 2):
                seconds, around, used = run(scene, out, arguments.model, workers)
                took[workers] = seconds, around, used - idle[workers]
                bytes_.add(out.read_bytes())
                text = "{:6.1f} s, starting and ending {:5.1f} s, processors {:6.1f} s"
                print(f"{workers} worker(s):", text.format(*took[workers]), flush=True)
            wall.append(took[1][0] / took[2][0])
            processor.append(2 * took[1][2] / took[2][2])
    assert len(bytes_) == 1, "the products differ"
    load = os.getloadavg()[0]
    print(f"two workers are {statistics.median(wall):.2f} times as fast as one (load {load:.1f});")
    print(f"by processor time they could be {statistics.median(processor):.2f} times as fast")


if __name__ == "__main__":
    main()

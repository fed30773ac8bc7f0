"""Whole runs by torch, by ONNX Runtime, and with --fast, in alternation.

    python benchmarks/speed/backends.py [--model NAME] [--size 2048] [--rounds 3] [--threads 2]

Prints the processor time and the wall time of each, as medians and as ratios to torch in the same
round; and whether --fast chose another precision. The scene is that of `end_to_end.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from end_to_end import SAMPLE, make_scene

from georsr.api import super_resolve

WAYS: dict[str, dict[str, Any]] = {
    "torch": {"backend": "torch"},
    "default": {},
    "fast": {"fast": True},
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="segsr-lite-x4-sensor")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        scene, small = Path(folder) / "scene.tif", Path(folder) / "small.tif"
        make_scene(scene, SAMPLE, arguments.size)
        make_scene(small, SAMPLE, 256)
        common = {"num_threads": arguments.threads, "device": "cpu", "overwrite": True}
        for options in WAYS.values():  # imports, and opens the networks
            super_resolve(
                small, Path(folder) / "small_x4.tif", arguments.model, **common, **options
            )
        for number in range(arguments.rounds):
            for name, options in WAYS.items():
                cpu, wall = time.process_time(), time.perf_counter()
                report = super_resolve(
                    scene, Path(folder) / f"{name}.tif", arguments.model, **common, **options
                )
                times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
                taken = "{:.1f} s of processor time, {:.1f} s".format(*times[name][-1])
                print(f"round {number + 1}, {name} in {report.precision}: {taken}", flush=True)
    for name, runs in times.items():
        ratios = [
            statistics.median(
                first[i] / own[i] for first, own in zip(times["torch"], runs, strict=True)
            )
            for i in (0, 1)
        ]
        print(f"{name:8} {ratios[0]:.2f} times torch by processor time, {ratios[1]:.2f} by wall")


if __name__ == "__main__":
    main()

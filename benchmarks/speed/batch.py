"""What a batch saves: small scenes by one command with --out-dir, and by a command for each.

    python benchmarks/speed/batch.py [--model NAME] [--scenes 50] [--side 96] [--commands 50]

The scenes are SIDE x SIDE pixels of the sample town. Every command is a process of its own, start
of Python and imports included. Where --commands is less than --scenes, the time of all commands is
that of these, scaled. Prints seconds on the clock and of processors, and the ratios.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rasterio
from rasterio.windows import Window

TOWN = Path(__file__).resolve().parents[2] / "sample_data/town_rgb_0.5m.tif"


def write_scenes(folder: Path, count: int, side: int) -> list[str]:
    """Write windows of the sample town, and return their paths."""
    folder.mkdir()
    paths = []
    with rasterio.open(TOWN) as town:
        profile = town.profile | {"height": side, "width": side}
        steps = (town.width - side + 1, town.height - side + 1)
        for i in range(count):
            window = Window(i * 37 % steps[0], i * 23 % steps[1], side, side)
            path = folder / f"scene{i:03}.tif"
            with rasterio.open(path, "w", **profile) as scene:
                scene.write(town.read(window=window))
            paths.append(str(path))
    return paths


def measured(commands: list[list[str]]) -> tuple[float, float]:
    """Run commands one after another: seconds on the clock, and of processors."""
    start, before = time.perf_counter(), processor_seconds()
    for command in commands:
        line = [sys.executable, "-m", "georsr.cli", "sr", "-q", *command]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, processor_seconds() - before


def processor_seconds() -> float:
    """Return the processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="segsr-lite-x4-sensor")
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--commands", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = write_scenes(folder / "in", args.scenes, args.side)
        model = ["--model", args.model]
        some = scenes[: args.commands]
        half = len(some) // 2  # before and after the batch: the clock of a shared machine drifts
        singles = [[path, str(folder / f"{i}.tif"), *model] for i, path in enumerate(some)]
        first = measured(singles[:half])
        batch = measured([[*scenes, "--out-dir", str(folder / "out"), *model]])
        second = measured(singles[half:])
        assert len(list((folder / "out").iterdir())) == args.scenes
    scale = args.scenes / len(singles)
    clock, processors = ((a + b) * scale for a, b in zip(first, second, strict=True))
    print(f"{args.scenes} scenes of {args.side} x {args.side} pixels, {args.model}")
    print(f"{len(singles)} commands, scaled: {clock:.1f} s, processors {processors:.1f} s")
    print(f"one batch: {batch[0]:.1f} s, processors {batch[1]:.1f} s")
    print(f"ratio {clock / batch[0]:.2f}, of processors {processors / batch[1]:.2f}")


if __name__ == "__main__":
    main()

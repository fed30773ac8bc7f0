"""Kill runs at random moments, run them again, and compare with runs that were left alone.

    python benchmarks/robustness/kill_runs.py [--kills 200] [--seed 0] [--folder FOLDER]

A round is one output: its run is killed (SIGKILL) once or more, then left to end. It has to end
with the very bytes of an undisturbed run and with no other file beside it. Runs are whole command
lines in processes of their own, forked from this one after the imports, so that the kills land in
the work and not in the loading of libraries. Exit code 1 if any round went wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import rasterio
import torch  # noqa: F401  imported before forking
from georsr.cli.main import invoke
from rasterio.transform import Affine

import georsr.api  # noqa: F401
from georsr.writer import writer

TILES = ["--tile", "32", "--halo", "2", "--overlap", "4", "--blocksize", "64", "-q", "-j", "1"]
EXISTS = 2
"""Exit code where there is an output already."""
JOBS = {
    "bytes": ("rgb.tif", ["-m", "bicubic-x2"]),
    "mask": ("masked.tif", ["-m", "bicubic-x3"]),
    "nodata": ("nodata.tif", ["-m", "nearest-x2", "--dtype", "float32"]),
    "network": ("rgb.tif", ["-m", "segsr-lite-x2", "--tile", "64", "--halo", "4"]),
    "cog": ("masked.tif", ["-m", "bicubic-x2", "--cog", "--blocksize", "128"]),
}


def make_sources(folder: Path, side: int) -> None:
    """Three small rasters."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff",
        "height": side,
        "width": side + 37,
        "count": 3,
        "crs": "EPSG:32632",
        "transform": Affine(1, 0, 4e5, 0, -1, 5e6),
    }
    pixels = rng.integers(0, 255, (3, side, side + 37)).astype("uint8")
    with rasterio.open(folder / "rgb.tif", "w", dtype="uint8", **profile) as dataset:
        dataset.write(pixels)
    env = rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES")
    with env, rasterio.open(folder / "masked.tif", "w", dtype="uint8", **profile) as dataset:
        dataset.write(pixels)
        dataset.write_mask((rng.random(pixels.shape[1:]) < 0.8).astype("uint8") * 255)
    pixels = (pixels.astype("uint16") * 200) * (rng.random(pixels.shape[1:]) < 0.9)
    with rasterio.open(folder / "nodata.tif", "w", dtype="uint16", nodata=0, **profile) as dataset:
        dataset.write(pixels)


def start(arguments: list[str], said: str = os.devnull) -> int:
    """Fork a process that runs one command line, and writes what it says to a file; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        file = os.open(said, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        writer.SYNC_SECONDS = 0.0  # as if every block took long
        code = invoke(arguments)
    finally:
        os._exit(code)
    return 0


def finish(pid: int) -> int:
    """Wait; the exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(pid: int, seconds: float) -> int:
    """Wait that long, then kill; the exit code."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return finish(pid)


def after_kill(output: Path, expected: bytes, seen: Counter[str]) -> str | None:
    """What a killed run has left: counted; and what is wrong with it, if anything."""
    seen["kills"] += 1
    if output.exists():
        seen["kills after publication"] += 1
        return None if output.read_bytes() == expected else "unfinished, but of the final name"
    journal = output.parent / f".{output.name}.part.jsonl"
    if journal.exists() and b'"blocks"' in journal.read_bytes():
        seen["kills with finished blocks"] += 1
    return None


def run_again(arguments: list[str], output: Path, seconds: float | None = None) -> int:
    """Run, for so long at most; a complaint that a finished output exists is no failure."""
    journal = output.parent / f".{output.name}.part.jsonl"
    complete = output.exists() and not journal.exists()
    pid = start(arguments)
    code = finish(pid) if seconds is None else kill_after(pid, seconds)
    return 0 if complete and code == EXISTS else code


def one_round(
    name: str,
    folder: Path,
    expected: bytes,
    seconds: dict[str, float],
    rng: random.Random,
    seen: Counter[str],
) -> str | None:
    """Kill a job once or more, then let it end; what was wrong, if anything."""
    source, options = JOBS[name]
    output = folder / "work" / f"{name}.tif"
    output.parent.mkdir()
    arguments = ["sr", str(folder / source), str(output), *TILES, *options]
    code = -signal.SIGKILL
    for attempt in range(rng.randint(1, 3)):
        since = time.monotonic()
        code = run_again(arguments, output, rng.uniform(0, seconds[name]))
        if code != -signal.SIGKILL:
            if attempt == 0:  # the machine has become faster
                seconds[name] = time.monotonic() - since
            break
        if problem := after_kill(output, expected, seen):
            return problem
    if code == -signal.SIGKILL:
        code = run_again(arguments, output)
    if code != 0:
        return f"exit code {code}"
    if output.read_bytes() != expected:
        return "other bytes"
    if len(left := sorted(path.name for path in output.parent.iterdir())) > 1:
        return f"left behind: {left}"
    output.unlink()
    output.parent.rmdir()
    return None


def main() -> int:
    """Run all rounds and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=300, help="pixels of the sources")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    arguments = parser.parse_args()
    rng, seen, wrong = random.Random(arguments.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make_sources(folder, arguments.side)
        expected, seconds = {}, {}
        for job in arguments.jobs:
            source, options = JOBS[job]
            out, since = folder / f"{job}.out.tif", time.monotonic()
            assert finish(start(["sr", str(folder / source), str(out), *TILES, *options])) == 0
            seconds[job], expected[job] = time.monotonic() - since, out.read_bytes()
            out.unlink()
        number = 0
        while seen["kills"] < arguments.kills:
            number += 1
            job = arguments.jobs[number % len(arguments.jobs)]
            problem = one_round(job, folder, expected[job], seconds, rng, seen)
            if problem:
                wrong += 1
                print(f"round {number}, {job}: {problem}")
                (folder / "work").rename(folder / f"wrong{number}")
    print(f"{number} rounds, {wrong} wrong; {dict(seen)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

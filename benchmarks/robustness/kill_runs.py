"""Kill runs at random moments, run them again, and compare with runs that were left alone.

    python benchmarks/robustness/kill_runs.py [--kills 200] [--seed 0] [--folder FOLDER]

In a round, a command is killed (SIGKILL) once to three times, then left to end. After a kill, each
file under a final name must have its old or its new bytes. In the end, the folder must be that of
an undisturbed run, byte for byte, with no other file. Runs are whole command lines in processes of
their own, forked from this one after the imports, so that the kills land in the work and not in the
loading of libraries. Exit code 1 if any round went wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
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
    "bytes": ["{}/../rgb.tif", "{}/out.tif", "-m", "bicubic-x2"],
    "mask": ["{}/../masked.tif", "{}/out.tif", "-m", "bicubic-x3"],
    "nodata": ["{}/../nodata.tif", "{}/out.tif", "-m", "nearest-x2", "--dtype", "float32"],
    "network": ["{}/../rgb.tif", "{}/out.tif", "-m", "segsr-lite-x2", "--tile", "64"],
    "cog": ["{}/../masked.tif", "{}/out.tif", "-m", "bicubic-x2", "--cog", "--blocksize", "128"],
    "overwrite": ["{}/../rgb.tif", "{}/old.tif", "-m", "bicubic-x2", "--overwrite"],
    "quality": ["{}/../small.tif", "{}/out.tif", "-m", "bicubic-x2", "--quality", "{}/q.tif"],
    "stac": ["{}/../rgb.tif", "{}/out.tif", "-m", "bicubic-x2", "--stac", "{}/item.json"],
    "parts": ["{}/../rgb.tif", "{}/out.vrt", "-m", "bicubic-x2", "--parts", "{}/P",
              "--blocksize", "128"],
    "batch": ["{}/../rgb.tif", "{}/../masked.tif", "--out-dir", "{}/many", "-m", "bicubic-x2"],
}  # fmt: skip
"""Command lines; {} stands for the folder of a round."""
OLD = {"old.tif": "rgb.tif", "old.tif.aux.xml": None}
"""Files that are in the folder of each round: copies of a source, or a file of one line."""


def make_sources(folder: Path, side: int) -> None:
    """Write small rasters."""
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
    small = profile | {"height": side // 3, "width": side // 3}
    with rasterio.open(folder / "small.tif", "w", dtype="uint8", **small) as dataset:
        dataset.write(pixels[:, : side // 3, : side // 3])
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


def content(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder; of JSON documents, which have times, only the names."""
    return {
        path.relative_to(folder).as_posix(): b"" if path.suffix == ".json" else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fresh(place: Path) -> dict[str, bytes]:
    """Create the folder of a round; return what is in it."""
    place.mkdir()
    for name, source in OLD.items():
        if source is None:
            (place / name).write_text("<PAMDataset/>\n")
        else:
            shutil.copyfile(place.parent / source, place / name)
    return content(place)


def after_kill(
    place: Path, old: dict[str, bytes], expected: dict[str, bytes], seen: Counter[str]
) -> str | None:
    """Count what a killed run has left; return what is wrong with it, if anything."""
    seen["kills"] += 1
    there = content(place)
    visible = {n: data for n, data in there.items() if "/." not in f"/{n}"}
    for name, data in visible.items():
        if data not in (old.get(name), expected.get(name)):
            return f"{name}: under its final name, but not the expected bytes"
    seen["kills after all was published"] += visible == expected
    seen["kills after some was published"] += visible not in (old, expected)
    listed = [data for name, data in there.items() if name.endswith(".jsonl")]
    seen["kills with finished blocks"] += any(
        b'"blocks"' in data or b'"part"' in data for data in listed
    )
    return None


def one_round(
    arguments: list[str],
    place: Path,
    expected: dict[str, bytes],
    limit: float,
    rng: random.Random,
    seen: Counter[str],
) -> str | None:
    """Kill a command once or more, then let it end; return what was wrong, if anything."""
    old = fresh(place)
    said = place.parent / "said.txt"
    code = -signal.SIGKILL
    for _ in range(rng.randint(1, 3)):
        said.unlink(missing_ok=True)
        code = kill_after(start(arguments, str(said)), rng.uniform(0, limit))
        if code != -signal.SIGKILL:
            break
        if problem := after_kill(place, old, expected, seen):
            return problem
    if code == -signal.SIGKILL:
        said.unlink(missing_ok=True)
        code = finish(start(arguments, str(said)))
    text = said.read_text()
    if code != 0 and not (code == EXISTS and "--overwrite" in text):
        return f"exit code {code}: {text[-300:]}"
    there = content(place)
    names = sorted(name for name in {*there, *expected} if there.get(name) != expected.get(name))
    return f"other files or bytes: {names}; {text[-300:]}" if names else None


def main() -> int:
    """Run all rounds and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="number of kills of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=300, help="pixels of the sources")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    options = parser.parse_args()
    rng, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name).resolve()
        make_sources(folder, options.side)
        for job in options.jobs:
            place, seen, rounds = folder / "work", Counter[str](), 0
            words = [word.replace("{}", str(place)) for word in JOBS[job]]
            arguments = ["sr", *words[:2], *TILES, *words[2:]]
            fresh(place)
            since = time.monotonic()
            assert finish(start(arguments)) == 0, job
            limit, expected = time.monotonic() - since, content(place)
            shutil.rmtree(place)
            while seen["kills"] < options.kills:
                rounds += 1
                before = seen["kills"]
                problem = one_round(arguments, place, expected, limit, rng, seen)
                if problem:
                    wrong += 1
                    print(f"{job}, round {rounds}: {problem}", flush=True)
                    place.rename(folder / f"wrong{wrong}")
                else:
                    shutil.rmtree(place)
                if seen["kills"] == before:
                    limit *= 0.8  # the machine has become faster
            print(f"{job}: {rounds} rounds, {dict(seen)}", flush=True)
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

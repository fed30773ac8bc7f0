"""Print the SHA-256 of a set of outputs, to compare two versions of the code byte by byte.

    python benchmarks/robustness/output_hashes.py > before.txt
    python benchmarks/robustness/output_hashes.py > after.txt      # with the other version
    diff before.txt after.txt

Every output is written by the command line in a process of its own, from small sources that are
always the same: each bundled model, integers of 8 and 16 bits and floats, nodata, masks, rotated
grids, mosaics, an area of interest, parts, quality layers, worker processes, and runs that were
killed or interrupted and then resumed. Two lines of one run that must be equal are compared here
already: exit code 1 if a resumed run or one of two workers has other bytes than a plain one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine

GEORSR = [sys.executable, "-m", "georsr.cli"]
COMMON = ["--quiet", "--jobs", "1"]
SMALL = ["--tile", "48", "--halo", "8", "--overlap", "8", "--blocksize", "64"]
LITE = [f"segsr-lite-{name}" for name in ("x2", "x2-sensor", "x4", "x4-sensor")]
PLAIN = ["bicubic-x2", "bicubic-x3", "bicubic-x4", "nearest-x4"]

RUNS: dict[str, tuple[list[str], list[str]]] = {
    **{f"{model} uint8": (["rgb8.tif"], ["-m", model]) for model in LITE + PLAIN},
    "uint16 with nodata": (["rgb16.tif"], ["-m", "segsr-lite-x4-sensor"]),
    "float32 with nodata": (["float.tif"], ["-m", "segsr-lite-x2-sensor"]),
    "uint8 to float32": (["rgb8.tif"], ["-m", "segsr-lite-x2", "-t", "float32"]),
    "mask": (["masked.tif"], ["-m", "segsr-lite-x2"]),
    "alpha band": (["rgba.tif"], ["-m", "segsr-lite-x2"]),
    "rotated": (["rotated.tif"], ["-m", "segsr-lite-x4"]),
    "mosaic": (["west.tif", "east.tif"], ["-m", "segsr-lite-x2"]),
    "window": (["rgb8.tif"], ["-m", "segsr-lite-x2", "--bbox", "400020,4999930,400080,4999990"]),
    "area": (["rgb8.tif"], ["-m", "segsr-lite-x2", "--aoi", "area.geojson"]),
    "four bands": (["four.tif"], ["-m", "segsr-lite-x2", "--bands", "all"]),
    "four bands, bicubic": (
        ["four.tif"],
        ["-m", "segsr-lite-x2", "--bands", "all", "--band-mode", "bicubic"],
    ),
    "eight orientations": (["rgb8.tif"], ["-m", "segsr-lite-x2", "--tta"]),
    "consistency off": (["rgb8.tif"], ["-m", "segsr-lite-x4", "--consistency", "off"]),
    "constant tiles": (["constant.tif"], ["-m", "segsr-lite-x2"]),
    "reflectance": (["scaled.tif"], ["-m", "segsr-lite-x2", "--stretch", "reflectance"]),
    "limits": (["rgb16.tif"], ["-m", "segsr-lite-x2", "--stretch", "0,8000"]),
    "percentile": (["rgb16.tif"], ["-m", "segsr-lite-x2", "--stretch", "percentile"]),
    "cloud optimized": (["rgb8.tif"], ["-m", "segsr-lite-x2", "--cog", "--blocksize", "128"]),
    "zstd": (["rgb16.tif"], ["-m", "bicubic-x2", "--co", "COMPRESS=ZSTD", "--co", "PREDICTOR=2"]),
    "uncompressed": (["rgb8.tif"], ["-m", "bicubic-x2", "--co", "COMPRESS=NONE"]),
    "onnx": (["rgb8.tif"], ["-m", "segsr-lite-x2", "--backend", "onnx"]),
    "parts": (["rgb8.tif"], ["-m", "segsr-lite-x2", "--parts", "parts"]),
    "quality layers": (["rgb8.tif"], ["-m", "segsr-lite-x2", "--quality", "layers.tif"]),
    "two workers": (["rgb8.tif"], ["-m", "segsr-lite-x2", "--workers", "2"]),
    "two workers, parts": (
        ["rgb8.tif"],
        ["-m", "segsr-lite-x2", "--parts", "parts", "--workers", "2"],
    ),
    "two workers, layers": (
        ["rgb8.tif"],
        ["-m", "segsr-lite-x2", "--quality", "layers.tif", "--workers", "2"],
    ),
    "stac": (["rgb8.tif"], ["-m", "bicubic-x2", "--stac", "item.json"]),
}
"""Name of a case -> its sources and its options."""
STOPPED = {"killed and resumed": signal.SIGKILL, "interrupted and resumed": signal.SIGINT}
EQUAL = [
    ("segsr-lite-x2 uint8", "two workers"),
    ("parts", "two workers, parts"),
    ("quality layers", "two workers, layers"),
    ("long run", "killed and resumed"),
    ("long run", "interrupted and resumed"),
]
"""Cases whose GeoTIFFs must have the same bytes."""


def scene(bands: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return (bands, height, width) floats of 0..1: edges, waves and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [0.5 + 0.25 * np.sin(x / (3 + b)) * np.cos(y / (5 + b)) for b in range(bands)]
    squares = 0.2 * ((x // 12 + y // 9) % 2)
    return np.clip(np.stack(waves) + squares + rng.normal(0, 0.02, (bands, height, width)), 0, 1)


def write(
    path: Path, pixels: np.ndarray, transform: Affine | None = None, **options: object
) -> None:
    """Write (bands, height, width) pixels as a GeoTIFF in UTM 32N."""
    profile = {
        "driver": "GTiff",
        "count": len(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        "crs": "EPSG:32632",
        "transform": transform or Affine(1, 0, 4e5, 0, -1, 5e6),
        **options,
    }
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels)


def make_sources(folder: Path) -> None:
    """Write all sources, and set their times so that nothing depends on when this runs."""
    rgb = (scene(3, 100, 120) * 255).astype("uint8")
    write(folder / "rgb8.tif", rgb, photometric="RGB")
    write(folder / "large.tif", np.tile(rgb, (1, 4, 4)), photometric="RGB")
    rgb16 = (scene(3, 90, 110, 1) * 9000 + 1).astype("uint16")
    rgb16[:, 20:35, 30:70] = 0
    write(folder / "rgb16.tif", rgb16, photometric="RGB", nodata=0)
    write(folder / "scaled.tif", rgb16, photometric="RGB", nodata=0)
    with rasterio.open(folder / "scaled.tif", "r+") as dataset:
        dataset.scales, dataset.offsets = [1e-4] * 3, [0.0] * 3
    float32 = scene(3, 70, 80, 2).astype("float32")
    float32[:, :10, :15] = np.nan
    write(folder / "float.tif", float32, photometric="RGB", nodata=np.nan)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        write(folder / "masked.tif", rgb, photometric="RGB")
        with rasterio.open(folder / "masked.tif", "r+") as dataset:
            mask = np.full(rgb.shape[1:], 255, "uint8")
            mask[40:60, 10:50] = 0
            dataset.write_mask(mask)
    alpha = np.full((1, 100, 120), 255, "uint8")
    alpha[:, :30, 90:] = 0
    write(folder / "rgba.tif", np.concatenate([rgb, alpha]), photometric="RGB", alpha="YES")
    rotated = Affine.translation(4e5, 5e6) * Affine.rotation(20) * Affine.scale(1, -1)
    write(folder / "rotated.tif", rgb, rotated, photometric="RGB")
    write(folder / "west.tif", rgb[:, :, :70], photometric="RGB")
    east = Affine(1, 0, 4e5 + 60, 0, -1, 5e6)
    write(folder / "east.tif", rgb[:, :, 60:], east, photometric="RGB")
    write(folder / "four.tif", (scene(4, 80, 90, 3) * 4000).astype("uint16"), photometric="RGB")
    constant = np.zeros((3, 160, 160), "uint8")
    constant[:, 100:, 100:] = rgb[:, :60, :60]
    write(folder / "constant.tif", constant, photometric="RGB")
    corners = [(400010, 4999990), (400100, 4999970), (400060, 4999910), (400010, 4999990)]
    area = {
        "type": "Polygon",
        "coordinates": [corners],
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}},
    }
    (folder / "area.geojson").write_text(json.dumps(area))
    for path in folder.iterdir():
        os.utime(path, (1.6e9, 1.6e9))


def sha256(path: Path, folder: Path) -> str:
    """Return the SHA-256 of a file; of JSON without times and places, which no two runs share."""
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        data = data.replace(str(folder).encode(), b"")
        lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
        data = json.dumps([without_times(json.loads(line)) for line in lines]).encode()
    return hashlib.sha256(data).hexdigest()


def without_times(value: object) -> object:
    """Return JSON without the entries that differ from run to run."""
    if isinstance(value, dict):
        changing = ("seconds", "time", "created", "updated", "datetime", "peak", "started")
        return {
            key: without_times(inner)
            for key, inner in value.items()
            if not any(word in key for word in changing)
        }
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def command(folder: Path, case: str, sources: list[str], options: list[str]) -> list[str]:
    """Return the command line of a case, and make its folder, in which it runs."""
    (folder / case).mkdir()
    inputs = [str(Path("..") / name) for name in sources]
    tiles = [] if "--quality" in options else SMALL
    if "--parts" in options:  # of COGs, whose blocks have at least 128 pixels
        tiles = [*tiles, "--blocksize", "128"]
    options = [f"../{word}" if word == "area.geojson" else word for word in options]
    output = "out.vrt" if "--parts" in options else "out.tif"
    return [*GEORSR, "sr", *inputs, output, *COMMON, *tiles, *options]


def run(folder: Path, case: str, sources: list[str], options: list[str]) -> str | None:
    """Run a case; what went wrong, if anything."""
    line = command(folder, case, sources, options)
    done = subprocess.run(line, cwd=folder / case, capture_output=True, text=True)
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
    return None


def stop_and_resume(folder: Path, case: str, options: list[str]) -> str | None:
    """Stop a run by a signal when blocks are in its journal, and run it to its end."""
    line = command(folder, case, ["large.tif"], options)
    journal = folder / case / ".out.tif.part.jsonl"
    process = subprocess.Popen(
        line, cwd=folder / case, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        if journal.exists() and b'"blocks"' in journal.read_bytes():
            process.send_signal(STOPPED[case])
            break
        time.sleep(0.005)
    code = process.wait()
    if code == 0:
        return "the run ended before it was stopped"
    done = subprocess.run(line, cwd=folder / case, capture_output=True, text=True)
    return f"exit code {done.returncode}: {done.stderr.strip()[-200:]}" if done.returncode else None


def main() -> int:
    """Write every output, print a line for each of its files, and compare those that must agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="cases whose name has this in it")
    arguments = parser.parse_args()
    failed = 0
    hashes: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sources(folder)
        long = ["-m", "segsr-lite-x2"]
        cases = {**RUNS, "long run": (["large.tif"], long)}
        cases |= {case: (["large.tif"], long) for case in STOPPED}
        for case, (sources, options) in cases.items():
            if arguments.only and arguments.only not in case:
                continue
            problem = (
                stop_and_resume(folder, case, options)
                if case in STOPPED
                else run(folder, case, sources, options)
            )
            if problem:
                failed += 1
                print(f"{case}: {problem}", flush=True)
                continue
            files = sorted(path for path in (folder / case).rglob("*") if path.is_file())
            hashes[case] = {
                f.relative_to(folder / case).as_posix().removeprefix("parts/"): (sha256(f, folder))
                for f in files
            }
            for file, digest in hashes[case].items():
                print(f"{digest}  {case}: {file}", flush=True)
    for one, other in EQUAL:
        for file in hashes.get(one, {}):
            same = hashes[one][file] == hashes.get(other, hashes[one]).get(file)
            if file.endswith(".tif") and not same:
                failed += 1
                print(f"{other}: {file} has other bytes than that of {one}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

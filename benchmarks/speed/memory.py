"""Peak memory of whole runs over rasters of one width and growing height.

    python benchmarks/speed/memory.py [--model NAME] [--width 500] [--heights 4000 40000]

Every run is a process of its own, imports included; its peak is what the system notes of it
(VmHWM, Linux). Prints MiB and the ratio to the first height. Sources are compressed noise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

RUN = """
import re, sys
from pathlib import Path
from georsr.api import super_resolve

super_resolve(sys.argv[1], sys.argv[2], sys.argv[3], tile_size=192, num_threads=1)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
ROWS = 256


def make_strip(path: Path, height: int, width: int) -> None:
    """Three bands of noise that repeats every 256 rows."""
    noise = np.random.default_rng(0).integers(0, 255, (3, ROWS, width)).astype("uint8")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=3,
        dtype="uint8",
        crs="EPSG:32632",
        transform=Affine(1, 0, 4e5, 0, -1, 5e6),
        tiled=True,
        blockxsize=256,
        blockysize=256,
        compress="deflate",
    ) as dataset:
        for top in range(0, height, ROWS):
            rows = min(ROWS, height - top)
            dataset.write(noise[:, :rows], window=Window(0, top, width, rows))


def peak(source: Path, out: Path, model: str) -> float:
    """MiB of one run."""
    command = [sys.executable, "-c", RUN, str(source), str(out), model]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout) / 1024


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bicubic-x4")
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--heights", type=int, nargs="+", default=[4000, 40000])
    arguments = parser.parse_args()
    first = 0.0
    for height in arguments.heights:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "strip.tif"
            make_strip(source, height, arguments.width)
            found = peak(source, Path(folder) / "out.tif", arguments.model)
        first = first or found
        size = f"{arguments.width} x {height}"
        print(f"{arguments.model}, {size}: {found:.0f} MiB, {found / first:.3f}", flush=True)


if __name__ == "__main__":
    main()

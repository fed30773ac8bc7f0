"""What emptiness costs: the plan of a vast mosaic, and a run over empty parts.

    python benchmarks/speed/sparse.py [--model NAME] [--side 100000] [--height 4000] [--rounds 5]

Every command is a process of its own, start of Python and imports included. First the plan
(``georsr sr --dry-run``) of a VRT of SIDE x SIDE pixels, of which one scene of 1,000 x 1,000 is not
empty, in alternation with a process that does nothing but import torch. Then georsr end to end
over a GeoTIFF of SIDE x HEIGHT pixels that holds nodata alone, with verification, against GDAL that
writes a file like the output and reads it back. Prints seconds on the wall and of processors, and
the ratios.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

SCENE = 1_000
PROFILE = {
    "driver": "GTiff",
    "count": 3,
    "dtype": "uint8",
    "nodata": 0,
    "crs": "EPSG:32632",
    "transform": from_origin(400_000, 5_000_000, 1, 1),
    "photometric": "rgb",
}
BAND = """<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>0</NoDataValue>
<ColorInterp>{colour}</ColorInterp><SimpleSource>
<SourceFilename relativeToVRT="1">{scene}</SourceFilename><SourceBand>{band}</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="{size}" ySize="{size}"/>
<DstRect xOff="{at}" yOff="{at}" xSize="{size}" ySize="{size}"/>
</SimpleSource></VRTRasterBand>"""
GDAL = """
import sys
import numpy as np
import rasterio
from rasterio.windows import Window

with rasterio.open(sys.argv[1]) as product:
    profile = product.profile | {"num_threads": "all_cpus", "bigtiff": "yes"}
    windows = [
        Window(x, y, min(8192, product.width - x), min(512, product.height - y))
        for y in range(0, product.height, 512)
        for x in range(0, product.width, 8192)
    ]
with rasterio.open(sys.argv[2], "w", **profile) as dst:
    for window in windows:
        shape = (profile["count"], window.height, window.width)
        dst.write(np.zeros(shape, profile["dtype"]), window=window)
with rasterio.open(sys.argv[2], num_threads="all_cpus") as src:
    assert not any(src.read(window=window).any() for window in windows)
"""


def build_mosaic(folder: Path, side: int) -> Path:
    """A VRT of ``side`` x ``side`` pixels with one scene in its middle."""
    values = np.random.default_rng(0).integers(1, 255, (3, SCENE, SCENE)).astype("uint8")
    with rasterio.open(folder / "scene.tif", "w", width=SCENE, height=SCENE, **PROFILE) as dst:
        dst.write(values)
    bands = "".join(
        BAND.format(band=band, colour=colour, scene="scene.tif", size=SCENE, at=side // 2)
        for band, colour in enumerate(("Red", "Green", "Blue"), start=1)
    )
    path = folder / "mosaic.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>400000, 1, 0, 5000000, 0, -1</GeoTransform>{bands}</VRTDataset>"
    )
    return path


def make_empty(path: Path, width: int, height: int) -> None:
    """A tiled GeoTIFF of which no block is stored."""
    how = {"tiled": True, "compress": "deflate", "sparse_ok": True, "bigtiff": "yes"}
    rasterio.open(path, "w", width=width, height=height, **PROFILE, **how).close()


def seconds(*command: str) -> tuple[float, float]:
    """(wall, processors) of one process."""
    since, busy = time.perf_counter(), _busy()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - since, _busy() - busy


def _busy() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _said(what: str, pairs: list[tuple[float, float]]) -> float:
    """Print the median, least and most; returns the median on the wall."""
    columns = []
    for k in (0, 1):
        column = [pair[k] for pair in pairs]
        columns.append(
            f"{statistics.median(column):.2f} s ({min(column):.2f} to {max(column):.2f})"
        )
    print(f"{what:<28} {columns[0]}; {columns[1]} of processors", flush=True)
    return statistics.median(pair[0] for pair in pairs)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="segsr-lite-x4-sensor")
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--height", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    georsr = partial(seconds, "-m", "georsr.cli", "sr")
    options = ("--model", arguments.model, "--overwrite", "--no-check-resources")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out, side = str(folder / "out.tif"), arguments.side
        mosaic = str(build_mosaic(folder, side))
        plans, imports = [], []
        for _ in range(arguments.rounds):
            imports.append(seconds("-c", "import torch"))
            plans.append(georsr(mosaic, out, "--dry-run", *options))
        start = _said("import of torch", imports)
        print(f"ratio {_said(f'plan of {side} x {side}', plans) / start:.2f}", flush=True)

        empty = folder / "empty.tif"
        make_empty(empty, side, arguments.height)
        run = georsr(str(empty), out, *options)
        gdal = seconds("-c", GDAL, out, str(folder / "gdal.tif"))
        size = f"{side} x {arguments.height}"
        values = side * arguments.height * 16 * 3 / 1e9
        ratio = _said(f"georsr, empty {size}", [run]) / _said("GDAL, write and read", [gdal])
        print(f"ratio {ratio:.2f}; {values / run[0]:.2f} G values a second")


if __name__ == "__main__":
    main()

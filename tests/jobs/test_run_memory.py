"""Invariant 5: peak memory grows with the width of a tile row, not with the area."""

import os
import subprocess
import sys

import numpy as np
import pytest

RUN = r"""
import os, re, sys
from pathlib import Path
if sys.argv[3:]:  # before the processors are counted
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[3])])
from georsr.api import estimate, super_resolve
tiles = dict(tile_size=192, halo=4, overlap=8)
super_resolve(sys.argv[1], sys.argv[2], "nearest", 4, **tiles)
# not getrusage: its peak starts from that of the process that started this one
print(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
print(estimate(sys.argv[1], "nearest", 4, **tiles).memory_bytes)
"""

LAYERS = r"""
import re, sys
from pathlib import Path
from georsr.api import super_resolve
report = super_resolve(sys.argv[1], sys.argv[2], "nearest", 2, quality=sys.argv[2] + ".quality.tif")
assert report.quality.layers[0] == "uncertainty"
print(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
"""

ROW = r"""
import re
from pathlib import Path
import numpy as np, torch
from georsr.system import tune_malloc
from georsr.tiling.grid import make_grid
from georsr.tiling.stitch import BlockAssembler, TileStitcher

def peak():
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])

tune_malloc()
plan = make_grid(250, 20000, scale=4, tile=192, halo=4, overlap=8, multiple_of=1)
stitcher = TileStitcher(plan, 3)
blocks = BlockAssembler(plan.out_height, plan.out_width, 3, np.dtype(np.uint8), 512)
before = peak()
for tile in plan.tiles_in_row(0):
    made = torch.ones(3, 4 * tile.output_window.height, 4 * tile.output_window.width)
    window, values = stitcher.add(tile, made.numpy())
    list(blocks.add(window, values.astype(np.uint8)))
print((peak() - before) / 1024)
"""

VRT = """<VRTDataset rasterXSize="{width}" rasterYSize="{height}">
<SRS>EPSG:32632</SRS><GeoTransform>400000, 1, 0, 5000000, 0, -1</GeoTransform>
{bands}</VRTDataset>"""
BAND = """<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>
<SourceFilename relativeToVRT="1">in.tif</SourceFilename><SourceBand>{band}</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="100" ySize="100"/>
<DstRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>
</SimpleSource></VRTRasterBand>"""


@pytest.fixture
def peak(make_raster, tmp_path):
    make_raster((np.arange(30000) % 251).reshape(3, 100, 100).astype("uint8"))

    def measure(width, height, program=RUN, processors=()):
        source, out = tmp_path / f"{width}x{height}.vrt", tmp_path / "out.tif"
        bands = "".join(BAND.format(band=b, width=width, height=height) for b in (1, 2, 3))
        source.write_text(VRT.format(width=width, height=height, bands=bands))
        code = [sys.executable, "-c", program, str(source), str(out), *map(str, processors)]
        done = subprocess.run(code, capture_output=True, text=True, check=True)
        for made in tmp_path.glob("out.*"):
            made.unlink()
        kilobytes, *estimated = map(int, done.stdout.split())
        for most in estimated:  # the plan is an upper bound that is of use
            assert 0.9 < most / (kilobytes * 1024) < 2
        return kilobytes / 1024

    return measure


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("processors", [(), (1,)], ids=["all", "one"])
def test_memory_of_a_ten_times_wider_raster_grows_little(peak, processors):
    # on one processor threads take turns, and what one keeps can lie between what others free
    narrow, wide = (peak(width, 250, processors=processors) for width in (2000, 20000))
    assert wide - narrow < 260, f"{narrow:.0f} MiB and {wide:.0f} MiB"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_a_row_of_blocks_is_contiguous():
    # the row's blocks have 117 MiB, the zone below its tiles 29; 105 tiles of 7 MiB come and go
    environ = os.environ | {"PYTHONHASHSEED": "0"}  # the heap that imports leave
    code = [sys.executable, "-c", ROW]
    done = subprocess.run(code, capture_output=True, text=True, check=True, env=environ)
    assert float(done.stdout) < 250


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_depend_on_height(peak):
    # the low one is already high enough to fill GDAL's block cache, and the heap's gaps; the
    # output of the high one is 309 MiB larger
    low, high = peak(500, 4500), peak(500, 18000)
    assert high - low < 60, f"{low:.0f} MiB and {high:.0f} MiB"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_quality_layers_does_not_depend_on_height(peak):
    # 82 MiB of layers more; of source and output GDAL may keep all 20 MiB. Runs of the same size
    # differ by 30 MiB, by what threads keep while others free: the smallest of three counts.
    low, high = (min(peak(500, height, LAYERS) for _ in range(3)) for height in (800, 3500))
    assert high - low < 45, f"{low:.0f} MiB and {high:.0f} MiB"

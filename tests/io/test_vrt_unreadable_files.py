"""Files of a VRT that cannot be read: GDAL gives zeros for them from the second read on."""

import subprocess
import sys

import pytest

from tests.attacks import hostile

SCRIPT = """
import sys
from georsr.errors import InputError
from georsr.io.reader import open_raster
from georsr.window import Window

folder = sys.argv[1]
good, first, second = (
    open_raster(f"{folder}/{name}.vrt") for name in ("good", "both", "both_again")
)
good.read(Window(0, 0, 8, 8))  # GDAL's pool of files lives as long as a VRT is open
with open(f"{folder}/bad.tif", "w") as file:
    file.write("no raster" * 100)
for reader in (first, first, second, good):
    window = Window(0, 0, 64, reader.info.width)
    try:
        print("read", reader.read(window).values.max())
    except InputError as error:
        print("refused", error)
"""

OPENED = """
import sys
from georsr.errors import InputError
from georsr.io.reader import open_raster
from georsr.window import Window

folder = sys.argv[1]
good = open_raster(f"{folder}/good.vrt")
for name in ("bad", "bad", "other"):
    try:
        print("read", open_raster(f"{folder}/{name}.vrt").read(Window(0, 0, 8, 8)).values.max())
    except InputError as error:
        print("refused", error)
"""


def vrt(*names):
    """Return a VRT of the left halves of TIFFs of 64 x 64 pixels, side by side."""
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>1'
        '</SourceBand><SourceProperties RasterXSize="64" RasterYSize="64" DataType="Byte" '
        'BlockXSize="64" BlockYSize="64"/><SrcRect xOff="0" yOff="0" xSize="32" ySize="64"/>'
        f'<DstRect xOff="{32 * i}" yOff="0" xSize="32" ySize="64"/></SimpleSource>'
        for i, name in enumerate(names)
    )
    return (
        f'<VRTDataset rasterXSize="{32 * len(names)}" rasterYSize="64">'
        f'<VRTRasterBand dataType="Byte" band="1">{sources}</VRTRasterBand></VRTDataset>'
    )


@pytest.fixture
def folder(tmp_path):
    for name in ("good", "bad"):
        hostile.tiff(tmp_path / f"{name}.tif")
    for name, files in {
        "good": ["good"],
        "bad": ["bad"],
        "other": ["bad"],
        "both": ["good", "bad"],
        "both_again": ["good", "bad"],
    }.items():
        (tmp_path / f"{name}.vrt").write_text(vrt(*files))
    return tmp_path


def run(script, folder):
    """Return the lines that a script prints in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", script, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_vrt_file_unreadable_is_refused_at_every_read(folder):
    first, second, other, good = run(SCRIPT, folder)
    assert first.startswith("refused")
    assert "cannot be read" in first
    assert second == (
        f"refused {folder}/both.vrt: one of its files could not be read before, and GDAL does not "
        "open it again in this process; repair the file, then start a new process or worker"
    )
    assert other.startswith(
        f"refused {folder}/both_again.vrt: one of its files could not be read before"
    )
    assert good.startswith("read")


def test_vrt_file_damaged_before_it_is_opened_is_refused_at_every_read(folder):
    # the header of a TIFF, and nothing that GDAL opens
    (folder / "bad.tif").write_bytes(b"II*\0" + b"\xff" * 100)
    lines = run(OPENED, folder)
    assert len(lines) == 3
    assert all(
        line.startswith("refused") and "bad.tif: TIFFReadDirectory" in line for line in lines
    )

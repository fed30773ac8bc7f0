"""Input and options that cannot be used: refused in one line, before anything is written."""

import os
import pickle
import re
import shutil
import sys
import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine

from georsr.jobs import job
from tests.attacks.hostile import vrt
from tests.conftest import REPOSITORY
from tests.faults.oracle import Patch, judge

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links")
BICUBIC = ["-m", "bicubic-x2"]
BAD = {
    "missing input": (["missing.tif", "o.tif"], 2, "missing.tif"),
    "empty input": (["empty.tif", "o.tif"], 1, "empty.tif"),
    "text as raster": (["text.tif", "o.tif"], 1, "text.tif"),
    "directory as raster": (["folder", "o.tif"], 2, "no raster in folder folder"),
    "truncated input": (["cut.tif", "o.tif"], 1, "cut.tif"),
    "output exists": (["in.tif", "old.tif"], 2, "--overwrite"),
    "output is input": (["in.tif", "in.tif", "--overwrite"], 2, "in.tif"),
    "output links to input": (["in.tif", "link.tif", "--overwrite"], 2, "link.tif"),
    "no such folder": (["in.tif", "nowhere/o.tif"], 1, "nowhere"),
    "name of another format": (["in.tif", "o.png"], 2, "call it o.tif"),
    "VRT without parts": (["in.tif", "o.VRT"], 2, "call it o.tif"),
    "layers of another format": (["in.tif", "o.tif", "--quality", "q.jp2"], 2, "call it q.tif"),
    "unknown model": (["in.tif", "o.tif", "--model", "segsr-huge"], 2, "bicubic-x2"),
    "model file missing": (["in.tif", "o.tif", "--model", "x/y.safetensors"], 2, "y.safetensors"),
    "model file damaged": (["in.tif", "o.tif", "--model", "text.tif"], 1, "text.tif"),
    "scale contradicts": (["in.tif", "o.tif", "-m", "bicubic-x2", "-s", "4"], 2, "x2"),
    "band zero": (["in.tif", "o.tif", "--bidx", "0"], 2, "0"),
    "band out of range": (["in.tif", "o.tif", "--bidx", "1,9"], 2, "9"),
    "bands are not numbers": (["in.tif", "o.tif", "--bidx", "red"], 2, "red"),
    "palette": (["palette.tif", "o.tif"], 2, "palette"),
    "complex": (["complex.tif", "o.tif"], 2, "complex"),
    "nodata outside the type": (["in.tif", "o.tif", "--dst-nodata", "-9999"], 2, "-9999"),
    "unknown dtype": (["in.tif", "o.tif", "--dtype", "uint12"], 2, "uint12"),
    "bad stretch": (["in.tif", "o.tif", "--stretch", "low"], 2, "stretch"),
    "bad creation option": (["in.tif", "o.tif", "--co", "compress"], 2, "NAME=VALUE"),
    "bad device": (["in.tif", "o.tif", "--device", "abacus"], 2, "abacus"),
    "absent device": (["in.tif", "o.tif", "--device", "cuda:99"], 2, "cuda"),
    "bad blocksize": (["in.tif", "o.tif", "--blocksize", "100"], 2, "16"),
    "bbox of words": (["in.tif", "o.tif", "--bbox", "here"], 2, "WEST,SOUTH"),
    "bbox outside": (["in.tif", "o.tif", "--bbox", "0,0,9,9"], 2, "outside"),
    "bbox in no CRS": (["in.tif", "o.tif", "--bbox", "0,0,9,9", "--bbox-crs", "x"], 2, "bbox-crs"),
    "output is missing": (["in.tif"], 2, "georsr sr in.tif OUT"),
    "output is a folder": (["in.tif", "results/"], 2, "--out-dir results/"),
    "bands without commas": (["in.tif", "o.tif", "--bidx", "3", "2", "1"], 2, "--bidx 3,2,1"),
    "numbers for the bands option": (["in.tif", "o.tif", "--bands", "3,2,1"], 2, "--bidx 3,2,1"),
    "aoi missing": (["in.tif", "o.tif", "--aoi", "none.geojson"], 2, "none.geojson"),
    "aoi is no GeoJSON": (["in.tif", "o.tif", "--aoi", "text.tif"], 1, "GeoJSON"),
    "aoi outside": (["in.tif", "o.tif", "--aoi", "far.geojson"], 2, "outside"),
    "aoi invalid": (["in.tif", "o.tif", "--aoi", "bowtie.geojson"], 2, "Self-intersection"),
    "impossible tile": (["in.tif", "o.tif", "--tile", "8", "--halo", "8"], 2, "at least"),
    "cut to 99 %": (["cut99.tif", "o.tif"], 1, "cut99.tif"),
    "damaged block": (["damaged.tif", "o.tif"], 1, "damaged.tif"),
    "VRT called TIFF": (["vrt.tif", "o.tif"], 2, "VRT"),
    "VRT of a system file": (["passwd.vrt", "o.tif"], 2, "passwd.vrt"),
    "VRT of a parent folder": (["parent.vrt", "o.tif"], 2, "parent.vrt"),
    "VRT of an address": (["address.vrt", "o.tif"], 2, "address.vrt"),
    "more pixels than allowed": (["huge.tif", "o.tif"], 2, "--max-pixels"),
    "output is a hard link to input": (["in.tif", "hard.tif", "--overwrite"], 2, "in.tif"),
    "output is input by another path": (["in.tif", "folder/../in.tif", "--overwrite"], 2, "in.tif"),
    "output is input by a virtual path": (
        ["in.tif", "/vsigzip/in.tif", "--overwrite"],
        2,
        "in.tif",
    ),
    "output is a directory": (["in.tif", "folder.tif"], 1, "is a directory"),
    "lock is a directory": (["in.tif", "lock.tif"], 1, "is a directory"),
    "lock is a link": (["in.tif", "linked.tif"], 1, "is a symbolic link"),
    "journal is a directory": (["in.tif", "journal.tif"], 1, "is a directory"),
    "stale mask beside the output": (["in.tif", "stale.tif"], 2, "stale.tif.msk"),
    "pickle as weights": (["in.tif", "o.tif", "-m", "./code.pth"], 1, "code.pth"),
    "pickle called safetensors": (["in.tif", "o.tif", "-m", "./code.safetensors"], 1, "readable"),
    "archive of code as weights": (["in.tif", "o.tif", "-m", "./zip.pth"], 1, "zip.pth"),
    "archive that inflates": (["in.tif", "o.tif", "-m", "./bomb.pth"], 1, "bomb.pth"),
    "huge header of weights": (["in.tif", "o.tif", "-m", "./long.safetensors"], 1, "readable"),
    "model name with a path": (["in.tif", "o.tif", "-m", "../../segsr-x4"], 2, "segsr-x4"),
    "only one band of three": (["grey.tif", "o.tif", "-m", "segsr-lite-x2", "--bidx", "9"], 2, "9"),
    "pixels without width": (["flat.tif", "o.tif"], 2, "flat.tif"),
    "64-bit integers": (["int64.tif", "o.tif"], 2, "int64"),
}


@pytest.fixture
def bad_folder(make_raster, texture, tmp_path):
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    make_raster(texture(3, 40, 50))
    make_raster(texture(1, 40, 50), "grey.tif")
    for name, share in (("cut", 0.5), ("cut99", 0.99)):
        make_raster(texture(3, 300, 300), f"{name}.tif", **blocks)
        data = (tmp_path / f"{name}.tif").read_bytes()
        (tmp_path / f"{name}.tif").write_bytes(data[: int(len(data) * share)])
    make_raster(texture(1, 300, 300), "damaged.tif", **blocks, compress="deflate")
    data = bytearray((tmp_path / "damaged.tif").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "damaged.tif").write_bytes(data)
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "text.tif").write_text("not a raster")
    for name in ("old.tif", "stale.tif.msk"):
        (tmp_path / name).write_bytes(b"old")
    for name in ("folder", "folder.tif", ".lock.tif.part.lock", ".journal.tif.part.jsonl"):
        (tmp_path / name).mkdir()
    (tmp_path / "link.tif").symlink_to(tmp_path / "in.tif")
    (tmp_path / ".linked.tif.part.lock").symlink_to(tmp_path / "text.tif")
    (tmp_path / "hard.tif").hardlink_to(tmp_path / "in.tif")
    colours = {0: (0, 0, 0, 255), 1: (9, 9, 9, 255)}
    make_raster(
        np.ones((1, 9, 9), "uint8"), "palette.tif", photometric="palette",
        after=lambda d: d.write_colormap(1, colours),
    )  # fmt: skip
    make_raster(np.ones((1, 9, 9), "complex64"), "complex.tif")
    make_raster(np.ones((1, 9, 9), "int64"), "int64.tif")
    make_raster(np.ones((1, 9, 9), "uint8"), "flat.tif", transform=Affine(0, 0, 1, 0, 0, 1))
    with rasterio.open(
        tmp_path / "huge.tif", "w", driver="GTiff", width=900_000, height=900_000, count=3,
        dtype="uint8", sparse_ok=True, bigtiff="YES", tiled=True, blockxsize=4096, blockysize=4096,
        crs="EPSG:32632", transform=Affine(1, 0, 4e5, 0, -1, 5e6),
    ):  # fmt: skip
        pass
    for name, ring in (
        ("far", "[0,0],[1,0],[1,1],[0,0]"),
        ("bowtie", "[0,0],[1,1],[1,0],[0,1],[0,0]"),
    ):
        (tmp_path / f"{name}.geojson").write_text(
            f'{{"type": "Polygon", "coordinates": [[{ring}]]}}'
        )
    for name, source in (
        ("vrt.tif", "in.tif"),
        ("passwd.vrt", "/etc/passwd"),
        ("parent.vrt", "../in.tif"),
        ("address.vrt", "/vsicurl/http://127.0.0.1:1/in.tif"),
    ):
        (tmp_path / name).write_text(vrt(source, size=40))
    write_hostile_weights(tmp_path)
    return tmp_path


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def write_hostile_weights(folder):
    code = pickle.dumps(Payload(folder / "executed"))
    for name in ("code.pth", "code.safetensors"):
        (folder / name).write_bytes(code)
    with zipfile.ZipFile(folder / "zip.pth", "w") as archive:
        archive.writestr("zip/data.pkl", code)
        archive.writestr("zip/version", "3")
    with zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(30_000_000))
    (folder / "long.safetensors").write_bytes((10**12).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize("case", BAD)
def test_sr_bad_input_is_one_line_with_exit_code(case, bad_folder):
    arguments, code, message = BAD[case]
    if "--model" not in arguments and "-m" not in arguments:
        arguments = [*arguments, *BICUBIC]
    judge(["sr", *arguments], bad_folder, code, message=message)


def test_sr_too_little_disk_is_refused_before_the_first_tile(make_raster, texture, tmp_path):
    make_raster(texture(3, 40, 50))
    fault = Patch(job, "free_space", few_bytes)
    command = ["sr", "in.tif", "o.tif", *BICUBIC, "-q"]
    judge(command, tmp_path, 1, message="--no-check-resources", fault=fault)


def test_sr_onto_a_file_system_without_a_size_completes(make_raster, texture, tmp_path):
    """As ramfs: statvfs gives zeros."""
    make_raster(texture(3, 40, 50))
    command = ["sr", "in.tif", "o.tif", *BICUBIC, "-q"]
    judge(command, tmp_path, 0, fault=Patch(shutil, "disk_usage", no_size))


def no_size(before, path):
    return type(before(path))(0, 0, 0)


def few_bytes(before, path):
    return 1000


def test_readme_names_tests_that_exist():
    page = (REPOSITORY / "tests" / "faults" / "README.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in REPOSITORY.glob("tests/**/*.py"))
    names = set(re.findall(r"`(test_\w+)`", page))
    assert len(names) > 30
    assert [name for name in names if f"def {name}(" not in code] == []

"""Disks that are full, over quota, read-only or broken, at every stage of a command."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from georsr.writer import resumable_tiff
from tests.faults.oracle import Patch, Raise, contents, judge, restore, run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs tmpfs")
SR = ["sr", "{}/in.tif", "{}/out.tif", "-m", "nearest-x2", "--tile", "64", "--blocksize", "128",
      "--co", "COMPRESS=NONE",
      "-j", "1", "-q", "--no-check-resources"]  # fmt: skip
COMMANDS = {
    "plain": SR,
    "no verify": [*SR, "--no-verify", "--no-resume"],
    "cog": [*SR, "--cog"],
    "overwrite": [*SR[:2], "{}/old.tif", *SR[3:], "--overwrite"],
    "world file": [*SR, "--co", "TFW=YES"],
    "quality": [*SR, "--quality", "{}/q.tif"],
    "stac": [*SR, "--stac", "{}/item.json"],
    "parts": [*SR[:2], "{}/out.vrt", *SR[3:], "--parts", "{}/P"],
    "batch": [*SR[:2], "{}/old.tif", "--out-dir", "{}/many", *SR[3:]],
}


def fill(folder, make_raster, texture):
    name = folder.name
    make_raster(texture(1, 150, 140), f"{name}/in.tif")
    make_raster(texture(1, 150, 140, seed=1), f"{name}/old.tif")


@pytest.fixture
def disk(tmp_path, make_raster, texture):
    """A file system of 1 MiB in memory, with the sources in it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed")
    fill(folder, make_raster, texture)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def folder(tmp_path, make_raster, texture):
    (tmp_path / "folder").mkdir()
    fill(tmp_path / "folder", make_raster, texture)
    return tmp_path / "folder"


def free(folder):
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_command_on_a_full_disk_completes_with_more_space(kind, disk):
    """With nothing free, with half of what it takes, and with a little less than it takes."""
    ballast, space, given = disk / "ballast.bin", free(disk), contents(disk)
    assert run([word.replace("{}", str(disk)) for word in COMMANDS[kind]], disk)[0] == 0
    takes = space - free(disk)
    restore(disk, given)
    for left in (0, 8192, takes // 2, takes - 8192):
        ballast.write_bytes(bytes(free(disk) - left))
        judge(COMMANDS[kind], disk, 1, message="space", mend=lambda: ballast.unlink(True))
        ballast.unlink()


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


@pytest.mark.parametrize("kind", COMMANDS)
def test_command_on_a_read_only_disk_is_one_line_and_completes_later(kind, disk):
    remount(disk, "ro")
    given = contents(disk)
    judge(COMMANDS[kind], disk, 1, message="Read-only", mend=lambda: remount(disk, "rw"))
    assert contents(disk) == given


@pytest.mark.parametrize(
    "command",
    [
        ["preview", "in.tif", "--size", "32", "-m", "nearest-x2"],
        ["quality", "report", "in.tif", "old.tif", "--html", "page.html"],
        ["sr", "in.tif", "out.tif", "-m", "nearest-x2", "--workers", "1"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_command_in_a_read_only_folder_is_one_line(command, disk):
    remount(disk, "ro")
    judge(command, disk, 1, message="Read-only")


def test_sr_in_a_read_only_folder_writes_elsewhere(disk, tmp_path):
    remount(disk, "ro")
    out = tmp_path / "elsewhere" / "out.tif"
    out.parent.mkdir()
    assert run(["sr", "in.tif", str(out), "-m", "nearest-x2", "-q"], disk) == (0, "")
    assert [path.name for path in out.parent.iterdir()] == ["out.tif"]


class Limit:
    """Fault: no file of the process may grow beyond a size."""

    def __init__(self, size):
        self.size = size

    def __call__(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


@pytest.mark.parametrize("size", [300, 60_000, 140_000])
@pytest.mark.parametrize("kind", ["plain", "no verify", "cog", "overwrite", "quality", "parts"])
def test_command_whose_files_are_limited_completes_without_the_limit(kind, size, folder):
    judge(COMMANDS[kind], folder, 1, fault=Limit(size))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "cog", "quality", "stac", "parts", "batch"])
@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (os, "fsync", errno.EIO),
        (Path, "replace", errno.EDQUOT),
        (resumable_tiff, "write_all", errno.EIO),
    ],
)
def test_command_whose_disk_fails_at_any_call_completes_later(kind, owner, name, number, folder):
    said = ""
    for first in (0, 1, 3, 9):
        fault = Patch(owner, name, Raise(OSError(number, os.strerror(number))), first)
        said += judge(COMMANDS[kind], folder, (0, 1), fault=fault)  # 0: there are fewer calls
    assert "Error: " in said

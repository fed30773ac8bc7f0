"""A command killed at any of its file operations: given again it ends well and leaves nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_everywhere.py")
COMMON = ("sr", "{}/in.tif", "{}/out.tif", "--model", "bicubic", "--scale", "2", "--tile", "32",
          "--blocksize", "128", "--device", "cpu", "--jobs", "1", "--progress", "none")  # fmt: skip
CASES = {
    "plain": (*COMMON,),
    "cog": (*COMMON, "--cog"),
    "overwrite": (*COMMON, "--overwrite"),
    "quality": (*COMMON, "--quality", "{}/q.tif"),
    "stac": (*COMMON, "--stac", "{}/item.json"),
    "both": (*COMMON, "--quality", "{}/q.tif", "--stac", "{}/item.json"),
    "parts": (*COMMON[:2], "{}/out.vrt", *COMMON[3:], "--parts", "{}/P"),
    "batch": ("sr", "{}/in.tif", "{}/old.tif", "--out-dir", "{}/O", *COMMON[3:]),
}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("case", CASES)
def test_command_killed_anywhere_completes_when_repeated(case, make_raster, texture, tmp_path):
    """Every sixth operation, others for each case; STEP 1 is for people."""
    (tmp_path / "template").mkdir()
    make_raster(texture(1, 60, 70), "template/in.tif")
    if case == "batch":
        make_raster(texture(1, 60, 70, seed=1), "template/old.tif")
    if case == "overwrite":
        make_raster(texture(1, 60, 70, seed=1), "template/out.tif")
        (tmp_path / "template" / "out.tif.aux.xml").write_text("<PAMDataset/>")
    first = str(1 + list(CASES).index(case) % 6)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), first, "6", *CASES[case]],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["count"] > 20

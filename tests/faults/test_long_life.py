"""One process that lives long: many calls, ten threads, a fork, an interrupted call."""

import json
import subprocess
import sys
import threading

import pytest

from georsr.api import super_resolve
from georsr.writer.resumable_tiff import PartialTiff
from tests.conftest import REPOSITORY

PROGRAM = REPOSITORY / "benchmarks" / "robustness" / "long_life.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_super_resolve_in_one_process_leaves_nothing_behind(backend):
    """A short form of the benchmark, which has 300 calls."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--calls", "45", "--backend", backend],
        timeout=600, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert json.loads(done.stdout)["wrong"] == []


def test_super_resolve_interrupted_like_a_notebook_cell_continues(
    make_raster, texture, lite_file, tmp_path
):
    source, out = make_raster(texture(3, 150, 100)), tmp_path / "o.tif"
    options = {"tile_size": 32, "halo": 4, "overlap": 4, "blocksize": 32}
    super_resolve(source, tmp_path / "whole.tif", lite_file, **options)
    before, asked = threading.active_count(), iter(range(1000))

    def interrupt():
        if next(asked) > 12:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        super_resolve(source, out, lite_file, should_stop=interrupt, **options)
    assert threading.active_count() == before
    assert not out.exists()
    report = super_resolve(source, out, lite_file, **options)
    assert report.blocks_resumed > 0
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.parametrize("number", [2, 5])
def test_super_resolve_interrupted_while_a_block_is_appended_keeps_the_order_of_blocks(
    number, make_raster, texture, tmp_path, monkeypatch
):
    source, out = make_raster(texture(1, 150, 100)), tmp_path / "o.tif"
    options = {"tile_size": 32, "blocksize": 32, "model": "bicubic-x2"}
    super_resolve(source, tmp_path / "whole.tif", **options)
    append, calls = PartialTiff.append, []

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return append(*arguments)

    monkeypatch.setattr(PartialTiff, "append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        super_resolve(source, out, **options)
    assert super_resolve(source, out, **options).blocks_resumed > 0
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()

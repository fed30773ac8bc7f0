"""One process that lives long: many calls, ten threads at once, a fork, a call that is interrupted.

They run in a process of their own, whose memory and files nobody else uses.
"""

import json
import subprocess
import sys
import threading

import pytest

from georsr.api import super_resolve

PROGRAM = """
import gc, json, os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from georsr.api import super_resolve

torch.set_num_threads(1)
source, model, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
calls = int(sys.argv[4])


def run(name):
    out = folder / f"{name}.tif"
    super_resolve(source, out, model, tile_size=32, halo=4, overlap=4, blocksize=32, num_threads=1)
    data = out.read_bytes()
    out.unlink()
    return data


def state():
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir("/proc/self/fd")), threading.active_count()


expected = run("first")
for number in range(calls // 3):
    run("warm")
before = state()
same = all(run(f"call{number % 7}") == expected for number in range(calls))
after = state()
with ThreadPoolExecutor(10) as pool:
    threads = [data == expected for data in pool.map(run, range(20))]
pid = os.fork()
if not pid:
    code = 1
    try:
        code = 0 if run("fork") == expected else 2
    finally:
        os._exit(code)
forked = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
again = run("last") == expected
print(json.dumps([before, after, same, all(threads), forked, again, os.listdir(folder)]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_super_resolve_in_one_process_leaves_nothing_behind(
    make_raster, texture, lite_file, tmp_path
):
    (tmp_path / "out").mkdir()
    source = make_raster(texture(3, 50, 40))
    arguments = [source, lite_file, str(tmp_path / "out"), "45"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        timeout=600, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    before, after, same, threads, forked, again, left = json.loads(done.stdout)
    assert after[0] < 1.01 * before[0], "memory grows"
    assert after[1:] == before[1:], "files or threads remain"
    assert (same, threads, forked, again) == (True, True, 0, True)
    assert left == []


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

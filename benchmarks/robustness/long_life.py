"""Use georsr in one process for long, from threads, after a fork and after a cancelled call.

    python benchmarks/robustness/long_life.py [--calls 300] [--backend onnx] [--threads 1]

Calls `georsr.super_resolve` many times on a small raster. Neither memory, open files nor threads
may grow: the median resident memory after the last ten calls is at most 1 % above that after the
last ten of the first third. Each output must have the same bytes. Then ten threads call it at
once; a forked process calls it; calls are interrupted at five moments, as a cell of a notebook is,
by KeyboardInterrupt in the main thread, and made again. Prints a JSON object; exit code 1 if
anything is wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import rasterio
from rasterio.transform import Affine

from georsr.api import super_resolve


def make_source(path: Path) -> None:
    """Write a small raster."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 50, 40)).astype("uint8")
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=50, width=40, dtype="uint8",
        crs="EPSG:32632", transform=Affine(1, 0, 4e5, 0, -1, 5e6), photometric="RGB",
    ) as dataset:  # fmt: skip
        dataset.write(pixels)


def state() -> tuple[int, int, int]:
    """Return resident memory in bytes, number of open files, and number of threads."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len([*Path("/proc/self/fd").iterdir()]), threading.active_count()


def states(
    run: Callable[[str], bytes], number: int, expected: bytes, wrong: list[str]
) -> list[tuple[int, int, int]]:
    """Call many times; return the state after each of the last ten calls."""
    found = []
    for n in range(number):
        if run(f"call{n % 7}") != expected:
            wrong.append(f"call {n}: other bytes")
        if n >= number - 10:
            found.append(state())
    return found


def system_threads() -> int:
    """Return the number of threads of this process that the system knows."""
    return len([*Path("/proc/self/task").iterdir()])


def in_child(work: partial[bytes], expected: bytes, threads: int) -> str:
    """Call ``work`` in a forked process; return what is wrong, if anything.

    Waits until ``threads`` threads are left. Python takes a thread for ended while libraries still
    free what they kept for it; a process forked then may wait for their locks for ever.
    """
    deadline = time.monotonic() + 60
    while system_threads() > threads and time.monotonic() < deadline:
        time.sleep(0.001)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.alarm(60)  # ends the process if it hangs
            code = 0 if work() == expected else 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {0: "", 1: "an exception", 2: "other bytes"}.get(code, f"exit code {code}")


def interrupted(work: partial[bytes], seconds: float) -> str:
    """Interrupt a call after a while, as Jupyter does; return what is wrong, if anything."""
    before = threading.active_count()
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        work()
        timer.join()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    timer.join()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread that the call did not wait for ends by itself
    return "" if threading.active_count() == before else "threads remain"


def main() -> int:
    """Run everything and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--model", default="segsr-lite-x2")
    parser.add_argument("--backend", default="onnx", choices=("onnx", "torch"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_source(folder / "in.tif")

        def run(out: str, **more: object) -> bytes:
            path = folder / f"{out}.tif"
            super_resolve(
                folder / "in.tif", path, options.model, tile_size=32, halo=4, overlap=4,
                blocksize=32, num_threads=options.threads, backend=options.backend, **more,
            )  # fmt: skip
            data = path.read_bytes()
            path.unlink()
            return data

        expected, wrong = run("first"), list[str]()
        warm = states(run, options.calls // 3, expected, wrong)
        last = states(run, options.calls * 2 // 3, expected, wrong)
        # resident memory goes up and down by 1 % from call to call
        before, after = ((median(each[0] for each in part), *part[-1][1:]) for part in (warm, last))
        if after[0] > 1.01 * before[0]:
            wrong.append("memory grows")
        if after[1:] != before[1:]:
            wrong.append("files or threads remain")
        time.sleep(0.5)
        threads = system_threads()
        with ThreadPoolExecutor(10) as pool:
            if not all(data == expected for data in pool.map(run, map(str, range(20)))):
                wrong.append("other bytes in threads")
        work = partial(run, "other")
        found = {"fork": in_child(work, expected, threads)}
        since = time.monotonic()
        work()
        seconds = time.monotonic() - since
        for part in (0.1, 0.3, 0.5, 0.7, 0.9):
            found[f"interrupted after {part}"] = interrupted(work, part * seconds)
            found[f"call after {part}"] = "" if work() == expected else "other bytes"
        found["fork afterwards"] = in_child(work, expected, threads)
        wrong += [f"{name}: {text}" for name, text in found.items() if text]
        left = sorted(path.name for path in folder.iterdir())
        if left != ["in.tif"]:
            wrong.append(f"files remain: {left}")
    print(json.dumps({"calls": options.calls, "before": before, "after": after, "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

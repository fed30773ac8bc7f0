"""A plan of a million tasks without a network: what it costs the client and the scheduler.

    python benchmarks/speed/cluster_simulation.py [--tasks 10000 100000 1000000]

Scheduler and worker are processes of their own. Everything is as in a run that writes one file,
except that a worker answers at once with an empty block. For every number of tasks it prints the
peak memory of the client and of the scheduler, which must not grow with it, and the time per task:
on the clock, and of processors, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from distributed import Client

from georsr.distributed.executor import ordered_blocks
from georsr.distributed.task_queue import TaskQueue
from georsr.distributed.worker import RunPlugin
from georsr.progress import Timer
from georsr.tiling.grid import make_grid
from georsr.tiling.partition import TaskGrid
from georsr.window import Window

BLOCK = 16
WORKERS = 100
"""As many the client believes there are; one does all the work."""


class EmptyRunner:
    """Runner that computes nothing."""

    def prepare(self, worker_name: object) -> None:
        """Need nothing."""

    def __call__(self, window: Window, should_stop: Callable[[], bool]) -> SimpleNamespace:
        """Return one block without a byte in it."""
        return SimpleNamespace(blocks=[(window.top // BLOCK, window.left // BLOCK, b"")])


def peak(pid: int) -> float:
    """Peak memory of a process, MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def processor_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(tasks: int, address: str, scheduler: int, worker: int) -> dict[str, float]:
    """One run of about so many tasks; what it took."""
    side = math.isqrt(tasks)
    pixels = side * BLOCK
    plan = make_grid(pixels, pixels, scale=1, tile=BLOCK, halo=0, overlap=0)
    grid, done = TaskGrid(pixels, pixels, 0, BLOCK, BLOCK), np.zeros((side, side), bool)
    reach = {"direct_to_workers": True}  # as `georsr.distributed.cluster` does where it can
    with Client(address, timeout=60, set_as_default=False, **reach) as client:
        client.wait_for_workers(1)
        queue = TaskQueue(
            client,
            RunPlugin("simulated", EmptyRunner()),
            gpu=False,
            check_cancelled=lambda: None,
            count_workers=lambda: WORKERS,
        )
        processes = os.getpid(), scheduler, worker
        before, since = [processor_seconds(pid) for pid in processes], time.monotonic()
        with queue:
            blocks = ordered_blocks(
                plan, BLOCK, grid, done, queue, Timer(), lambda index, result: None
            )
            count = sum(1 for _ in blocks)
        seconds = time.monotonic() - since
        used = [processor_seconds(pid) for pid in processes]
    assert count == len(plan) == side * side
    spent = [(b - a) / count * 1000 for a, b in zip(before, used, strict=True)]
    return {
        "tasks": count,
        "client MiB": round(peak(os.getpid())),
        "scheduler MiB": round(peak(scheduler)),
        "ms a task": round(seconds / count * 1000, 2),
        "client ms": round(spent[0], 2),
        "scheduler ms": round(spent[1], 2),
        "worker ms": round(spent[2], 2),
    }


def simulate(tasks: int) -> dict[str, float]:
    """One run in processes of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    port = ["--port", address.rpartition(":")[2]]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    module = [sys.executable, "-m"]
    scheduler = subprocess.Popen(
        [*module, "distributed.cli.dask_scheduler", *local, *port], **quiet
    )
    one = [*local, "--nthreads", "1", "--no-nanny"]
    worker = subprocess.Popen([*module, "distributed.cli.dask_worker", address, *one], **quiet)
    try:
        inner = ["--one", address, str(scheduler.pid), str(worker.pid)]
        command = [sys.executable, __file__, "--tasks", str(tasks), *inner]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return dict(json.loads(done.stdout))
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def main() -> None:
    """Print a line for every number of tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        address, scheduler, worker = arguments.one
        print(json.dumps(run(arguments.tasks[0], address, int(scheduler), int(worker))))
        return
    for tasks in arguments.tasks:
        print(json.dumps(simulate(tasks)), flush=True)


if __name__ == "__main__":
    main()

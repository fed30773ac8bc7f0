"""The batch script and the containers of the page on clusters, run as they would be there."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import yaml
from georsr.cli.main import invoke

from .manual import blocks

PAGE = "docs/how-to/cluster.md"
PROGRAMS = Path(sys.executable).parent
PATIENCE = 60.0
"""Seconds in which a scheduler has to be there, or gone."""


@pytest.fixture
def port():
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(port, listens):
    """Wait until somebody listens on a port, or nobody does any more."""
    until = time.monotonic() + PATIENCE
    while listens != is_open(port):
        assert time.monotonic() < until, f"still {'nobody' if listens else 'somebody'} at {port}"
        time.sleep(0.1)


def is_open(port):
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def environment(*folders, **more):
    path = os.pathsep.join([*map(str, folders), str(PROGRAMS), os.environ["PATH"]])
    return os.environ | {"PATH": path} | more


@contextmanager
def running(command, **variables):
    """A container: its command, instead of what the image would start, and its environment."""
    name, variables = "$(DASK_WORKER_NAME)", environment(**variables)
    words = [word.replace(name, variables["DASK_WORKER_NAME"]) for word in command]
    with subprocess.Popen(words, env=variables, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def job(words, programs):
    """A batch job: gives what waits for its exit code; nothing of it outlives this."""
    with subprocess.Popen(
        words, env=environment(programs), stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield partial(process.wait, timeout=120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_cluster_page_kubernetes_containers_run(desk, port):
    (block,) = blocks(PAGE, "yaml")
    spec = yaml.safe_load(block.text)["spec"]
    scheduler, worker = (spec[part]["spec"]["containers"][0] for part in ("scheduler", "worker"))
    given = {"DASK_SCHEDULER_ADDRESS": f"tcp://127.0.0.1:{port}", "DASK_WORKER_NAME": "georsr-0"}
    here = ["--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    asked = ["sr", "scene.tif", "-m", "bicubic-x2", "-q"]
    with running([*scheduler["command"], *here], **given), running(worker["command"], **given):
        wait_until(port, listens=True)
        address = given["DASK_SCHEDULER_ADDRESS"]
        assert invoke([*asked, "many.tif", "--scheduler", address]) == 0
    assert invoke([*asked, "one.tif"]) == 0
    assert Path("many.tif").read_bytes() == Path("one.tif").read_bytes()


@pytest.mark.skipif(shutil.which("bash") is None, reason="batch scripts are bash's")
def test_cluster_page_slurm_script_runs(desk, port, tmp_path):
    (block,) = blocks(PAGE, "bash")
    script, programs = desk / "run.sh", tmp_path / "programs"
    text = block.text.replace("/scratch/mosaic.vrt", "scene.tif").replace("8786", str(port))
    script.write_text(text.replace("/scratch/out.tif", "many.tif"))
    programs.mkdir()
    # one task, on this machine, whose own name need not lead anywhere
    for name, does in (("srun", 'shift; exec "$@"'), ("hostname", "echo localhost")):
        (programs / name).write_text(f"#!/bin/bash\n{does}\n")
        (programs / name).chmod(0o755)
    with job(["bash", str(script)], programs) as ended:
        assert ended() == 0
        wait_until(port, listens=False)  # the scheduler ends with its job
    assert invoke(["sr", "scene.tif", "one.tif", "-q"]) == 0
    assert Path("many.tif").read_bytes() == Path("one.tif").read_bytes()

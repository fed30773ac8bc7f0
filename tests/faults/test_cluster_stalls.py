"""A scheduler or workers that freeze, die or serve two clients: the right output, or one line."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from distributed import Client

from georsr.api import super_resolve
from georsr.distributed import cluster, task_queue
from georsr.errors import InterruptedRunError, OutputError, ResourceError

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="stops processes"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

SMALL = {"blocksize": 32, "tile_size": 16, "halo": 2, "overlap": 4}
PROGRAM = """
from distributed import LocalCluster
options = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
with LocalCluster(n_workers=2, threads_per_worker=1, silence_logs=50, **options) as local:
    print(local.scheduler_address, flush=True)
    input()
"""

SCHEDULER = """
from distributed import LocalCluster
with LocalCluster(n_workers=0, protocol="tcp", dashboard_address="127.0.0.1:0") as local:
    print(local.scheduler_address, flush=True)
    input()
"""
WORKER = ["-m", "distributed.cli.dask_worker", "--no-nanny", "--no-dashboard", "--nthreads", "1"]


class Machines:
    """A process with a scheduler and two workers, which can be frozen and killed."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes)
        self.address = self.process.stdout.readline().strip()

    def send(self, number):
        os.kill(self.process.pid, number)

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def shared():
    machines = Machines()
    yield machines
    machines.end()


@pytest.fixture
def machines(shared):
    yield shared
    shared.send(signal.SIGCONT)


@pytest.fixture
def source(make_raster, texture):
    return make_raster(texture(3, 200, 220))


@pytest.fixture
def expected(source, tmp_path):
    super_resolve(source, tmp_path / "one.tif", "bicubic-x2", **SMALL)
    return (tmp_path / "one.tif").read_bytes()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(task_queue, "ANSWER_TIMEOUT", 3.0)
    monkeypatch.setattr(task_queue, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(task_queue, "EXIT_TIMEOUT", 1.0)


def at_first_progress(action):
    """Progress that calls a function once, as soon as tiles are done."""
    called = threading.Event()

    def progress(done, total):
        if done and not called.is_set():
            called.set()
            action()

    return progress


@pytest.mark.parametrize("stop", [False, True], ids=["waits", "Ctrl-C"])
def test_run_scheduler_frozen_ends_in_bounded_time_and_resumes(
    stop, machines, source, expected, tmp_path, impatient
):
    frozen, out = threading.Event(), tmp_path / "o.tif"

    def freeze():
        machines.send(signal.SIGSTOP)
        frozen.set()

    began = time.monotonic()
    with pytest.raises(InterruptedRunError if stop else ResourceError) as caught:
        super_resolve(
            source, out, "bicubic-x2", scheduler=machines.address,
            progress=at_first_progress(freeze), should_stop=lambda: stop and frozen.is_set(),
            **SMALL,
        )  # fmt: skip
    assert time.monotonic() - began < 60
    assert stop or "no answer within 3 s" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    machines.send(signal.SIGCONT)
    super_resolve(source, out, "bicubic-x2", scheduler=machines.address, **SMALL)
    assert out.read_bytes() == expected
    assert sorted(p.name for p in tmp_path.iterdir() if "o.tif" in p.name) == ["o.tif"]


def test_run_scheduler_frozen_for_a_moment_completes(machines, source, expected, tmp_path):
    def stall():
        machines.send(signal.SIGSTOP)
        threading.Timer(2.0, machines.send, [signal.SIGCONT]).start()

    super_resolve(
        source, tmp_path / "o.tif", "bicubic-x2", scheduler=machines.address,
        progress=at_first_progress(stall), **SMALL,
    )  # fmt: skip
    assert (tmp_path / "o.tif").read_bytes() == expected


def test_run_scheduler_frozen_before_it_is_one_line(machines, source, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 0.5)
    machines.send(signal.SIGSTOP)
    with pytest.raises(ResourceError, match=r"scheduler.* within \d s") as caught:
        super_resolve(source, tmp_path / "o.tif", "bicubic-x2", scheduler=machines.address, **SMALL)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.tif").exists()


def test_workers_asked_while_frozen_raises_resource_error(
    machines, source, tmp_path, monkeypatch, impatient
):
    monkeypatch.setattr(cluster, "software", lambda: machines.send(signal.SIGSTOP) or {})
    with pytest.raises(ResourceError, match="no answer within 3 s; it may be frozen"):
        super_resolve(source, tmp_path / "o.tif", "bicubic-x2", scheduler=machines.address, **SMALL)


def test_two_clients_of_a_scheduler_write_two_outputs_or_one(machines, source, expected, tmp_path):
    said = []

    def run(out):
        try:
            super_resolve(source, tmp_path / out, "bicubic-x2", scheduler=machines.address, **SMALL)
            said.append(out)
        except Exception as error:
            said.append(error)

    for names in (["a.tif", "b.tif"], ["same.tif", "same.tif"]):
        said.clear()
        threads = [threading.Thread(target=run, args=[name]) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        errors = [error for error in said if not isinstance(error, str)]
        assert len(errors) <= len(names) - len(set(names)), said
        for error in errors:
            assert isinstance(error, OutputError | ResourceError | ValueError), error
            assert "\n" not in str(error)
        for name in names:
            assert (tmp_path / name).read_bytes() == expected
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_run_scheduler_killed_is_one_line_and_one_process_completes(source, expected, tmp_path):
    machines, out = Machines(), tmp_path / "o.tif"
    try:
        with pytest.raises(ResourceError, match="connection to Dask's scheduler is lost") as caught:
            super_resolve(
                source, out, "bicubic-x2", scheduler=machines.address,
                progress=at_first_progress(lambda: machines.send(signal.SIGKILL)), **SMALL,
            )  # fmt: skip
    finally:
        machines.end()
    assert "\n" not in str(caught.value)
    assert not out.exists()
    super_resolve(source, out, "bicubic-x2", **SMALL)
    assert out.read_bytes() == expected


@pytest.mark.parametrize("count", [1, 2], ids=["one worker", "all workers"])
def test_run_workers_frozen_for_ever_ends_once_dask_gives_them_up(
    count, source, expected, tmp_path, monkeypatch
):
    """Dask's clock is not awaited: the scheduler is told that it heard nothing for very long."""
    monkeypatch.setattr(task_queue, "NO_WORKER_TIMEOUT", 1.0)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    scheduler = subprocess.Popen([sys.executable, "-c", SCHEDULER], **pipes)
    address, out = scheduler.stdout.readline().strip(), tmp_path / "o.tif"
    names = [f"worker{i}" for i in range(2)]
    commands = [[sys.executable, *WORKER, address, "--name", name] for name in names]
    workers = [subprocess.Popen(command, **silent) for command in commands]

    async def give_up(dask_scheduler):
        for worker in dask_scheduler.workers.values():
            if worker.name in names[:count]:
                worker.last_seen = 0
        await dask_scheduler.check_worker_ttl()

    def run():
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2)

            def freeze():
                for worker in workers[:count]:
                    worker.send_signal(signal.SIGSTOP)
                client.run_on_scheduler(give_up)

            progress = at_first_progress(freeze)
            super_resolve(source, out, "bicubic-x2", scheduler=address, progress=progress, **SMALL)

    try:
        if count == 1:
            run()
            assert out.read_bytes() == expected
        else:
            with pytest.raises(ResourceError, match=r"no workers for \d+ s; start some"):
                run()
            assert not out.exists()
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.communicate()

"""Test the start of a cluster whose workers die or differ."""

import os
import signal
import time
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace

import dask
import pytest

from georsr.config import SRConfig
from georsr.distributed import cluster as cluster_module
from georsr.distributed import task_queue
from georsr.distributed.cluster import Cluster, start_local_cluster
from georsr.distributed.task_queue import TaskQueue
from georsr.distributed.worker import RunPlugin, software, worker_device
from georsr.errors import ResourceError
from georsr.models.io import open_model

METHOD = "distributed.worker.multiprocessing-method"
GONE = OSError("Stream is closed")


class FakeCluster:
    """Of no workers, that fails to start so many times."""

    def __init__(self, failures):
        self.failures, self.workers, self.method = failures, {}, None

    def __call__(self, **options):
        self.method = dask.config.get(METHOD)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("Nanny failed to start.")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture
def no_client(monkeypatch):
    monkeypatch.setattr(cluster_module, "Client", lambda cluster, **options: cluster)


def test_start_local_cluster_failing_once_is_tried_again(monkeypatch, no_client):
    local = FakeCluster(failures=1)
    monkeypatch.setattr(cluster_module, "LocalCluster", local)
    with start_local_cluster(2, gpu=False) as client:
        assert client is local


def test_start_local_cluster_spawns_workers_whatever_dask_is_configured(monkeypatch, no_client):
    local = FakeCluster(failures=0)
    monkeypatch.setattr(cluster_module, "LocalCluster", local)
    with dask.config.set({METHOD: "fork"}):
        with start_local_cluster(2, gpu=False):
            assert dask.config.get(METHOD) == "spawn", "of a worker that is started again"
        assert dask.config.get(METHOD) == "fork"
    assert local.method == "spawn"


def test_local_worker_that_died_comes_back_however_long_it_takes():
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}),
        start_local_cluster(1, gpu=False) as client,
    ):
        ((address, pid),) = client.run(os.getpid).items()
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 120
        while not client.nthreads().keys() - {address}:
            assert time.monotonic() < deadline, "the worker is not started again"
            time.sleep(0.1)
        assert [*client.run(os.getpid).values()] != [pid]


def test_start_local_cluster_failing_twice_raises_resource_error(monkeypatch, no_client):
    monkeypatch.setattr(cluster_module, "LocalCluster", FakeCluster(failures=2))
    with (
        pytest.raises(ResourceError, match=r"workers=2: cannot be started: Nanny failed"),
        start_local_cluster(2, gpu=False),
    ):
        raise AssertionError("started")


@pytest.mark.parametrize("error", [ImportError("requires `cryptography`"), ValueError("a version")])
def test_start_local_cluster_without_keys_raises_resource_error(monkeypatch, error):
    def temporary():
        raise error

    monkeypatch.setattr(cluster_module.Security, "temporary", temporary)
    with (
        pytest.raises(ResourceError, match=f"^workers=2: cannot be started: {error}$"),
        start_local_cluster(2, gpu=False),
    ):
        raise AssertionError("started")


def test_start_local_cluster_bad_temporary_directory_raises_resource_error(
    tmp_path, no_client, monkeypatch
):
    monkeypatch.setattr(cluster_module, "LocalCluster", FakeCluster(failures=0))
    (tmp_path / "file").write_text("")
    for base in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            dask.config.set({"temporary-directory": str(base)}),
            pytest.raises(ResourceError, match=f"no folder for temporary files: .*: {base}.*; set"),
            start_local_cluster(2, gpu=False),
        ):
            raise AssertionError("started")
    with (
        dask.config.set({"temporary-directory": str(tmp_path / "new")}),
        start_local_cluster(2, gpu=False),
    ):
        assert [path.name[:15] for path in (tmp_path / "new").iterdir()] == ["georsr-workers-"]
    assert list((tmp_path / "new").iterdir()) == []


class FakeClient:
    """A client whose calls to all workers are answered by ``answers``."""

    dashboard_link = ""
    loop = None

    def __init__(self, answers=(), failures=0):
        self.answers, self.failures, self.plugins = dict(answers), failures, []

    def scheduler_info(self, n_workers):
        worker = {"resources": {}, "last_seen": 0.0}
        return {"workers": dict.fromkeys(self.answers, worker)}

    def run(self, function, *arguments, workers, on_error):
        return {address: self.answers[address] for address in workers}

    def run_on_scheduler(self, function, *arguments):
        return function(*arguments)

    def register_plugin(self, plugin, name):
        if self.failures:
            self.failures -= 1
            raise GONE
        self.plugins.append(name)

    def unregister_worker_plugin(self, name):
        self.plugins.remove(name)

    def sync(self, function, callback_timeout):
        return None


def make_queue(client):
    return TaskQueue(
        client,
        RunPlugin("a run", None),
        gpu=False,
        check_cancelled=lambda: None,
        count_workers=lambda: 1,
    )


@pytest.fixture
def no_results(monkeypatch):
    monkeypatch.setattr(task_queue, "as_completed", lambda loop: SimpleNamespace())


def test_queue_registers_its_plugin_again_if_a_worker_dies(no_results):
    client = FakeClient(failures=2)
    with make_queue(client):
        assert client.plugins == ["a run"]
    assert client.plugins == []


def test_queue_without_a_scheduler_raises_resource_error(no_results):
    client = FakeClient(failures=task_queue.MAX_REGISTRATIONS)
    with pytest.raises(ResourceError, match="connection to Dask's scheduler is lost"):
        make_queue(client).__enter__()


@pytest.fixture
def start(monkeypatch):
    """Start a cluster whose client is given."""
    with ExitStack() as stack:

        def start(client):
            monkeypatch.setattr(cluster_module, "connect_client", lambda *_: nullcontext(client))
            cluster = Cluster(
                open_model("bicubic", 2), SRConfig(device="cpu"), scheduler="tcp://127.0.0.1:1"
            )
            stack.push(cluster)
            cluster.start()
            return cluster

        yield start


def test_start_with_a_dead_worker_uses_the_others(start, caplog):
    device = worker_device(software(), "cpu", "fp32")
    assert start(FakeClient({"dead": GONE, "alive": device})).placement == device
    assert "worker dead does not answer: Stream is closed" in caplog.text
    with pytest.raises(ResourceError, match="no worker answers"):
        start(FakeClient({"dead": GONE}))


def test_start_with_workers_of_different_precision_raises_resource_error(start):
    devices = {p: worker_device(software(), "cpu", p) for p in ("fp32", "bf16")}
    with pytest.raises(ResourceError, match=r"differ in device or precision: fp32 on cpu \(fp32\)"):
        start(FakeClient(devices))


def test_start_with_a_worker_without_georsr_names_it(start):
    with pytest.raises(ResourceError, match=r"^worker w1: cannot import georsr \(No module"):
        start(FakeClient({"w1": ImportError("No module named 'georsr'")}))

"""Workers that die while a run starts: it goes on with the others, or says so in one line."""

from contextlib import nullcontext
from types import SimpleNamespace

import dask
import pytest

from georsr.config import SRConfig
from georsr.distributed import cluster as cluster_members
from georsr.distributed import task_queue
from georsr.distributed.cluster import Cluster, start_local_cluster
from georsr.distributed.task_queue import DaskQueue
from georsr.distributed.worker import check_worker, worker_info
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
    monkeypatch.setattr(cluster_members, "Client", lambda cluster, **options: cluster)


def test_workers_are_started_once_more_if_one_dies(monkeypatch, no_client):
    local = FakeCluster(failures=1)
    monkeypatch.setattr(cluster_members, "LocalCluster", local)
    with start_local_cluster(2, gpu=False) as client:
        assert client is local


def test_workers_are_spawned_whatever_dask_is_told(monkeypatch, no_client):
    local = FakeCluster(failures=0)
    monkeypatch.setattr(cluster_members, "LocalCluster", local)
    with dask.config.set({METHOD: "fork"}):
        with start_local_cluster(2, gpu=False):
            assert dask.config.get(METHOD) == "spawn", "of a worker that is started again"
        assert dask.config.get(METHOD) == "fork"
    assert local.method == "spawn"


def test_workers_that_never_come_up_end_in_one_line(monkeypatch, no_client):
    monkeypatch.setattr(cluster_members, "LocalCluster", FakeCluster(failures=2))
    with (
        pytest.raises(ResourceError, match=r"--workers 2: cannot be started: Nanny failed"),
        start_local_cluster(2, gpu=False),
    ):
        raise AssertionError("started")


@pytest.mark.parametrize("error", [ImportError("requires `cryptography`"), ValueError("a version")])
def test_keys_that_cannot_be_made_end_in_one_line(monkeypatch, error):
    def temporary():
        raise error

    monkeypatch.setattr(cluster_members.Security, "temporary", temporary)
    with (
        pytest.raises(ResourceError, match=f"^--workers 2: cannot be started: {error}$"),
        start_local_cluster(2, gpu=False),
    ):
        raise AssertionError("started")


def test_a_folder_of_temporary_files_that_cannot_be_is_one_line(tmp_path, no_client, monkeypatch):
    monkeypatch.setattr(cluster_members, "LocalCluster", FakeCluster(failures=0))
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


class Talking:
    """A client whose calls to all workers are answered by ``answers``; it may fail first."""

    dashboard_link = ""
    loop = None

    def __init__(self, answers, failures=0):
        self.answers, self.failures, self.introduced = answers, failures, 0

    def run(self, function, *arguments, on_error="raise"):
        return dict(self.answers[function])

    def run_on_scheduler(self, function):
        return function()

    def register_plugin(self, plugin, name):
        if self.failures:
            self.failures -= 1
            raise GONE
        self.introduced += 1

    def unregister_worker_plugin(self, name):
        self.introduced -= 1

    def sync(self, function, callback_timeout):
        return None


def fly(client):
    return DaskQueue(client, "a", None, gpu=False, look=lambda: None, count=lambda: 1)


@pytest.fixture
def no_results(monkeypatch):
    monkeypatch.setattr(task_queue, "as_completed", lambda loop: SimpleNamespace())


def test_a_run_is_given_to_the_workers_that_are_left(no_results):
    client = Talking({check_worker: {"dead": GONE, "alive": None}}, failures=2)
    with fly(client):
        assert client.introduced == 1
    assert client.introduced == 0


def test_a_worker_that_does_not_fit_still_ends_the_run(no_results):
    client = Talking({check_worker: {"dead": GONE, "alive": "worker alive: has no file"}})
    with pytest.raises(ResourceError, match="has no file"):
        fly(client).__enter__()
    assert client.introduced == 0


def test_a_scheduler_that_is_gone_is_told(no_results):
    client = Talking({}, failures=task_queue.MAX_ATTEMPTS)
    with pytest.raises(ResourceError, match="connection to Dask's scheduler is lost"):
        fly(client).__enter__()


def test_the_dead_are_not_asked_what_they_can_do(caplog):
    able = worker_info("cpu", "fp32", SimpleNamespace(state=SimpleNamespace(total_resources={})))
    model, config = open_model("bicubic", 2), SRConfig(device="cpu")

    def joined(answers):
        client = Talking({worker_info: answers})
        cluster = Cluster(lambda gpu: nullcontext(client), model, config)
        cluster.start()
        return cluster

    cluster = joined({"dead": GONE, "alive": able})
    assert cluster.placement.device.type == "cpu"
    with pytest.raises(ResourceError, match="no worker answers"):
        joined({"dead": GONE})
    assert "worker dead does not answer: Stream is closed" in caplog.text

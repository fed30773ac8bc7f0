"""Many machines, one output: the bytes are those of a serial run, whoever made what and when."""

import itertools
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from distributed import Client, LocalCluster

import georsr.writer.writer as writer_module
from georsr.api import estimate, super_resolve
from georsr.config import SRConfig
from georsr.distributed import cluster, executor, worker
from georsr.distributed import cluster as cluster_module
from georsr.distributed.cluster import Cluster
from georsr.distributed.executor import JobRunner, compute_blocks, ordered_blocks
from georsr.distributed.task_queue import PREFETCH_BATCHES
from georsr.errors import InterruptedRunError, ResourceError, UsageError
from georsr.inference.model_cache import model_ref
from georsr.inference.predictor import TilePredictor
from georsr.io.reader import open_raster
from georsr.jobs.job import plan_job
from georsr.models.io import open_model
from georsr.progress import Timer
from georsr.tiling import partition
from georsr.tiling.partition import TaskGrid, completion_order

# two workers are threads of this process, which has one set of filters for warnings
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SMALL = {"blocksize": 32, "tile_size": 32, "halo": 2, "overlap": 4}


@pytest.fixture(autouse=True)
def small_supertiles_and_every_block_noted(monkeypatch):
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", -1.0)
    monkeypatch.setattr(partition, "MAX_TASK_TILES", 12)


@pytest.fixture(scope="module")
def scheduler():
    """Address of a scheduler whose two workers are threads of this process."""
    options = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(
        n_workers=2, threads_per_worker=1, silence_logs=logging.CRITICAL, **options
    ) as local:
        yield local.scheduler_address


@pytest.fixture
def source(make_raster, texture):
    mask = (np.random.default_rng(5).random((150, 130)) < 0.8).astype("uint8") * 255
    mask[:70, :60] = 0
    return make_raster(texture(3, 150, 130), after=lambda d: d.write_mask(mask))


@pytest.fixture
def crs_polygon():
    """Over a part of the source."""
    ring = [[400010, 4999990], [400055, 4999980], [400030, 4999935], [400010, 4999990]]
    crs = {"type": "name", "properties": {"name": "EPSG:32632"}}
    return {"type": "Polygon", "coordinates": [ring], "crs": crs}


def both(tmp_path, source, model, scheduler, **options):
    """Bytes of a serial run's output, and of a cluster's."""
    one, many = tmp_path / "one.tif", tmp_path / "many.tif"
    first = super_resolve(source, one, model, **SMALL | options)
    second = super_resolve(source, many, model, scheduler=scheduler, **SMALL | options)
    assert first.checksum == second.checksum
    assert (first.tiles, first.batch_size) == (second.tiles, second.batch_size)
    return one.read_bytes(), many.read_bytes()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("bicubic-x2", {}),
        ("bicubic-x3", {"blend": "crop", "blocksize": 16}),
        ("nearest-x4", {"dtype": "float32", "dst_nodata": "nan"}),
        ("bicubic-x2", {"cog": True, "blocksize": 128}),
        ("bicubic-x2", {"bounds": (400003, 4999930, 400060, 4999990)}),
    ],
)
def test_run_on_a_cluster_equals_a_serial_run(tmp_path, source, scheduler, model, options):
    one, many = both(tmp_path, source, model, scheduler, **options)
    assert one == many


def test_run_on_a_cluster_with_a_network_equals_a_serial_run(
    tmp_path, source, scheduler, lite_file
):
    one, many = both(tmp_path, source, lite_file, scheduler)
    assert one == many


def test_run_on_a_cluster_with_polygons_equals_a_serial_run(
    tmp_path, source, scheduler, crs_polygon
):
    one, many = both(tmp_path, source, "bicubic-x2", scheduler, aoi=crs_polygon)
    assert one == many


def test_run_on_a_cluster_of_a_relative_mosaic_equals_a_serial_run(
    tmp_path, make_raster, texture, scheduler, monkeypatch
):
    from affine import Affine

    make_raster(texture(3, 60, 50), "a.tif")
    make_raster(texture(3, 60, 50, seed=1), "b.tif", transform=Affine(0.5, 0, 400020, 0, -0.5, 5e6))
    monkeypatch.chdir(tmp_path)
    one, many = both(tmp_path, ["a.tif", "b.tif"], "bicubic-x2", scheduler)
    assert one == many


class ShuffledQueue:
    """Computes tasks in this process and returns their results in any order."""

    def __init__(self, runner, workers):
        self.workers, self.max_in_flight = workers, 0
        self._runner, self._tasks, self._rng = runner, [], random.Random(7)

    @property
    def in_flight(self):
        return len(self._tasks)

    def free_slots(self, max_in_flight):
        return min(PREFETCH_BATCHES * self.workers, max_in_flight) - self.in_flight

    def submit(self, tasks):
        self._tasks.extend(tasks)
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def next_completed(self):
        index, task = self._tasks.pop(self._rng.randrange(self.in_flight))
        return index, self._runner(task, lambda: False)


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_ordered_blocks_of_shuffled_results_have_the_order_of_one_process(source, workers):
    model, config = open_model("bicubic", 2), SRConfig(**SMALL)
    with open_raster(source) as reader:
        job = plan_job(reader, "o.tif", model, config)
        done = np.zeros(job.layout.blocks_shape, bool)
        done[0, :3] = True
        queue = ShuffledQueue(JobRunner(job, model_ref(model), config, compute_blocks), workers)
        grid = TaskGrid(300, 260, 0, 64, 96)
        blocks = ordered_blocks(
            job.tile_grid, 32, grid, done, queue, Timer(), lambda index, result: None
        )
        places = [(row, column) for row, column, _ in blocks]
    assert places == [place for place in completion_order(job.tile_grid, 32) if not done[place]]
    assert queue.max_in_flight <= PREFETCH_BATCHES * workers
    assert queue.in_flight == 0


class StopWhen:
    """Says stop once a journal has so many lines."""

    def __init__(self, journal, lines):
        self.journal, self.lines = Path(journal), lines

    def __call__(self):
        there = self.journal.exists()
        return there and self.journal.read_bytes().count(b"\n") > self.lines


@pytest.mark.parametrize(("first", "then"), [(True, True), (True, False), (False, True)])
def test_run_on_a_cluster_and_serial_run_resume_each_other(
    tmp_path, source, scheduler, first, then
):
    whole, out = tmp_path / "whole.tif", tmp_path / "out.tif"
    super_resolve(source, whole, "bicubic-x2", **SMALL)
    machines = {True: {"scheduler": scheduler}, False: {}}
    stop = StopWhen(tmp_path / ".out.tif.part.jsonl", 5)
    with pytest.raises(InterruptedRunError) as caught:
        super_resolve(source, out, "bicubic-x2", should_stop=stop, **machines[first], **SMALL)
    assert "rerun the same call to resume" in caught.value.__notes__[0]
    report = super_resolve(source, out, "bicubic-x2", resume=True, **machines[then], **SMALL)
    assert 0 < report.blocks_resumed < report.blocks
    assert out.read_bytes() == whole.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def refused(kind, source, tmp_path, scheduler, **options):
    with pytest.raises(kind) as caught:
        super_resolve(source, tmp_path / "o.tif", "bicubic-x2", scheduler=scheduler, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.tif").exists()
    return str(caught.value)


def test_scheduler_not_answering_raises_resource_error(tmp_path, source, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 0.5)
    text = refused(ResourceError, source, tmp_path, "tcp://127.0.0.1:9")
    assert 'scheduler="tcp://127.0.0.1:9": does not answer' in text


def test_scheduler_malformed_address_raises_usage_error(tmp_path, source):
    text = refused(UsageError, source, tmp_path, "nonsense://x")
    assert "expected an address such as tcp://" in text


def test_workers_with_scheduler_raises_usage_error(tmp_path, source, scheduler):
    refused(UsageError, source, tmp_path, scheduler, workers=2)


def test_scheduler_without_workers_raises_resource_error(tmp_path, source, monkeypatch):
    monkeypatch.setattr(cluster, "WORKERS_TIMEOUT", 0.5)
    options = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=0, silence_logs=logging.CRITICAL, **options) as empty:
        text = refused(ResourceError, source, tmp_path, empty.scheduler_address)
    assert "has no workers" in text
    assert "dask worker tcp://" in text


def test_device_cuda_without_gpu_workers_is_refused_at_once(tmp_path, source, scheduler):
    text = refused(ResourceError, source, tmp_path, scheduler, device="cuda")
    assert 'none of 2 workers offers a GPU: start workers with `--resources "GPU=1"`' in text


def test_worker_with_other_versions_is_refused(tmp_path, source, scheduler, monkeypatch):
    here = worker.software()
    monkeypatch.setattr(cluster_module, "software", lambda: here | {"georsr": "9.9"})
    text = refused(ResourceError, source, tmp_path, scheduler)
    assert "expected 9.9; install the same versions on all machines" in text


def test_worker_that_joins_late_with_another_version_is_refused(
    tmp_path, source, scheduler, monkeypatch
):
    # asked at the start: scheduler and both workers, and this process for the plugin
    versions = itertools.chain(itertools.repeat("2.0", 4), itertools.repeat("1.0"))
    monkeypatch.setattr(worker, "software", lambda: {"torch": next(versions)})
    monkeypatch.setattr(cluster_module, "software", lambda: {"torch": "2.0"})
    text = refused(ResourceError, source, tmp_path, scheduler)
    assert text.startswith("worker tcp://")
    assert "has torch 1.0, expected 2.0" in text


def test_worker_with_another_model_is_refused(tmp_path, source, scheduler, lite_file, monkeypatch):
    from georsr.inference.model_cache import ModelRef

    reference = ModelRef(lite_file, "1" * 64)
    monkeypatch.setattr("georsr.distributed.executor.model_ref", lambda model: reference)
    with pytest.raises(ResourceError, match=r"worker tcp.*has checksum .* expected 111111"):
        super_resolve(source, tmp_path / "o.tif", lite_file, scheduler=scheduler, **SMALL)


def test_worker_without_the_source_is_refused(tmp_path, source, scheduler, monkeypatch):
    monkeypatch.setattr(executor, "absolute_path", lambda name: "/elsewhere/in.tif")
    text = refused(ResourceError, source, tmp_path, scheduler)
    assert "has no file /elsewhere/in.tif; put it where all machines see it" in text


def test_worker_with_another_source_is_refused(tmp_path, source, scheduler, monkeypatch):
    monkeypatch.setattr(executor, "source_hash", lambda reader: "0")
    assert "sees another file" in refused(ResourceError, source, tmp_path, scheduler)


def test_worker_error_is_raised_with_its_own_message(tmp_path, source, scheduler):
    damaged = Path(source)
    data = bytearray(damaged.read_bytes())
    damaged.write_bytes(data[: len(data) // 2])
    with pytest.raises(Exception, match="cannot be read") as caught:
        super_resolve(damaged, tmp_path / "o.tif", "bicubic-x2", scheduler=scheduler, **SMALL)
    assert type(caught.value).__name__ == "InputError", caught.value
    assert not list(tmp_path.glob("*o.tif*"))


class FellOverError(RuntimeError):
    """What newer versions of torch call AcceleratorError."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FellOverError("unspecified launch failure"), "unspecified launch failure"),
        (RuntimeError("CUDA error: an illegal memory access\nand more"), "illegal memory access"),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "does not fit into .* run without this worker",
        ),
    ],
)
def test_worker_device_failure_keeps_finished_blocks(
    tmp_path, source, scheduler, monkeypatch, error, words
):
    calls, take = itertools.count(), TilePredictor.predict

    def failing(self, x):
        if next(calls) >= 40:
            raise error
        return take(self, x)

    out = tmp_path / "o.tif"
    whole = super_resolve(source, tmp_path / "whole.tif", "bicubic-x2", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "AcceleratorError", FellOverError, raising=False)
        patch.setattr(TilePredictor, "predict", failing)
        place = r"^rows \d+:\d+, columns \d+:\d+ of the output, on worker tcp://\S+: "
        with pytest.raises(ResourceError, match=f"{place}.*{words}") as caught:
            super_resolve(source, out, "bicubic-x2", scheduler=scheduler, **SMALL)
    assert "rerun the same call to resume" in caught.value.__notes__[0]
    assert "\n" not in str(caught.value)
    report = super_resolve(source, out, "bicubic-x2", scheduler=scheduler, **SMALL)
    assert report.blocks_resumed > 0
    assert report.checksum == whole.checksum


def test_run_on_a_cluster_with_a_model_in_memory_is_refused(
    tmp_path, source, scheduler, lite_model
):
    with pytest.raises(UsageError, match="exists in memory only"):
        super_resolve(source, tmp_path / "o.tif", lite_model, scheduler=scheduler, **SMALL)


def test_job_runner_pickled_is_small_and_workers_keep_nothing(tmp_path, source, scheduler):
    import pickle

    model, config = open_model("segsr-lite-x2"), SRConfig()
    with open_raster(source) as reader:
        job = plan_job(reader, "o.tif", model, config)
        runner = JobRunner(job, model_ref(model), config, compute_blocks)
    assert len(pickle.dumps(runner)) < 50_000
    super_resolve(source, tmp_path / "o.tif", "bicubic-x2", scheduler=scheduler, **SMALL)
    with Client(scheduler, set_as_default=False) as client:
        plugins = client.run(lambda dask_worker: list(dask_worker.plugins))
        assert not [name for names in plugins.values() for name in names if "georsr" in name]
        assert not client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))


def test_map_on_gpu_workers_requests_the_resource(tmp_path, source, monkeypatch):
    submitted = []
    take = Client.map

    def watched(self, *arguments, **options):
        submitted.append(options["resources"])
        return take(self, *arguments, **options)

    monkeypatch.setattr(Client, "map", watched)
    options = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(
        n_workers=1, threads_per_worker=2, resources={"GPU": 1}, silence_logs=50, **options
    ) as local:
        both(tmp_path, source, "bicubic-x2", local.scheduler_address)
    assert submitted
    assert all(resources == {"GPU": 1} for resources in submitted)


def test_cluster_of_local_workers_shares_the_processors(monkeypatch):
    monkeypatch.setattr(cluster_module, "available_cpus", lambda: 8)
    model = open_model("bicubic", 2)
    with Cluster(model, SRConfig(device="cpu"), local=3) as made:
        assert made.config.num_threads == 2
        assert (made.config.device, made.config.precision) == ("cpu", "fp32")
    with Cluster(model, SRConfig(device="cpu", num_threads=5), local=3) as fixed:
        assert fixed.config.num_threads == 5


@pytest.mark.parametrize("parts", [False, True])
def test_bad_options_are_refused_before_workers_start(tmp_path, source, monkeypatch, parts):
    def started(workers, *, gpu):
        raise AssertionError("started")

    monkeypatch.setattr(cluster_module, "start_local_cluster", started)
    there = set(tmp_path.iterdir())
    out = tmp_path / ("o.vrt" if parts else "o.tif")
    where = {"parts": tmp_path / "parts"} if parts else {}
    with pytest.raises(UsageError, match="max_pixels"):
        super_resolve(source, out, "bicubic-x2", workers=2, max_pixels=10, **where)
    monkeypatch.setattr("georsr.jobs.job.memory_limit", lambda: 2**20)
    with pytest.raises(ResourceError, match="MiB of memory"):
        super_resolve(source, out, "bicubic-x2", workers=2, **where)
    with pytest.raises(AssertionError, match="started"):
        super_resolve(source, out, "bicubic-x2", workers=2, check_resources=False, **where)
    assert set(tmp_path.iterdir()) == there


def test_estimate_on_a_cluster_counts_its_workers(tmp_path, source, scheduler):
    out = tmp_path / "o.tif"
    with Cluster(open_model("bicubic", 2), SRConfig(), scheduler=scheduler) as machines:
        assert machines.count() == 2
        assert not machines.gpu
    plan = estimate(source, "bicubic-x2", scheduler=scheduler, **SMALL)
    assert plan.workers == 2
    assert not plan.problems
    super_resolve(source, out, "bicubic-x2", scheduler=scheduler, **SMALL)
    with rasterio.open(out) as made, rasterio.open(source) as lr:
        assert made.shape == (300, 260)
        assert (made.read_masks(1)[::2, ::2] == lr.read_masks(1)).all()

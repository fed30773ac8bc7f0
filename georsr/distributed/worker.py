"""What a Dask worker holds of a run, and the task that it is given again and again.

The scheduler, too, imports this file to read tasks: it is to stay without torch and GDAL.

Hands: what workers do for a run. A job travels without its network, which they load.
"""

from __future__ import annotations

import platform
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import torch
from distributed import WorkerPlugin, get_worker
from torch import nn

from georsr.config import SRConfig
from georsr.errors import GeorsrError, ModelError, ResourceError
from georsr.inference.model_cache import ModelRef, cached_predictor, load_cached
from georsr.inference.pipeline import RunStats
from georsr.inference.predictor import TilePredictor
from georsr.io.gdal_env import absolute_path
from georsr.jobs.job import SRJob, source_hash
from georsr.jobs.run import tile_pipeline
from georsr.progress import RunContext
from georsr.window import Window
from georsr.writer.encoder import BlockEncoder, EncodedBlock, encoders, to_encodable
from georsr.writer.paths import paths_behind_vsi

GPU = "GPU"
"""Dask's resource that a worker with a graphics card offers."""
TASK_SECONDS = 0.25
"""After so long a task ends, if only some of its pieces are done."""

Done = tuple[list[Any], float]
"""Results of the first pieces of a task, and seconds that they took."""


class WorkerTask(Protocol):
    """Does the pieces of a run; sent to every worker once."""

    def setup(self, address: str) -> None:
        """Raise if this worker cannot do its share; slow the first time only."""

    def __call__(self, piece: Any, stopped: Callable[[], bool], /) -> Any:
        """Do one piece; ``stopped`` says when nobody wants it any more."""


class RunPlugin(WorkerPlugin):
    """A run, on every worker and on those that come later.

    Parameters
    ----------
    run : str
        Its name.
    hand : Hand
    """

    def __init__(self, run: str, hand: WorkerTask) -> None:
        self.name, self.hand = run, hand
        self.stopped = False

    def teardown(self, worker: Any) -> None:
        """End what is being done."""
        self.stopped = True


def work(run: str, pieces: Sequence[Any]) -> Done:
    """The task: pieces of a run, at least the first of them.

    Raises
    ------
    GeorsrError
        This worker does not fit, or a piece cannot be done.
    """
    worker = get_worker()
    plugin: Any = worker.plugins[run]
    results = list[Any]()
    try:
        plugin.hand.setup(worker.address)
        since = time.monotonic()
        for piece in pieces:
            results.append(_one(plugin, piece, worker.address))
            if time.monotonic() - since > TASK_SECONDS:
                break
        return results, time.monotonic() - since
    except GeorsrError as error:
        failure = error
    # what GDAL and torch raised cannot be sent, and would take the error with it
    failure.__cause__ = failure.__context__ = None
    raise failure.with_traceback(None)


def _one(plugin: Any, piece: Any, address: str) -> Any:
    try:
        return plugin.hand(piece, lambda: plugin.stopped)
    except (ModelError, ResourceError) as error:
        raise with_location(error, f"{piece} of the product, on worker {address}") from error
    except GeorsrError:
        raise
    except Exception as error:
        raise ResourceError(
            f"{piece} of the product: worker {address} failed with {first_line(error)}"
        ) from error


def with_location(error: ModelError | ResourceError, where: str) -> GeorsrError:
    """The same error with where it happened; of a device, that the same command may do it later."""
    from georsr.device import is_device_failure

    failed = is_device_failure(error.__cause__)
    return (ResourceError if failed else type(error))(f"{where}: {error}")


def first_line(error: BaseException) -> str:
    """Kind of an error, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def check_worker(run: str, dask_worker: Any) -> str | None:
    """Why this worker does not fit, found out before the first task; None if it does."""
    try:
        dask_worker.plugins[run].hand.setup(dask_worker.address)
    except GeorsrError as error:
        return str(error)
    return None


def software() -> dict[str, str]:
    """What must be the same everywhere for the same bytes."""
    versions = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("georsr", "torch", "rasterio"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return versions


def worker_info(device: str, precision: str, dask_worker: Any) -> dict[str, Any]:
    """Of a worker: its software, whether it offers a GPU, and where its network would run."""
    from georsr.device import select_device
    from georsr.errors import UsageError

    gpu = bool(dask_worker.state.total_resources.get(GPU))
    try:
        placement: Any = select_device("cpu" if device == "auto" and not gpu else device, precision)
    except UsageError as error:
        placement = str(error)
    return {"software": software(), "gpu": gpu, "placement": placement}


def dask_setup(worker: Any) -> None:
    """Of a local worker: Ctrl-C in a terminal reaches all processes, but is for the first one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class BlockResult:
    """What became of a window of the product.

    Attributes
    ----------
    blocks : list of (block row, block column, EncodedBlock)
    stats : RunStats
        Statistics of the tiles.
    """

    blocks: list[tuple[int, int, EncodedBlock]]
    stats: RunStats


class JobTask:
    """What all hands have in common: a job, made ready once in a process.

    Parameters
    ----------
    job : Job
    reference : ModelReference
        Of its model.
    config : SRConfig
        The job's, with device and threads as workers are to understand them.
    """

    def __init__(self, job: SRJob, reference: ModelRef, config: SRConfig) -> None:
        self.job = replace(job, model=replace(job.model, network=nn.Identity()))
        self.reference, self.config = reference, config
        self.software = software()
        self.files = [
            absolute_path(name) for name in job.reader.info.files if paths_behind_vsi(name)
        ]
        self._lock, self._ready = threading.Lock(), False

    def setup(self, address: str) -> None:
        """Check software, source and model.

        Raises
        ------
        ResourceError
            Names the worker and what is different there.
        """
        with self._lock:
            if self._ready:
                return
            try:
                self._check_software()
                self._check_source()
                load_cached(self.reference)
            except GeorsrError as error:
                raise ResourceError(f"worker {address}: {error}") from error
            self._ready = True

    def _check_software(self) -> None:
        here = software()
        for name, expected in self.software.items():
            if here[name] != expected:
                raise ResourceError(
                    f"has {name} {here[name]}, expected {expected}; "
                    "install the same versions on all machines"
                )

    def _check_source(self) -> None:
        for name in self.files:
            if not paths_behind_vsi(name):
                raise ResourceError(
                    f"has no file {name}; put it where all machines see it under the same name"
                )
        with self.job.reader.reopen() as reader:
            if source_hash(reader) != self.job.key["source"]:
                raise ResourceError(
                    f"sees another file under the name {reader.info.path} (header, size or time "
                    "of change differ); put it where all machines see the same"
                )

    def network(self) -> AbstractContextManager[TilePredictor]:
        """This process's network; workers of one machine take its GPUs in turn."""
        config, count = self.config, torch.cuda.device_count()
        name = _worker_name() if config.device == "cuda" else None
        if isinstance(name, int) and count:
            config = replace(config, device=f"cuda:{name % count}")
        return cached_predictor(self.reference, config)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_ready": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _worker_name() -> object:
    """Of the Dask worker this is: a number where `georsr.distributed.cluster` started it."""
    try:
        return get_worker().name
    except ValueError:  # it is none
        return None


class BlockTask(JobTask):
    """Makes the blocks of a window, encoded as they stand in the file."""

    def __call__(self, window: Window, stopped: Callable[[], bool]) -> BlockResult:
        """From a window of the product, made of whole blocks of it."""
        part, size = self.job.part(window.coarser(self.job.plan.scale)), self.job.layout.blocksize
        encode, context = BlockEncoder(self.job.layout), RunContext(should_stop=stopped)
        with ThreadPoolExecutor(encoders()) as pool, self.network() as net:
            pipeline = tile_pipeline(part, net, context)
            waiting = []
            for place, planes in pipeline.blocks(part.layout):
                row, column = (window.top + place.top) // size, (window.left + place.left) // size
                pixels, mask = to_encodable(*part.layout.split(planes))
                waiting.append((row, column, pool.submit(encode, pixels, mask)))
        blocks = [(row, column, encoded.result()) for row, column, encoded in waiting]
        return BlockResult(blocks, pipeline.stats)

"""Run the tasks of a job on Dask's workers.

The scheduler imports this module to read what it passes on, so that no import here may need torch
or GDAL. `georsr.distributed.task_queue` has tasks of a worker that died computed again.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import platform
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

from distributed import WorkerPlugin, get_worker

from georsr.device import DeviceConfig, installed_version, select_device
from georsr.errors import GeorsrError, GeorsrWarning, InterruptedRunError, ModelError, ResourceError

GPU = "GPU"
"""Dask resource that a worker with a graphics card offers."""
BATCH_SECONDS = 0.25
"""Time after which a batch of tasks ends, even if some of its tasks are left."""
STOP_TIMEOUT = 60.0
"""Seconds that a worker waits for its running tasks when their run ends."""


class Runner(Protocol):
    """Computes tasks; pickled, and sent to every worker once."""

    def prepare(self, worker_name: object) -> None:
        """Check what the tasks need, and load it; raise GeorsrError if something is missing."""

    def __call__(self, task: Any, should_stop: Callable[[], bool], /) -> Any:
        """Compute one task, until ``should_stop()`` is true."""


class RunPlugin(WorkerPlugin):
    """Worker plugin that holds the runner of a run.

    Parameters
    ----------
    name : str
        Unique name of the run.
    runner : Runner
        Computes the tasks of the run.
    """

    def __init__(self, name: str, runner: Runner) -> None:
        self.name, self.runner, self.software = name, runner, software()
        self.cancelled = False
        self._running = set[int]()  # identifiers of threads
        self.error: GeorsrError | None = None

    async def setup(self, worker: Any) -> None:
        """Check the software and prepare the runner, before the worker gets a task.

        Raises
        ------
        ResourceError
            The worker cannot compute the tasks. The error is also kept for its tasks, because Dask
            only logs it where a worker joins later.
        """
        if multiprocessing.parent_process() is not None:  # else it is the caller's process
            warnings.simplefilter("ignore", GeorsrWarning)  # the caller shows those of the reports
        try:
            check_software(self.software)
            await asyncio.to_thread(self.runner.prepare, worker.name)
        except GeorsrError as error:
            self.error = ResourceError(f"worker {worker.address}: {error}")
            raise self.error from None

    async def teardown(self, worker: Any) -> None:
        """Stop the tasks that are running, and wait until they have ended."""
        self.cancelled = True
        deadline = time.monotonic() + STOP_TIMEOUT
        while self._running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def run(self, tasks: list[Any], address: str) -> tuple[list[Any], float]:
        """Compute tasks until `BATCH_SECONDS` have passed, at least the first one.

        Returns
        -------
        list of results of the first tasks, and the seconds that they took
        """
        if self.error is not None:
            raise self.error
        results, start = list[Any](), time.monotonic()
        thread = threading.get_ident()
        self._running.add(thread)
        try:
            for task in tasks:
                if self.cancelled:
                    raise InterruptedRunError("the run has ended")
                results.append(self._compute(task, address))
                if time.monotonic() - start > BATCH_SECONDS:
                    break
        finally:
            self._running.discard(thread)
        return results, time.monotonic() - start

    def _compute(self, task: Any, address: str) -> Any:
        try:
            return self.runner(task, lambda: self.cancelled)
        except (ModelError, ResourceError) as error:
            from georsr.device import add_location

            raise add_location(error, f"{task} of the output, on worker {address}") from error
        except GeorsrError:
            raise
        except Exception as error:
            raise ResourceError(
                f"{task} of the output: worker {address} failed with {describe_error(error)}"
            ) from error


def run_tasks(plugin_name: str, tasks: bytes) -> tuple[list[Any], float]:
    """Compute pickled tasks with the plugin of a run; this is the function of Dask's tasks.

    Raises
    ------
    GeorsrError
        The worker differs from the client, or a task failed.
    """
    worker = get_worker()
    plugin: Any = worker.plugins[plugin_name]
    try:
        result: tuple[list[Any], float] = plugin.run(pickle.loads(tasks), worker.address)
        return result
    except GeorsrError as error:
        failure = error
    # errors of GDAL and torch cannot be pickled, not even as the cause of this one
    failure.__cause__ = failure.__context__ = None
    raise failure.with_traceback(None)


def describe_error(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def software() -> dict[str, str]:
    """Return the versions on which the bytes of an output depend."""
    versions = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("georsr", "torch", "onnxruntime", "numpy", "rasterio"):
        versions[package] = installed_version(package)
    return versions


def check_software(expected: dict[str, str]) -> None:
    """Raise unless this process has the expected versions; see `software`.

    Raises
    ------
    ResourceError
        A version differs.
    """
    installed = software()
    for name, wanted in expected.items():
        if installed[name] != wanted:
            raise ResourceError(
                f"has {name} {installed[name]}, expected {wanted}; install the same versions on "
                "all machines"
            )


def worker_device(
    expected: dict[str, str], device: str, precision: str, backend: str = "torch"
) -> DeviceConfig:
    """Return the device on which this worker would compute, after a check of its software.

    Raises
    ------
    ResourceError, UsageError
        A version differs, or there is no such device.
    """
    check_software(expected)
    return select_device(device, precision, backend)


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C in a local worker: a terminal sends it to all processes, the client handles it.

    Dask calls this function because the cluster preloads this module.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

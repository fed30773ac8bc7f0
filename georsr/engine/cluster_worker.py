"""What a Dask worker holds of a run, and the task that it is given again and again.

The scheduler, too, imports this file to read tasks: it is to stay without torch and GDAL.
"""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from distributed import WorkerPlugin, get_worker

from georsr.errors import GeorsrError, ModelError, ResourceError

GPU = "GPU"
"""Dask's resource that a worker with a graphics card offers."""
TASK_SECONDS = 0.25
"""After so long a task ends, if only some of its pieces are done."""

Done = tuple[list[Any], float]
"""Results of the first pieces of a task, and seconds that they took."""


class Hand(Protocol):
    """Does the pieces of a run; sent to every worker once."""

    def ready(self, address: str) -> None:
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

    def __init__(self, run: str, hand: Hand) -> None:
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
        plugin.hand.ready(worker.address)
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
        raise placed(error, f"{piece} of the product, on worker {address}") from error
    except GeorsrError:
        raise
    except Exception as error:
        raise ResourceError(
            f"{piece} of the product: worker {address} failed with {first_line(error)}"
        ) from error


def placed(error: ModelError | ResourceError, where: str) -> GeorsrError:
    """The same error with where it happened; of a device, that the same command may do it later."""
    from georsr.engine.inference import is_device_failure

    failed = is_device_failure(error.__cause__)
    return (ResourceError if failed else type(error))(f"{where}: {error}")


def first_line(error: BaseException) -> str:
    """Kind of an error, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def examine(run: str, dask_worker: Any) -> str | None:
    """Why this worker does not fit, found out before the first task; None if it does."""
    try:
        dask_worker.plugins[run].hand.ready(dask_worker.address)
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


def abilities(device: str, precision: str, dask_worker: Any) -> dict[str, Any]:
    """Of a worker: its software, whether it offers a GPU, and where its network would run."""
    from georsr.device import place
    from georsr.errors import UsageError

    gpu = bool(dask_worker.state.total_resources.get(GPU))
    try:
        placement: Any = place("cpu" if device == "auto" and not gpu else device, precision)
    except UsageError as error:
        placement = str(error)
    return {"software": software(), "gpu": gpu, "placement": placement}


def dask_setup(worker: Any) -> None:
    """Of a local worker: Ctrl-C in a terminal reaches all processes, but is for the first one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

"""Cluster: a connection to Dask's workers, started here or running elsewhere.

Members: Dask's workers, started here for one run, or those of a scheduler that runs already.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, Self, cast

import dask
from distributed import Client, LocalCluster, Security

from georsr.config import Precision, SRConfig
from georsr.device import DeviceConfig, select_device
from georsr.distributed.address import SchedulerAddress, scheduler_address
from georsr.distributed.task_queue import DaskQueue
from georsr.distributed.worker import GPU, WorkerTask, first_line, software, worker_info
from georsr.errors import InterruptedRunError, ResourceError, UsageError
from georsr.inference.predictor import place_model
from georsr.jobs.job import SRJob
from georsr.models.io import Model
from georsr.system import available_cpus

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
"""How long a scheduler may take to answer."""
WORKERS_TIMEOUT = 30.0
"""How long to wait for the first worker of a scheduler that has none."""
POLL_SECONDS = 0.1
"""How often somebody who waits looks whether he is still wanted."""
STARTUP_ERRORS = (OSError, RuntimeError, TimeoutError)
"""What Dask raises if a worker of ours does not come up."""
SPAWN_CONFIG = {"distributed.worker.multiprocessing-method": "spawn"}
"""Whatever a user's configuration of Dask says: of workers that are forked at the same moment each
may inherit the other's end of the pipe by which it learns that its client is gone, and then both
outlive it; and torch's threads are not there after a fork."""
DASK_CONFIG = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.admin.low-level-log-length": 0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
"""Of Dask, what a cluster of our own need not do: watch itself, move results, remember all, and
tell other users of this machine about it: its HTTP servers know no password."""


class RemoteClient(Client):
    """A client that says nothing when it is thrown away before it was connected."""

    def __del__(self) -> None:
        with suppress(Exception):
            super().__del__()


@contextmanager
def connect_client(
    address: str, security: Security | None, stopped: Callable[[], bool]
) -> Iterator[Client]:
    """Connected to a running scheduler that has a worker.

    Parameters
    ----------
    address, security
        As for `georsr.distributed.address.scheduler_address`.
    stopped
        Asked while this waits.

    Raises
    ------
    UsageError
        The address is none, or its certificates are.
    ResourceError
        There is no scheduler at it that accepts this client, or it has no worker.
    InterruptedRunError
        ``stopped`` said so.
    """
    scheduler = scheduler_address(address, security)
    with _waited_for(scheduler, stopped) as client:
        _await_worker(client, address, stopped)
        yield client


def _client(scheduler: SchedulerAddress, given_up: Event) -> Client:
    if not scheduler.reach(CONNECT_TIMEOUT, given_up):
        log.warning(
            "WARNING: %s is not encrypted: whoever reaches it, or is between, can run code as you "
            "on this machine and on all workers; use tls:// unless you trust that whole network",
            scheduler.address,
        )
    try:
        return RemoteClient(
            scheduler.address,
            timeout=CONNECT_TIMEOUT,
            security=scheduler.security,
            set_as_default=False,
        )
    except Exception as error:  # Dask raises what it stumbles over in the answer
        raise ResourceError(
            f"--scheduler {scheduler.address}: does not answer as a scheduler does "
            f"({first_line(error)}); is it one, of the same version of Dask?"
        ) from error


def _waited_for(scheduler: SchedulerAddress, stopped: Callable[[], bool]) -> Client:
    """Connect in another thread: names, sockets and Dask block, and Dask knows no limit for some.

    Raises
    ------
    ResourceError, InterruptedRunError
        It cannot be reached, or takes too long; or ``stopped`` said so.
    """
    until = time.monotonic() + 3 * CONNECT_TIMEOUT  # an answer, and two of Dask's own
    result, given_up = Future[Client](), Event()

    def fulfil() -> None:
        try:
            result.set_result(_client(scheduler, given_up))
        except BaseException as error:
            result.set_exception(error)

    Thread(target=fulfil, name="georsr-connect", daemon=True).start()
    try:
        while not wait([result], POLL_SECONDS).done:
            _look(stopped)
            if time.monotonic() > until:
                raise ResourceError(
                    f"--scheduler {scheduler.address}: does not answer as a scheduler does within "
                    f"{3 * CONNECT_TIMEOUT:.0f} s; is it one, of the same version of Dask?"
                )
    except BaseException:
        given_up.set()
        result.add_done_callback(lambda late: late.exception() or late.result().close())
        raise
    _look(stopped)  # who has interrupted the run does not want to read why it failed as well
    return result.result()


def _look(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise InterruptedRunError("interrupted")


def _await_worker(client: Client, address: str, stopped: Callable[[], bool]) -> None:
    if client.nthreads():
        return
    log.warning("%s has no workers yet: waiting for one", address)
    until = time.monotonic() + WORKERS_TIMEOUT
    while not client.nthreads():
        _look(stopped)
        if time.monotonic() > until:
            raise ResourceError(
                f"--scheduler {address}: has no workers, after {WORKERS_TIMEOUT:.0f} s; start some "
                f"with: dask worker {address} --nthreads 1"
            )
        time.sleep(POLL_SECONDS)


@contextmanager
def start_local_cluster(workers: int, *, gpu: bool) -> Iterator[Client]:
    """Connected to worker processes of our own; after an error they are killed, not waited for.

    If one dies while it starts, all are started once more.

    Raises
    ------
    ResourceError
        They cannot be started.
    """
    with (
        dask.config.set(SPAWN_CONFIG),  # all the time: workers that die are started again
        _folder() as folder,
        _cluster(workers, folder, gpu=gpu) as cluster,
        Client(cluster, direct_to_workers=True, set_as_default=False) as client,
    ):
        try:
            yield client
        except BaseException:
            for nanny in cluster.workers.values():
                nanny.auto_restart = False
                with suppress(Exception):
                    os.kill(nanny.pid, 9)
            raise


def _folder() -> TemporaryDirectory[str]:
    """For temporary files of workers; nobody else may write in it.

    Dask would take one of a well-known name among all temporary files, open what other users may
    have laid there as links, and put it where Python looks for modules first.
    """
    base = dask.config.get("temporary-directory", None)
    try:
        if base:
            Path(base).mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(prefix="georsr-workers-", dir=base, ignore_cleanup_errors=True)
    except OSError as error:
        raise ResourceError(
            f"--workers: no folder for temporary files: {error.strerror}: {error.filename or base}"
            "; set TMPDIR, or temporary-directory in Dask's configuration, to one you may write in"
        ) from error


def _cluster(workers: int, folder: str, *, gpu: bool) -> LocalCluster:
    try:
        security = Security.temporary()
        try:
            return _local(workers, folder, security, gpu=gpu)
        except STARTUP_ERRORS:
            return _local(workers, folder, security, gpu=gpu)
    except (ImportError, ValueError) as error:  # no cryptography; a version of TLS that is none
        raise ResourceError(f"--workers {workers}: cannot be started: {error}") from error
    except STARTUP_ERRORS as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            f"--workers {workers}: cannot be started: {text}; a script that calls georsr does so "
            'under `if __name__ == "__main__":`'
        ) from error


def _local(workers: int, folder: str, security: Security, *, gpu: bool) -> LocalCluster:
    """Processes that talk to nobody but each other.

    Parameters
    ----------
    workers
        How many.
    folder
        For their files.
    security
        Keys of this run; they reach workers through a pipe.
    gpu
        Whether each is to take one GPU.
    """
    with dask.config.set({**DASK_CONFIG, "temporary-directory": folder}):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            protocol="tls://",
            security=security,
            scheduler_kwargs={"dashboard": False},
            dashboard_address="127.0.0.1:0",  # None would be port 8787 of all interfaces
            memory_limit=0,  # Dask would pause and kill by shares of it; `check_memory` asked
            resources={GPU: 1} if gpu else None,
            preload=["georsr.distributed.worker"],
            config=DASK_CONFIG,  # of workers that are started again, too
            silence_logs=logging.CRITICAL,
        )


@contextmanager
def silence_dask_logs() -> Iterator[None]:
    """What goes wrong is told once, by the error it leads to."""
    names = ("distributed", "distributed.nanny", "distributed.scheduler", "distributed.worker")
    loggers = [logging.getLogger(name) for name in (*names, "distributed.client", "tornado")]
    before = [logger.level for logger in loggers]
    if not log.isEnabledFor(logging.DEBUG):
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


DIRECT_CONNECT_TIMEOUT = 3.0
"""How long workers may take to answer, if results are to come straight from them."""


class Cluster:
    """Workers that understand each other; a context manager.

    Those of this machine are started by the first flight, once all else has been checked.

    Parameters
    ----------
    members
        Connects to them, for as long as the context lasts.
    model, config
        What they are to run, on what device, and with how many threads.
    local
        Number of workers, if they are to be started on this machine and for this run only.
    """

    def __init__(
        self,
        members: Callable[[bool], AbstractContextManager[Client]],
        model: Model,
        config: SRConfig,
        local: int | None = None,
    ) -> None:
        self._members, self._model, self._config, self.local = members, model, config, local
        self._able: dict[str, bool] = {}
        self._client: Client | None = None
        self._stack = ExitStack()
        self.placement, self.gpu = self._local_placement()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.push(self.__exit__)
            if self.local is None:
                self.start()
            undo.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def start(self) -> Client:
        """Connect to the workers, if that has not been done; they are started now, if need be.

        Raises
        ------
        ResourceError, UsageError
            They cannot be started, lack georsr or a GPU, or would not compute alike.
        """
        if self._client is None:
            self._stack.enter_context(silence_dask_logs())
            self._client = self._stack.enter_context(self._members(self.gpu))
            if self.local is None and (link := self._client.dashboard_link):
                log.warning("Dashboard: %s", link)
            placement, gpu = self._validate_workers(self._client)
            if self.placement.backend == "torch":
                self.placement, self.gpu = placement, gpu
        return self._client

    def _local_placement(self) -> tuple[DeviceConfig, bool]:
        """Where workers of this machine compute, and whether they need a GPU for it."""
        model, config = self._model, self._config
        if place_model(model, replace(config, device="cpu", precision="fp32")).backend != "torch":
            return place_model(model, config), False
        if self.local is None:
            return select_device("cpu", "fp32"), False  # until they have been asked
        wanted = config.device.partition(":")[0]
        gpu = (
            wanted in ("auto", "cuda")
            and select_device(config.device, "fp32").device.type == "cuda"
        )
        device = "cpu" if config.device == "auto" and not gpu else config.device
        return select_device(device, config.precision), gpu

    def _validate_workers(self, client: Client) -> tuple[DeviceConfig, bool]:
        """Where all workers compute, and whether they need a GPU for it.

        Raises
        ------
        ResourceError, UsageError
            They lack georsr or a GPU, or would not compute alike.
        """
        _same_software_at_scheduler(client)
        found = self._worker_info(client)
        if not found:
            raise ResourceError("no worker answers; give the same command again")
        wanted = self._config.device.partition(":")[0]
        offered = any(able["gpu"] for able in found.values())
        gpu = wanted == "cuda" or (wanted == "auto" and offered)
        if gpu and not offered:
            raise ResourceError(
                f"--device {self._config.device}: none of {len(found)} workers offers a GPU: start "
                f'workers with --resources "{GPU}=1", or use --device cpu'
            )
        self._able = {name: able["gpu"] or not gpu for name, able in found.items()}
        placements: dict[Any, str] = {}
        for name, able in found.items():
            if self._able[name]:
                _check_software(f"worker {name}", able["software"])
                placements.setdefault(able["placement"], name)
        for placement, name in placements.items():
            if isinstance(placement, str):
                raise ResourceError(f"worker {name}: {placement}")
        kinds = {(p.device.type, p.precision): name for p, name in placements.items()}
        if len(kinds) > 1:
            said = "; ".join(f"{p} on {d} ({name})" for (d, p), name in kinds.items())
            raise ResourceError(
                f"workers would not compute alike: {said}; choose with --device and --precision"
            )
        return next(iter(placements)), gpu

    def _worker_info(self, client: Client) -> dict[str, Any]:
        """Worker -> what it can do; without those that do not answer, as the dead do not."""
        config = self._config
        found = client.run(worker_info, config.device, config.precision, on_error="return")
        for name, able in list(found.items()):
            if isinstance(able, OSError):
                log.warning("worker %s does not answer: %s", name, able)
                del found[name]
        for name, able in found.items():
            if isinstance(able, ImportError):
                raise ResourceError(
                    f"worker {name}: cannot import georsr ({able}); start workers in the same "
                    "environment"
                ) from able
            if isinstance(able, Exception):
                raise ResourceError(f"worker {name}: {able}") from able
        client.direct_to_workers = _connects_directly(client, list(found))
        return dict(found)

    def count(self) -> int:
        """Workers that can be asked now, or are to be started."""
        if self._client is None:
            return self.local or 0
        addresses = list(self._client.nthreads())
        if set(addresses) - set(self._able):
            found = self._worker_info(self._client)
            self._able |= {name: able["gpu"] or not self.gpu for name, able in found.items()}
        return sum(self._able.get(name, True) for name in addresses)

    @property
    def config(self) -> SRConfig:
        """The options as workers are to understand them."""
        config, device = self._config, str(self.placement.device)
        precision = cast(Precision, self.placement.precision)
        config = replace(config, device=device, precision=precision)
        if self.local and config.num_threads is None:
            config = replace(config, num_threads=max(1, available_cpus() // self.local))
        return config

    def task_queue(self, hand: WorkerTask, look: Callable[[], None]) -> DaskQueue:
        """Begin a run; use it in a ``with`` statement."""
        client, run = self.start(), f"georsr-{secrets.token_hex(6)}"
        return DaskQueue(client, run, hand, gpu=self.gpu, look=look, count=self.count)


def _connects_directly(client: Client, workers: list[str]) -> bool:
    """Whether results can come straight from all workers, and spare the scheduler."""

    async def ask() -> None:
        await asyncio.gather(*(client.rpc(address).identity() for address in workers))

    try:
        client.sync(ask, callback_timeout=DIRECT_CONNECT_TIMEOUT)
    except (OSError, TimeoutError):
        log.info("results come by way of the scheduler: this machine does not reach all workers")
        return False
    return True


def _same_software_at_scheduler(client: Client) -> None:
    try:
        there = client.run_on_scheduler(software)
    except ImportError as error:
        raise ResourceError(
            f"the scheduler cannot import georsr ({error}); start it in the same environment"
        ) from error
    _check_software("the scheduler", there)


def _check_software(who: str, there: dict[str, str]) -> None:
    for name, expected in software().items():
        if there[name] != expected:
            raise ResourceError(
                f"{who}: has {name} {there[name]}, expected {expected}; install the same versions "
                "on all machines"
            )


def worker_config(job: SRJob, cluster: Cluster) -> SRJob:
    """A job as a worker carries it out: by one thread, unless the options say otherwise."""
    config = cluster.config
    return replace(job, config=replace(config, num_threads=config.num_threads or 1))


@contextmanager
def open_cluster(
    model: Model,
    config: SRConfig,
    workers: int | None = None,
    scheduler: str | None = None,
    security: Security | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Cluster]:
    """Connect to the workers of a scheduler, or have some started when there is work for them.

    Parameters
    ----------
    model, config
        What workers compute, where and how.
    workers
        How many processes to start; they end with the context.
    scheduler
        Address of a running scheduler, such as ``tls://10.0.0.1:8786``.
    security
        Certificates for it; None takes those of Dask's configuration.
    stopped
        Asked while this waits for the scheduler and its first worker.

    Raises
    ------
    UsageError
        Both are given, or an address or certificates that are none.
    ResourceError
        There is no scheduler at the address, or it has no worker; workers cannot be started;
        they differ from each other or from this process.
    InterruptedRunError
        ``stopped`` said so.
    """
    if workers is not None and scheduler is not None:
        raise UsageError("--workers and --scheduler: give one of them")
    if scheduler is not None:
        cluster = Cluster(lambda gpu: connect_client(scheduler, security, stopped), model, config)
    else:
        assert workers is not None, "one of the two is given"
        count = workers
        cluster = Cluster(lambda gpu: start_local_cluster(count, gpu=gpu), model, config, count)
    with cluster:
        yield cluster

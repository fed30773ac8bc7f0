"""Start Dask workers on this machine, or connect to those of a running scheduler."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, Self, TypeVar

import dask
from distributed import Client, LocalCluster, Security

from georsr.config import SRConfig
from georsr.device import DeviceConfig, select_device
from georsr.distributed.address import SchedulerAddress, scheduler_address
from georsr.distributed.task_queue import POLL_SECONDS, TaskQueue, call_dask
from georsr.distributed.worker import (
    GPU,
    Runner,
    RunPlugin,
    check_software,
    describe_error,
    software,
    worker_device,
)
from georsr.errors import InterruptedRunError, ResourceError, UsageError
from georsr.inference.predictor import choose_backend, place_model, with_precision
from georsr.jobs.job import SRJob
from georsr.models.io import Model
from georsr.progress import never
from georsr.system import available_cpus

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECT_TIMEOUT = 10.0
"""Time in which a scheduler has to answer, in seconds."""
WORKERS_TIMEOUT = 30.0
"""Time to wait for the first worker of a scheduler that has none."""
CLOSE_TIMEOUT = 2.0
"""Time in which the client says goodbye to a scheduler."""
DIRECT_CONNECT_TIMEOUT = 3.0
"""Time in which all workers have to answer, if results are to come straight from them."""
STARTUP_ERRORS = (OSError, RuntimeError)
"""Errors of Dask if a local worker does not start."""
RESTART_CONFIG = {
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.deploy.lost-worker-timeout": "1 day",
}
"""Overrides a user's configuration. Forked workers inherit each other's end of the pipe by which
they notice that their client has ended, and would outlive it. A fork also loses torch's threads. By
default Dask gives up a worker that is not back 15 seconds after it died, which is too soon where a
busy machine starts it again."""
DASK_CONFIG = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.admin.low-level-log-length": 0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
"""Configuration of a local cluster: without profiles, logs, and moving of results, and without
Dask's HTTP servers, which would show other users of this machine what it does."""


class QuietClient(Client):
    """Dask client that raises nothing when it is deleted before it was connected."""

    def __del__(self) -> None:
        with suppress(Exception):
            super().__del__()


@contextmanager
def connect_client(
    address: str, security: Security | None, check_cancelled: Callable[[], None]
) -> Iterator[Client]:
    """Connect to a running scheduler, and wait until it has a worker.

    Parameters
    ----------
    address, security
        As for `georsr.distributed.address.scheduler_address`.
    check_cancelled
        Called while this waits; what it raises ends the wait.

    Raises
    ------
    UsageError
        The address or its certificates are not valid.
    ResourceError
        No scheduler accepts the client, or it has no worker.
    """
    scheduler, given_up = scheduler_address(address, security), Event()
    try:
        client = call_dask(
            partial(_connect, scheduler, given_up),
            check_cancelled,
            3 * CONNECT_TIMEOUT,  # one for the handshake, two for Dask's own attempts
            f"--scheduler {address}: it may be none, or of another version of Dask",
        )
    finally:
        given_up.set()  # no matter if it is connected
    try:
        _wait_for_worker(client, address, check_cancelled)
        yield client
    finally:
        with suppress(Exception):  # the scheduler may be gone
            call_dask(client.close, lambda: None, CLOSE_TIMEOUT)


def _connect(scheduler: SchedulerAddress, given_up: Event) -> Client:
    address = scheduler.address
    if not scheduler.wait_until_ready(CONNECT_TIMEOUT, given_up):
        log.warning(
            "WARNING: %s is not encrypted: whoever reaches it, or is between, can run code as you "
            "on this machine and on all workers; use tls:// unless you trust that whole network",
            address,
        )
    options: dict[str, Any] = {"security": scheduler.security, "set_as_default": False}
    try:
        client = QuietClient(address, timeout=CONNECT_TIMEOUT, **options)
    except Exception as error:  # Dask raises errors of many types here
        raise ResourceError(
            f"--scheduler {address}: does not answer as a scheduler does "
            f"({describe_error(error)}); is it one, of the same version of Dask?"
        ) from error
    if given_up.is_set():
        client.close()
    return client


def _wait_for_worker(client: Client, address: str, check_cancelled: Callable[[], None]) -> None:
    deadline = math.inf
    while not call_dask(client.nthreads, check_cancelled):
        check_cancelled()
        if deadline == math.inf:
            log.warning("%s has no workers yet: waiting for one", address)
            deadline = time.monotonic() + WORKERS_TIMEOUT
        if time.monotonic() > deadline:
            raise ResourceError(
                f"--scheduler {address}: has no workers, after {WORKERS_TIMEOUT:.0f} s; start some "
                f"with: `dask worker {address} --nthreads 1`"
            )
        time.sleep(POLL_SECONDS)


@contextmanager
def start_local_cluster(workers: int, *, gpu: bool) -> Iterator[Client]:
    """Start worker processes on this machine, each with a GPU or none; kill them on leaving.

    Raises
    ------
    ResourceError
        The processes do not start, even at a second attempt.
    """
    with (
        dask.config.set(RESTART_CONFIG),  # to the end: workers that die are started again
        _worker_folder() as folder,
        _local_cluster(workers, folder, gpu=gpu) as cluster,
        Client(cluster, direct_to_workers=True, set_as_default=False) as client,
    ):
        try:
            yield client
        finally:
            # their results are here; Dask may wait forever for one that it is just restarting
            for nanny in cluster.workers.values():
                nanny.auto_restart = False
                with suppress(Exception):
                    os.kill(nanny.pid, signal.SIGKILL)


def _worker_folder() -> TemporaryDirectory[str]:
    """Create a folder for the workers' files into which no other user may write.

    Dask would use one of a well-known name in the folder of temporary files, follow links that
    other users may have put there, and let Python import modules from it.
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


def _local_cluster(workers: int, folder: str, *, gpu: bool) -> LocalCluster:
    """Start processes that listen on this machine only, with keys of this run."""
    try:
        options: dict[str, Any] = {
            "n_workers": workers,
            "threads_per_worker": 1,
            "processes": True,
            "host": "127.0.0.1",
            "protocol": "tls://",
            "security": Security.temporary(),
            "scheduler_kwargs": {"dashboard": False},
            "dashboard_address": "127.0.0.1:0",  # None would be port 8787 of all interfaces
            "memory_limit": 0,  # Dask would pause or kill workers; `check_memory` has checked
            "resources": {GPU: 1} if gpu else None,
            "preload": ["georsr.distributed.worker"],
            "config": DASK_CONFIG,  # also for workers that are started again
            "silence_logs": logging.CRITICAL,
        }
        with dask.config.set({**DASK_CONFIG, "temporary-directory": folder}):
            try:
                return LocalCluster(**options)
            except STARTUP_ERRORS:
                return LocalCluster(**options)
    except (ImportError, ValueError) as error:  # no cryptography; an unknown version of TLS
        raise ResourceError(f"--workers {workers}: cannot be started: {error}") from error
    except STARTUP_ERRORS as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            f"--workers {workers}: cannot be started: {text}; a script that calls georsr does so "
            'under `if __name__ == "__main__":`'
        ) from error


@contextmanager
def silence_dask_logs() -> Iterator[None]:
    """Silence Dask's loggers, because its failures are raised as errors of georsr."""
    names = ("distributed", "distributed.nanny", "distributed.scheduler", "distributed.worker")
    loggers = [logging.getLogger(name) for name in (*names, "distributed.client", "tornado")]
    levels = [logger.level for logger in loggers]
    if not log.isEnabledFor(logging.DEBUG):
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Cluster:
    """Dask workers that compute alike: local ones, or those of a running scheduler.

    A context manager. On entering it connects to the scheduler; local workers are started by
    `start`, when all else has been checked. On leaving it local workers end.

    Parameters
    ----------
    model : Model
        Model that the workers run.
    config : SRConfig
        Options that choose device, precision and number of threads.
    local : int, optional
        Number of workers to start on this machine.
    scheduler : str, optional
        Address of a running scheduler, such as ``tls://10.0.0.1:8786``.
    security : distributed.Security, optional
        Certificates for the scheduler; None takes those of Dask's configuration.
    should_stop : callable
        Called while the scheduler and its first worker are awaited; true ends the wait.

    Attributes
    ----------
    placement : DeviceConfig
        Device and precision of the workers.
    gpu : bool
        Whether only workers that offer a GPU compute.

    Raises
    ------
    UsageError
        Not exactly one of ``local`` and ``scheduler`` is given.
    """

    def __init__(
        self,
        model: Model,
        config: SRConfig,
        local: int | None = None,
        scheduler: str | None = None,
        security: Security | None = None,
        should_stop: Callable[[], bool] = never,
    ) -> None:
        if (local is None) == (scheduler is None):
            raise UsageError("--workers and --scheduler: give one of them")
        self._model, self._config = model, config
        self.local, self._scheduler = local, scheduler
        self._security, self._should_stop = security, should_stop
        self._client: Client | None = None
        self._stack = ExitStack()
        self.placement, self.gpu = self._local_placement()

    def __enter__(self) -> Self:
        if self.local is None:
            try:
                self.start()
            except BaseException:
                self._stack.close()
                raise
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def start(self) -> Client:
        """Connect to the workers, or start them, unless that has been done.

        Raises
        ------
        UsageError
            The address or the certificates are not valid.
        ResourceError
            No workers answer or can be started, or they differ from each other or from this
            process.
        InterruptedRunError
            ``should_stop`` returned true.
        """
        if self._client is None:
            enter = self._stack.enter_context
            enter(silence_dask_logs())
            if self.local is not None:
                self._client = enter(start_local_cluster(self.local, gpu=self.gpu))
            else:
                assert self._scheduler is not None, "one of the two is given"
                connection = connect_client(self._scheduler, self._security, self._check_cancelled)
                self._client = enter(connection)
                if self._client.dashboard_link and find_spec("bokeh"):  # there is none without it
                    log.warning("Dashboard: %s", self._client.dashboard_link)
                self.placement, self.gpu = self._check_workers(self._client)
        return self._client

    def _local_placement(self) -> tuple[DeviceConfig, bool]:
        """Return where workers of this machine compute, and whether on a GPU."""
        model, config = self._model, with_precision(self._model, self._config)
        backend = choose_backend(model, config)
        if self.local is None:
            return DeviceConfig("cpu", "fp32", backend), False  # replaced by that of the workers
        if backend == "onnx":
            return place_model(model, config), False
        wanted = config.device.partition(":")[0]
        gpu = wanted in ("auto", "cuda") and select_device(config.device, "fp32").type == "cuda"
        device = "cpu" if config.device == "auto" and not gpu else config.device
        return select_device(device, config.precision), gpu

    def _check_cancelled(self) -> None:
        if self._should_stop():
            raise InterruptedRunError("interrupted")

    def _ask(self, call: Callable[..., T], *arguments: Any, silent: str = "Dask's scheduler") -> T:
        return call_dask(partial(call, *arguments), self._check_cancelled, silent=silent)

    def _check_workers(self, client: Client) -> tuple[DeviceConfig, bool]:
        """Return where all workers compute, and whether on a GPU; raise if they differ."""
        self._ask(_check_scheduler, client)
        device, workers = self._config.device, self._ask(_workers, client)
        offers_gpu = {address: _offers_gpu(worker) for address, worker in workers.items()}
        gpu = device.startswith("cuda") or (device == "auto" and any(offers_gpu.values()))
        addresses = [address for address, offers in offers_gpu.items() if offers or not gpu]
        if offers_gpu and not addresses:
            raise ResourceError(
                f"--device {device}: none of {len(offers_gpu)} workers offers a GPU: start "
                f'workers with `--resources "{GPU}=1"`, or use --device cpu'
            )
        if device == "auto" and not gpu:
            device = "cpu"
        config = with_precision(self._model, replace(self._config, device=device))
        backend = "torch" if gpu else choose_backend(self._model, config)
        wanted = device, config.precision, backend
        oldest = min(workers, key=lambda address: workers[address]["last_seen"], default="")
        silent = f"a worker, probably {oldest}"
        devices = self._ask(_ask_devices, client, addresses, wanted, silent=silent)
        kinds = {(d.type, d.precision): address for address, d in devices.items()}
        if len(kinds) > 1:
            differences = "; ".join(f"{p} on {d} ({a})" for (d, p), a in kinds.items())
            raise ResourceError(
                f"workers differ in device or precision: {differences}; choose with --device and "
                "--precision"
            )
        client.direct_to_workers = _connects_directly(client, list(devices))
        return next(iter(devices.values())), gpu

    def count(self) -> int:
        """Return the number of workers that can compute now, or that are to be started."""
        return (self.local or 0) if self._client is None else self._ask(self._count)

    def _count(self) -> int:
        workers = _workers(self.start()).values()
        return sum(not self.gpu or _offers_gpu(worker) for worker in workers)

    @property
    def config(self) -> SRConfig:
        """The options, with the device and the number of threads of a worker."""
        placement, threads = self.placement, self._config.num_threads
        if self.local and threads is None:
            threads = max(1, available_cpus() // self.local)
        changes: dict[str, Any] = {"precision": placement.precision, "backend": placement.backend}
        return replace(
            self._config, device=placement.device, num_threads=threads, fast=False, **changes
        )

    def worker_job(self, job: SRJob) -> SRJob:
        """Return the job as a worker computes it: with one thread, unless the options say more."""
        config = self.config
        return replace(job, config=replace(config, num_threads=config.num_threads or 1))

    def task_queue(self, runner: Runner, check_cancelled: Callable[[], None]) -> TaskQueue:
        """Return a queue for tasks of one run; use it in a ``with`` statement."""
        return TaskQueue(
            self.start(),
            RunPlugin(f"georsr-{secrets.token_hex(6)}", runner),
            gpu=self.gpu,
            check_cancelled=check_cancelled,
            count_workers=self._count,
        )


def _workers(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of each worker, by its address."""
    workers: dict[str, dict[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def _offers_gpu(worker: dict[str, Any]) -> bool:
    return bool(worker["resources"].get(GPU))


def _check_scheduler(client: Client) -> None:
    try:
        client.run_on_scheduler(check_software, software())
    except ImportError as error:
        raise ResourceError(
            f"the scheduler cannot import georsr ({error}); start it in the same environment"
        ) from error
    except ResourceError as error:
        raise ResourceError(f"the scheduler: {error}") from error


def _ask_devices(
    client: Client, addresses: list[str], wanted: tuple[str, str, str]
) -> dict[str, DeviceConfig]:
    """Return the device of each worker that answers, after a check of its software."""
    answers = client.run(worker_device, software(), *wanted, workers=addresses, on_error="return")
    devices = dict[str, DeviceConfig]()
    for address, answer in answers.items():
        if isinstance(answer, ImportError):
            raise ResourceError(
                f"worker {address}: cannot import georsr ({answer}); start workers in the same "
                "environment"
            ) from answer
        if isinstance(answer, OSError):  # a worker that died is not yet missed
            log.warning("worker %s does not answer: %s", address, answer)
        elif isinstance(answer, Exception):
            raise ResourceError(f"worker {address}: {answer}") from answer
        else:
            devices[address] = answer
    if not devices:
        raise ResourceError("no worker answers; repeat the command")
    return devices


def _connects_directly(client: Client, workers: list[str]) -> bool:
    """Return whether this machine reaches all workers, so that results need no scheduler."""

    async def ask() -> None:
        await asyncio.gather(*(client.rpc(address).identity() for address in workers))

    try:
        client.sync(ask, callback_timeout=DIRECT_CONNECT_TIMEOUT)
    except OSError:
        log.info("results are passed on by the scheduler: this machine does not reach all workers")
        return False
    return True

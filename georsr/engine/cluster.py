"""Cluster: a connection to Dask's workers, started here or running elsewhere."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import dask
from distributed import Client, LocalCluster

from georsr.config import SRConfig
from georsr.device import Placement, place
from georsr.engine.cluster_worker import GPU, Hand, abilities, software
from georsr.engine.flight import ClusterFlight
from georsr.engine.inference import place_model
from georsr.errors import ResourceError, UsageError
from georsr.models.load import Model

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""How long a scheduler may take to answer."""
WORKERS_SECONDS = 30.0
"""How long to wait for the first worker of a scheduler that has none."""
REACH_SECONDS = 3.0
"""How long workers may take to answer, if results are to come straight from them."""
LEAN = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.admin.low-level-log-length": 0,
}
"""Of Dask, what a cluster of our own need not do: watch itself, move results, remember all."""


class Cluster:
    """Workers that understand each other; a context manager.

    Parameters
    ----------
    client
        Connected.
    model, config
        What they are to run, on what device, and with how many threads.
    local
        Number of workers, if they were started on this machine and for this run only.
    """

    def __init__(
        self, client: Client, model: Model, config: SRConfig, local: int | None = None
    ) -> None:
        self._client, self._config, self.local = client, config, local
        self._able: dict[str, bool] = {}
        self.placement, self.gpu = self._agree()
        if place_model(model, replace(config, device="cpu", precision="fp32")).backend != "torch":
            self.placement, self.gpu = place_model(model, config), False

    def _agree(self) -> tuple[Placement, bool]:
        """Where all workers compute, and whether they need a GPU for it.

        Raises
        ------
        ResourceError, UsageError
            They lack georsr or a GPU, or would not compute alike.
        """
        self._same_software_at_scheduler()
        found = self._abilities()
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

    def _same_software_at_scheduler(self) -> None:
        try:
            there = self._client.run_on_scheduler(software)
        except ImportError as error:
            raise ResourceError(
                f"the scheduler cannot import georsr ({error}); start it in the same environment"
            ) from error
        _check_software("the scheduler", there)

    def _abilities(self) -> dict[str, Any]:
        """Worker -> what it can do."""
        config = self._config
        found = self._client.run(abilities, config.device, config.precision, on_error="return")
        for name, able in found.items():
            if isinstance(able, ImportError):
                raise ResourceError(
                    f"worker {name}: cannot import georsr ({able}); start workers in the same "
                    "environment"
                ) from able
            if isinstance(able, Exception):
                raise ResourceError(f"worker {name}: {able}") from able
        self._client.direct_to_workers = _reaches(self._client, list(found))
        return dict(found)

    def count(self) -> int:
        """Workers that can be asked now."""
        addresses = list(self._client.nthreads())
        if set(addresses) - set(self._able):
            self._able |= {
                name: able["gpu"] or not self.gpu for name, able in self._abilities().items()
            }
        return sum(self._able.get(name, True) for name in addresses)

    @property
    def config(self) -> SRConfig:
        """The options as workers are to understand them."""
        config, device = self._config, str(self.placement.device)
        config = replace(config, device=device, precision=self.placement.precision)
        if self.local and config.jobs is None:
            config = replace(config, jobs=max(1, processors() // self.local))
        return config

    def flight(self, hand: Hand, look: Callable[[], None]) -> ClusterFlight:
        """Begin a run; use it in a ``with`` statement."""
        run = f"georsr-{secrets.token_hex(6)}"
        return ClusterFlight(self._client, run, hand, gpu=self.gpu, look=look, count=self.count)


def _reaches(client: Client, workers: list[str]) -> bool:
    """Whether results can come straight from all workers, and spare the scheduler."""

    async def ask() -> None:
        await asyncio.gather(*(client.rpc(address).identity() for address in workers))

    try:
        client.sync(ask, callback_timeout=REACH_SECONDS)
    except (OSError, TimeoutError):
        log.info("results come by way of the scheduler: this machine does not reach all workers")
        return False
    return True


def _check_software(who: str, there: dict[str, str]) -> None:
    for name, expected in software().items():
        if there[name] != expected:
            raise ResourceError(
                f"{who}: has {name} {there[name]}, expected {expected}; install the same versions "
                "on all machines"
            )


def processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def open_cluster(
    model: Model, config: SRConfig, workers: int | None = None, scheduler: str | None = None
) -> Iterator[Cluster]:
    """Start workers on this machine, or connect to those of a scheduler.

    Parameters
    ----------
    model, config
        What workers compute, where and how.
    workers
        How many processes to start; they end with the context.
    scheduler
        Address of a running scheduler, such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    UsageError
        Both are given, or an address that is none.
    ResourceError
        There is no scheduler at the address, or it has no worker; workers cannot be started;
        they differ from each other or from this process.
    """
    if workers is not None and scheduler is not None:
        raise UsageError("--workers and --scheduler: give one of them")
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        if scheduler is not None:
            client = stack.enter_context(_connect(scheduler))
            _await_worker(client, scheduler)
        else:
            assert workers is not None, "one of the two is given"
            local = stack.enter_context(_start(workers, config))
            client = stack.enter_context(
                Client(local, direct_to_workers=True, set_as_default=False)
            )
        link = client.dashboard_link if scheduler or find_spec("bokeh") else ""
        if link:
            log.warning("Dashboard: %s", link)
        yield Cluster(client, model, config, workers)


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"--scheduler {address}: expected an address such as tcp://10.0.0.1:8786 ({error})"
        ) from error
    except (OSError, TimeoutError) as error:
        raise ResourceError(
            f"--scheduler {address}: does not answer within {CONNECT_SECONDS:.0f} s; is it "
            "running, and may this machine reach it?"
        ) from error
    with client:
        yield client


def _await_worker(client: Client, address: str) -> None:
    if not client.nthreads():
        log.warning("%s has no workers yet: waiting for one", address)
        try:
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except TimeoutError as error:
            raise ResourceError(
                f"--scheduler {address}: has no workers, after {WORKERS_SECONDS:.0f} s; start some "
                f"with: dask worker {address} --nthreads 1"
            ) from error


@contextmanager
def _start(workers: int, config: SRConfig) -> Iterator[LocalCluster]:
    """Worker processes of our own; after an error they are killed, since nobody waits for them."""
    wanted = config.device.partition(":")[0]
    gpu = wanted in ("auto", "cuda") and place(config.device, "fp32").device.type == "cuda"
    try:
        with dask.config.set(LEAN):
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # None would be port 8787 of all interfaces
                memory_limit=0,  # Dask would pause and kill by shares of it; `check_memory` asked
                resources={GPU: 1} if gpu else None,
                preload=["georsr.engine.cluster_worker"],
                silence_logs=logging.CRITICAL,
            )
    except (OSError, RuntimeError, TimeoutError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            f"--workers {workers}: cannot be started: {text}; a script that calls georsr does so "
            'under `if __name__ == "__main__":`'
        ) from error
    with cluster:
        try:
            yield cluster
        except BaseException:
            for nanny in cluster.workers.values():
                nanny.auto_restart = False
                with suppress(Exception):
                    os.kill(nanny.pid, 9)
            raise


@contextmanager
def _quiet() -> Iterator[None]:
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

"""Cluster: a connection to Dask's workers, started here or running elsewhere."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Self

from distributed import Client, Security

from georsr.config import SRConfig
from georsr.device import Placement, place
from georsr.engine.cluster_flight import ClusterFlight
from georsr.engine.cluster_members import connected, quiet, started
from georsr.engine.cluster_worker import GPU, Hand, abilities, software
from georsr.engine.inference import place_model
from georsr.engine.job import Job
from georsr.errors import ResourceError, UsageError
from georsr.machine import processors
from georsr.models.load import Model

log = logging.getLogger(__name__)

REACH_SECONDS = 3.0
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
        self.placement, self.gpu = self._alone()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.push(self.__exit__)
            if self.local is None:
                self.join()
            undo.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def join(self) -> Client:
        """Connect to the workers, if that has not been done; they are started now, if need be.

        Raises
        ------
        ResourceError, UsageError
            They cannot be started, lack georsr or a GPU, or would not compute alike.
        """
        if self._client is None:
            self._stack.enter_context(quiet())
            self._client = self._stack.enter_context(self._members(self.gpu))
            if self.local is None and (link := self._client.dashboard_link):
                log.warning("Dashboard: %s", link)
            placement, gpu = self._agree(self._client)
            if self.placement.backend == "torch":
                self.placement, self.gpu = placement, gpu
        return self._client

    def _alone(self) -> tuple[Placement, bool]:
        """Where workers of this machine compute, and whether they need a GPU for it."""
        model, config = self._model, self._config
        if place_model(model, replace(config, device="cpu", precision="fp32")).backend != "torch":
            return place_model(model, config), False
        if self.local is None:
            return place("cpu", "fp32"), False  # until they have been asked
        wanted = config.device.partition(":")[0]
        gpu = wanted in ("auto", "cuda") and place(config.device, "fp32").device.type == "cuda"
        device = "cpu" if config.device == "auto" and not gpu else config.device
        return place(device, config.precision), gpu

    def _agree(self, client: Client) -> tuple[Placement, bool]:
        """Where all workers compute, and whether they need a GPU for it.

        Raises
        ------
        ResourceError, UsageError
            They lack georsr or a GPU, or would not compute alike.
        """
        _same_software_at_scheduler(client)
        found = self._abilities(client)
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

    def _abilities(self, client: Client) -> dict[str, Any]:
        """Worker -> what it can do; without those that do not answer, as the dead do not."""
        config = self._config
        found = client.run(abilities, config.device, config.precision, on_error="return")
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
        client.direct_to_workers = _reaches(client, list(found))
        return dict(found)

    def count(self) -> int:
        """Workers that can be asked now, or are to be started."""
        if self._client is None:
            return self.local or 0
        addresses = list(self._client.nthreads())
        if set(addresses) - set(self._able):
            found = self._abilities(self._client)
            self._able |= {name: able["gpu"] or not self.gpu for name, able in found.items()}
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
        client, run = self.join(), f"georsr-{secrets.token_hex(6)}"
        return ClusterFlight(client, run, hand, gpu=self.gpu, look=look, count=self.count)


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


def as_worker(job: Job, cluster: Cluster) -> Job:
    """A job as a worker carries it out: by one thread, unless the options say otherwise."""
    config = cluster.config
    return replace(job, config=replace(config, jobs=config.jobs or 1))


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
        cluster = Cluster(lambda gpu: connected(scheduler, security, stopped), model, config)
    else:
        assert workers is not None, "one of the two is given"
        count = workers
        cluster = Cluster(lambda gpu: started(count, gpu=gpu), model, config, count)
    with cluster:
        yield cluster

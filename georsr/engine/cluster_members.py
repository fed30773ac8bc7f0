"""Members: Dask's workers, started here for one run, or those of a scheduler that runs already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dask
from distributed import Client, LocalCluster

from georsr.engine.cluster_worker import GPU
from georsr.errors import ResourceError, UsageError

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""How long a scheduler may take to answer."""
WORKERS_SECONDS = 30.0
"""How long to wait for the first worker of a scheduler that has none."""
UNSTARTED = (OSError, RuntimeError, TimeoutError)
"""What Dask raises if a worker of ours does not come up."""
SPAWN = {"distributed.worker.multiprocessing-method": "spawn"}
"""Whatever a user's configuration of Dask says: of workers that are forked at the same moment each
may inherit the other's end of the pipe by which it learns that its client is gone, and then both
outlive it; and torch's threads are not there after a fork."""
LEAN = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.admin.low-level-log-length": 0,
}
"""Of Dask, what a cluster of our own need not do: watch itself, move results, remember all."""


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """Connected to a running scheduler that has a worker.

    Raises
    ------
    UsageError
        The address is none.
    ResourceError
        There is no scheduler at it, or it has no worker.
    """
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
        _await_worker(client, address)
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
def started(workers: int, *, gpu: bool) -> Iterator[Client]:
    """Connected to worker processes of our own; after an error they are killed, not waited for.

    If one dies while it starts, all are started once more.

    Raises
    ------
    ResourceError
        They cannot be started.
    """
    with (
        dask.config.set(SPAWN),  # all the time: workers that die are started again
        _cluster(workers, gpu=gpu) as cluster,
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


def _cluster(workers: int, *, gpu: bool) -> LocalCluster:
    try:
        try:
            return _local(workers, gpu=gpu)
        except UNSTARTED:
            return _local(workers, gpu=gpu)
    except UNSTARTED as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            f"--workers {workers}: cannot be started: {text}; a script that calls georsr does so "
            'under `if __name__ == "__main__":`'
        ) from error


def _local(workers: int, *, gpu: bool) -> LocalCluster:
    with dask.config.set(LEAN):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # None would be port 8787 of all interfaces
            memory_limit=0,  # Dask would pause and kill by shares of it; `check_memory` asked
            resources={GPU: 1} if gpu else None,
            preload=["georsr.engine.cluster_worker"],
            silence_logs=logging.CRITICAL,
        )


@contextmanager
def quiet() -> Iterator[None]:
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

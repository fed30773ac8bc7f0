"""Members: Dask's workers, started here for one run, or those of a scheduler that runs already."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import dask
from distributed import Client, LocalCluster, Security

from georsr.engine.cluster_address import SchedulerAddress, scheduler_address
from georsr.engine.cluster_worker import GPU, first_line
from georsr.errors import InterruptedRunError, ResourceError

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""How long a scheduler may take to answer."""
WORKERS_SECONDS = 30.0
"""How long to wait for the first worker of a scheduler that has none."""
POLL_SECONDS = 0.1
"""How often somebody who waits looks whether he is still wanted."""
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
def connected(
    address: str, security: Security | None, stopped: Callable[[], bool]
) -> Iterator[Client]:
    """Connected to a running scheduler that has a worker.

    Parameters
    ----------
    address, security
        As for `georsr.engine.cluster_address.scheduler_address`.
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
    if not scheduler.reach(CONNECT_SECONDS, given_up):
        log.warning(
            "WARNING: %s is not encrypted: whoever reaches it, or is between, can run code as you "
            "on this machine and on all workers; use tls:// unless you trust that whole network",
            scheduler.address,
        )
    try:
        return RemoteClient(
            scheduler.address,
            timeout=CONNECT_SECONDS,
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
    until = time.monotonic() + 3 * CONNECT_SECONDS  # an answer, and two of Dask's own
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
                    f"{3 * CONNECT_SECONDS:.0f} s; is it one, of the same version of Dask?"
                )
    except BaseException:
        given_up.set()
        result.add_done_callback(lambda late: late.exception() or late.result().close())
        raise
    return result.result()


def _look(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise InterruptedRunError("interrupted")


def _await_worker(client: Client, address: str, stopped: Callable[[], bool]) -> None:
    if client.nthreads():
        return
    log.warning("%s has no workers yet: waiting for one", address)
    until = time.monotonic() + WORKERS_SECONDS
    while not client.nthreads():
        _look(stopped)
        if time.monotonic() > until:
            raise ResourceError(
                f"--scheduler {address}: has no workers, after {WORKERS_SECONDS:.0f} s; start some "
                f"with: dask worker {address} --nthreads 1"
            )
        time.sleep(POLL_SECONDS)


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
        except UNSTARTED:
            return _local(workers, folder, security, gpu=gpu)
    except (ImportError, ValueError) as error:  # no cryptography; a version of TLS that is none
        raise ResourceError(f"--workers {workers}: cannot be started: {error}") from error
    except UNSTARTED as error:
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
    with dask.config.set({**LEAN, "temporary-directory": folder}):
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
            preload=["georsr.engine.cluster_worker"],
            config=LEAN,  # of workers that are started again, too
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

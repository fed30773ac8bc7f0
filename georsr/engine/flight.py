"""Flight: pieces of a run that are under way, on a cluster or here; few enough for any memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

from distributed import Client, Future, KilledWorker, as_completed

from georsr.engine.cluster_worker import GPU, Hand, RunPlugin, examine, work
from georsr.errors import GeorsrError, ResourceError

POLL_SECONDS = 0.1
"""How often somebody who waits looks whether he is still wanted."""
CHECK_SECONDS = 5.0
"""How often the number of workers is asked for."""
ALONE_SECONDS = 60.0
"""How long a run goes on waiting once there is no worker left."""


class Flight(Protocol):
    """Pieces go out by number, and come back in any order."""

    machines: int
    """How many pieces can be done at once."""
    running: int
    """Pieces that went out and have not come back."""

    def send(self, number: int, piece: Any) -> None:
        """Have a piece done."""

    def land(self) -> tuple[int, Any]:
        """Number and result of a piece that is done; waits for one."""


class LocalFlight:
    """Pieces are done here, one after the other, when they are asked for.

    Parameters
    ----------
    hand
        Does them.
    stopped
        Whether to end.
    """

    machines = 1

    def __init__(self, hand: Hand, stopped: Callable[[], bool]) -> None:
        self._hand, self._stopped = hand, stopped
        self._waiting: deque[tuple[int, Any]] = deque()

    @property
    def running(self) -> int:
        """Pieces that wait."""
        return len(self._waiting)

    def send(self, number: int, piece: Any) -> None:
        """Keep a piece in mind."""
        self._waiting.append((number, piece))

    def land(self) -> tuple[int, Any]:
        """Do the next piece."""
        number, piece = self._waiting.popleft()
        return number, self._hand(piece, self._stopped)


class ClusterFlight:
    """Pieces are done by Dask's workers; a context manager, after which nobody works any more.

    What a worker was doing when it died is done again by another one.

    Parameters
    ----------
    client
        Connected.
    run
        A name no other run has.
    hand
        Does the pieces; sent to every worker.
    gpu
        Only workers that offer a GPU are asked.
    look
        Called again and again; what it raises ends the flight.
    count
        How many workers can be asked.
    """

    def __init__(
        self,
        client: Client,
        run: str,
        hand: Hand,
        *,
        gpu: bool,
        look: Callable[[], None],
        count: Callable[[], int],
    ) -> None:
        self._client, self._run, self._hand = client, run, hand
        self._resources = {GPU: 1} if gpu else None
        self._look, self._count = look, count
        self._pieces: dict[Future, tuple[int, Any]] = {}
        self._landed: deque[tuple[Future, Any]] = deque()
        self._completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
        self._checked = self._seen = time.monotonic()
        self.machines = max(1, count())

    def __enter__(self) -> Self:
        self._client.register_plugin(RunPlugin(self._run, self._hand), name=self._run)
        for outcome in self._client.run(examine, self._run, on_error="return").values():
            if outcome is not None:
                self.__exit__(None, None, None)
                raise ResourceError(str(outcome))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(Exception):  # the scheduler may be gone, and everything with it
            if self._pieces:
                self._client.cancel(list(self._pieces), force=True)
            self._client.unregister_worker_plugin(self._run)

    @property
    def running(self) -> int:
        """Pieces that went out and have not come back."""
        return len(self._pieces)

    def send(self, number: int, piece: Any) -> None:
        """Submit a piece."""
        future = self._client.submit(
            work,
            self._run,
            piece,
            key=(self._run, number),
            pure=False,
            resources=self._resources,
        )
        self._pieces[future] = number, piece
        self._completed.add(future)

    def land(self) -> tuple[int, Any]:
        """Number and result of a piece that is done; waits for one.

        Raises
        ------
        GeorsrError
            What a worker raised; or pieces cannot be done, because workers die of them or all
            are gone.
        """
        while not self._landed:
            self._look()
            with self._completed.thread_condition:
                if not self._completed.has_ready():
                    self._completed.thread_condition.wait(POLL_SECONDS)
            self._landed.extend(self._completed.next_batch(block=False))
            self._check()
        future, result = self._landed.popleft()
        number, piece = self._pieces.pop(future)
        if future.status != "finished":
            raise _failure(piece, future.status, result)
        future.release()
        return number, result

    def _check(self) -> None:
        """See now and then whether there is still anybody to wait for."""
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        try:
            count = self._count()
        except (OSError, TimeoutError, ValueError) as error:
            raise _lost() from error
        if count:
            self._seen, self.machines = now, count
        elif now - self._seen > ALONE_SECONDS:
            raise ResourceError(
                f"the cluster has no workers any more, for {now - self._seen:.0f} s now; "
                "start some and give the same command again"
            )


def _lost() -> ResourceError:
    return ResourceError(
        "the connection to Dask's scheduler is lost; give the same command again once it is back"
    )


def _failure(piece: Any, status: str, result: Any) -> Exception:
    """What to raise for a piece that came back without a result."""
    error = result[1] if isinstance(result, tuple) else result
    if isinstance(error, GeorsrError):
        return error
    if isinstance(error, KilledWorker):
        made: Exception = ResourceError(
            f"{piece} of the product: {error.allowed_failures + 1} workers died one after the "
            f"other while they worked on it (the last one was {_address(error.last_worker)}), most "
            "likely for lack of memory; give workers more, or use a smaller --tile"
        )
    elif status == "cancelled":
        made = _lost()
    else:
        text = (str(error).splitlines() or [""])[0]
        made = ResourceError(
            f"{piece} of the product: a worker failed with {type(error).__name__}: {text}"
        )
    made.__cause__ = error
    return made


def _address(worker: Any) -> str:
    return str(getattr(worker, "address", worker))

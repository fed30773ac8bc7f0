"""Flight: pieces of a run that are under way, on a cluster or here; few enough for any memory.

Flight on a cluster: tasks of Dask, told apart from the pieces of a run that they are made of.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from itertools import count as numbers
from types import TracebackType
from typing import Any, Protocol, Self

from distributed import Client, Future, KilledWorker, as_completed

from georsr.distributed.worker import (
    GPU,
    TASK_SECONDS,
    Done,
    RunPlugin,
    WorkerTask,
    check_worker,
    first_line,
    with_location,
    work,
)
from georsr.errors import GeorsrError, ModelError, ResourceError

PREFETCH_TASKS = 2
"""Tasks under way for each worker: the next one is there when one is done."""
MIN_FREE_FRACTION = 4
"""Of so many workers one has to be done before results come and pieces go out again: many in one
message cost much less than each alone, and the others still have their next one."""

IndexedTask = tuple[int, Any]
"""A piece and its number."""


class TaskQueue(Protocol):
    """Pieces go out by number, and come back in any order."""

    machines: int
    """How many pieces can be done at once."""

    @property
    def batch_size(self) -> int:
        """How many pieces make up a task: more than one where they are quick."""

    @property
    def in_flight(self) -> int:
        """Pieces that went out and have not come back."""

    @property
    def tasks(self) -> int:
        """In how many tasks these are."""

    def submit(self, pieces: Sequence[IndexedTask]) -> None:
        """Have pieces done."""

    def next_completed(self) -> tuple[int, Any]:
        """Number and result of a piece that is done; waits for one."""


def free_slots(flight: TaskQueue, most: float = math.inf) -> int:
    """How many pieces to send now: none, or as many as make it worth while.

    Parameters
    ----------
    flight
        That is to take them.
    most
        Pieces that may be under way.
    """
    wanted = int(min(PREFETCH_TASKS * flight.machines * flight.batch_size, most))
    slots = PREFETCH_TASKS * flight.machines - flight.tasks
    free = min(slots * flight.batch_size, wanted - flight.in_flight)
    return free if free >= max(1, wanted // (PREFETCH_TASKS * MIN_FREE_FRACTION)) else 0


class LocalQueue:
    """Pieces are done here, one after the other, when they are asked for.

    Parameters
    ----------
    hand
        Does them.
    stopped
        Whether to end.
    """

    machines = batch_size = 1

    def __init__(self, hand: WorkerTask, stopped: Callable[[], bool]) -> None:
        self._hand, self._stopped = hand, stopped
        self._waiting = deque[IndexedTask]()

    @property
    def in_flight(self) -> int:
        """Pieces that wait."""
        return len(self._waiting)

    tasks = in_flight

    def submit(self, pieces: Sequence[IndexedTask]) -> None:
        """Keep pieces in mind."""
        self._waiting.extend(pieces)

    def next_completed(self) -> tuple[int, Any]:
        """Do the next piece."""
        number, piece = self._waiting.popleft()
        try:
            return number, self._hand(piece, self._stopped)
        except (ModelError, ResourceError) as error:
            raise with_location(error, f"{piece} of the product") from error


POLL_SECONDS = 0.1
"""How often somebody who waits looks whether he is still wanted."""
CHECK_SECONDS = 5.0
"""How often the number of workers is asked for."""
NO_WORKER_TIMEOUT = 60.0
"""How long a run goes on waiting once there is no worker left."""
MAX_ATTEMPTS = 5
"""To tell all workers something, of whom one may have died a moment ago."""
BATCH_WAIT_SECONDS = 0.05
"""How long results wait for others to come with them."""
MAX_BATCH = 16
"""Of a task, however quick they are."""


class DaskQueue:
    """Pieces are done by Dask's workers; a context manager, after which nobody works any more.

    What a worker was doing when it died is done again by another one. Tasks with which workers died
    again and again are tried piece by piece, each alone, so that the one they died of is told and
    not one that was waiting behind it. Quick pieces go out several
    in one task, since each task costs scheduler and client about a millisecond; one that took long
    ends its task, and those after it go out again alone.

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
        hand: WorkerTask,
        *,
        gpu: bool,
        look: Callable[[], None],
        count: Callable[[], int],
    ) -> None:
        self._client, self._run, self._hand = client, run, hand
        self._resources = {GPU: 1} if gpu else None
        self._look, self._count = look, count
        self._tasks: dict[Future[Any], list[IndexedTask]] = {}
        self._under_way = 0
        self._came_back = False
        self._names = numbers()
        self._failed_tasks, self._waiting = deque[IndexedTask](), list[IndexedTask]()
        self._retrying: Future[Any] | None = None
        self._landed = deque[IndexedTask]()
        self._pace = TASK_SECONDS
        self._completed = as_completed(loop=client.loop)
        self._gatherer = ThreadPoolExecutor(1, "georsr-gather")
        self._checked = self._seen = time.monotonic()
        self.machines = max(1, count())

    def __enter__(self) -> Self:
        try:
            self._register_plugin()
            for outcome in self._client.run(check_worker, self._run, on_error="return").values():
                if outcome is not None and not isinstance(outcome, OSError):
                    raise ResourceError(str(outcome))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _register_plugin(self) -> None:
        """Give the run to all workers; if one dies meanwhile, to those that are left."""
        for attempt in range(MAX_ATTEMPTS):
            try:
                plugin = RunPlugin(self._run, self._hand)
                self._client.register_plugin(plugin, name=self._run)
                return
            except OSError as error:
                failure = error
                time.sleep(attempt * POLL_SECONDS)
        raise _lost() from failure

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(Exception):  # the scheduler may be gone, and everything with it
            self._gatherer.shutdown(wait=False, cancel_futures=True)
            if self._tasks:
                self._client.cancel(list(self._tasks), force=True)
            self._client.unregister_worker_plugin(self._run)

    @property
    def in_flight(self) -> int:
        """Pieces that went out and have not come back."""
        return self._under_way

    @property
    def tasks(self) -> int:
        """In how many tasks these are; but for results that are here already."""
        return len(self._tasks)

    @property
    def batch_size(self) -> int:
        """Pieces that make up a task: as many as are done in `TASK_SECONDS`."""
        return max(1, min(MAX_BATCH, int(TASK_SECONDS / max(self._pace, 1e-6))))

    def submit(self, pieces: Sequence[IndexedTask]) -> None:
        """Submit pieces, in one message: as few to a task as keep all workers busy."""
        if not pieces:
            return
        self._under_way += len(pieces)
        if self._failed_tasks or self._retrying is not None:
            self._waiting.extend(pieces)
        else:
            self._share(pieces)

    def _share(self, pieces: Sequence[IndexedTask]) -> None:
        free = max(1, PREFETCH_TASKS * self.machines - self.tasks)
        size = min(self.batch_size, math.ceil(len(pieces) / free))
        self._submit([list(pieces[i : i + size]) for i in range(0, len(pieces), size)])

    def _submit(self, tasks: list[list[IndexedTask]], priority: int = 0) -> list[Future[Any]]:
        futures = self._client.map(
            work,
            [self._run] * len(tasks),
            [[piece for _, piece in task] for task in tasks],
            key=[(self._run, next(self._names)) for _ in tasks],
            pure=False,
            priority=priority,
            resources=self._resources,
        )
        self._tasks.update(zip(futures, tasks, strict=True))
        self._completed.update(futures)
        return list(futures)

    def next_completed(self) -> tuple[int, Any]:
        """Number and result of a piece that is done; waits for one.

        Raises
        ------
        GeorsrError
            What a worker raised; or pieces cannot be done, because workers die of them or all
            are gone.
        """
        while not self._landed:
            self._look()
            self._fetch([future for future in self._done() if not self._is_failed(future)])
            self._retry_singly()
            self._check()
        self._under_way -= 1
        self._came_back = True
        return self._landed.popleft()

    def _done(self) -> list[Future[Any]]:
        """Tasks that have come to an end; waits a while for one, and a moment for others."""
        with self._completed.thread_condition:
            if not self._completed.has_ready():
                self._completed.thread_condition.wait(POLL_SECONDS)
        done: list[Future[Any]] = self._completed.next_batch(block=False)
        until = time.monotonic() + BATCH_WAIT_SECONDS
        while 0 < len(done) < self.machines // MIN_FREE_FRACTION and time.monotonic() < until:
            time.sleep(BATCH_WAIT_SECONDS / 5)
            done += self._completed.next_batch(block=False)
        return done

    def _is_failed(self, future: Future[Any]) -> bool:
        """Whether workers died with a task: of it, or of one that was with it on the worker."""
        if future.status != "error" or future is self._retrying:
            return False
        if not isinstance(future.exception(), KilledWorker):
            return False
        self._failed_tasks.extend(self._tasks.pop(future))
        future.release()
        return True

    def _retry_singly(self) -> None:
        """Send suspects again, each while nothing else is under way; then what waited for that."""
        if self._retrying not in self._tasks:
            self._retrying = None
        if self._tasks:
            return
        if self._failed_tasks:
            (self._retrying,) = self._submit([[self._failed_tasks.popleft()]])
        elif self._waiting:
            pieces, self._waiting = self._waiting, []
            self._share(pieces)

    def _fetch(self, futures: list[Future[Any]]) -> None:
        """Bring results here, all in one go."""
        for future in futures:
            if future.status in ("error", "cancelled"):
                raise self._failure(future)
        if not futures:
            return
        # results of a worker that has died meanwhile are made again: that can take its time
        results = self._gatherer.submit(self._client.gather, futures)
        while not results.done():
            self._look()
            self._check()
            with suppress(TimeoutError):
                results.exception(POLL_SECONDS)
        if (error := results.exception()) is not None:
            lost = isinstance(error, (CancelledError, OSError))
            raise _lost() if lost else self._translated(error, futures[0])
        for future, done in zip(futures, results.result(), strict=True):
            self._take(self._tasks.pop(future), done)
            future.release()

    def _take(self, pieces: list[IndexedTask], done: Done) -> None:
        """Note the results of a task; what it left goes out again, before all else."""
        results, seconds = done
        self._landed.extend(
            (number, result) for (number, _), result in zip(pieces, results, strict=False)
        )
        self._pace += (seconds / len(results) - self._pace) / 4
        if left := pieces[len(results) :]:
            self._submit([[numbered] for numbered in left], priority=1)

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
        elif now - self._seen > NO_WORKER_TIMEOUT:
            raise ResourceError(
                f"the cluster has no workers any more, for {now - self._seen:.0f} s now; "
                "start some and give the same command again"
            )

    def _failure(self, future: Future[Any]) -> BaseException:
        """What to raise for a task that came back without a result."""
        if future.status == "cancelled":
            return _lost()
        return self._translated(future.exception(), future)

    def _translated(self, error: BaseException, future: Future[Any]) -> BaseException:
        if self._came_back and type(error).__name__ == "TileTooLargeError":
            return ResourceError(f"{error}; other workers have memory enough: do without this one")
        if isinstance(error, GeorsrError):
            return error
        pieces = {task.key: task_pieces[0][1] for task, task_pieces in self._tasks.items()}
        piece = pieces[future.key]
        made: Exception = ResourceError(
            f"{piece} of the product: a worker failed with {first_line(error)}"
        )
        if isinstance(error, KilledWorker):
            made = ResourceError(
                f"{pieces.get(error.task, piece)} of the product: {error.allowed_failures + 1} "
                "workers died one after the other while they worked on it (the last one was "
                f"{_address(error.last_worker)}), most likely for lack of memory; give workers "
                "more, or use a smaller --tile"
            )
        made.__cause__ = error
        return made


def _lost() -> ResourceError:
    return ResourceError(
        "the connection to Dask's scheduler is lost; give the same command again once it is back"
    )


def _address(worker: Any) -> str:
    return str(getattr(worker, "address", worker))

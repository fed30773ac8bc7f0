"""Flight on a cluster: tasks of Dask, told apart from the pieces of a run that they are made of."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from itertools import count as numbers
from types import TracebackType
from typing import Any, Self

from distributed import Client, Future, KilledWorker, as_completed

from georsr.engine.cluster_worker import (
    GPU,
    TASK_SECONDS,
    Done,
    Hand,
    RunPlugin,
    examine,
    first_line,
    work,
)
from georsr.engine.flight import AHEAD, TOGETHER, Numbered
from georsr.errors import GeorsrError, ResourceError

POLL_SECONDS = 0.1
"""How often somebody who waits looks whether he is still wanted."""
CHECK_SECONDS = 5.0
"""How often the number of workers is asked for."""
ALONE_SECONDS = 60.0
"""How long a run goes on waiting once there is no worker left."""
ATTEMPTS = 5
"""To tell all workers something, of whom one may have died a moment ago."""
LINGER_SECONDS = 0.05
"""How long results wait for others to come with them."""
MOST_PIECES = 16
"""Of a task, however quick they are."""


class ClusterFlight:
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
        hand: Hand,
        *,
        gpu: bool,
        look: Callable[[], None],
        count: Callable[[], int],
    ) -> None:
        self._client, self._run, self._hand = client, run, hand
        self._resources = {GPU: 1} if gpu else None
        self._look, self._count = look, count
        self._tasks: dict[Future[Any], list[Numbered]] = {}
        self._under_way = 0
        self._came_back = False
        self._names = numbers()
        self._suspects, self._waiting = deque[Numbered](), list[Numbered]()
        self._alone: Future[Any] | None = None
        self._landed = deque[Numbered]()
        self._pace = TASK_SECONDS
        self._completed = as_completed(loop=client.loop)
        self._gatherer = ThreadPoolExecutor(1, "georsr-gather")
        self._checked = self._seen = time.monotonic()
        self.machines = max(1, count())

    def __enter__(self) -> Self:
        try:
            self._introduce()
            for outcome in self._client.run(examine, self._run, on_error="return").values():
                if outcome is not None and not isinstance(outcome, OSError):
                    raise ResourceError(str(outcome))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _introduce(self) -> None:
        """Give the run to all workers; if one dies meanwhile, to those that are left."""
        for attempt in range(ATTEMPTS):
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
    def running(self) -> int:
        """Pieces that went out and have not come back."""
        return self._under_way

    @property
    def tasks(self) -> int:
        """In how many tasks these are; but for results that are here already."""
        return len(self._tasks)

    @property
    def together(self) -> int:
        """Pieces that make up a task: as many as are done in `TASK_SECONDS`."""
        return max(1, min(MOST_PIECES, int(TASK_SECONDS / max(self._pace, 1e-6))))

    def send(self, pieces: Sequence[Numbered]) -> None:
        """Submit pieces, in one message: as few to a task as keep all workers busy."""
        if not pieces:
            return
        self._under_way += len(pieces)
        if self._suspects or self._alone is not None:
            self._waiting.extend(pieces)
        else:
            self._share(pieces)

    def _share(self, pieces: Sequence[Numbered]) -> None:
        free = max(1, AHEAD * self.machines - self.tasks)
        size = min(self.together, math.ceil(len(pieces) / free))
        self._submit([list(pieces[i : i + size]) for i in range(0, len(pieces), size)])

    def _submit(self, tasks: list[list[Numbered]], priority: int = 0) -> list[Future[Any]]:
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
            self._fetch([future for future in self._done() if not self._suspected(future)])
            self._investigate()
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
        until = time.monotonic() + LINGER_SECONDS
        while 0 < len(done) < self.machines // TOGETHER and time.monotonic() < until:
            time.sleep(LINGER_SECONDS / 5)
            done += self._completed.next_batch(block=False)
        return done

    def _suspected(self, future: Future[Any]) -> bool:
        """Whether workers died with a task: of it, or of one that was with it on the worker."""
        if future.status != "error" or future is self._alone:
            return False
        if not isinstance(future.exception(), KilledWorker):
            return False
        self._suspects.extend(self._tasks.pop(future))
        future.release()
        return True

    def _investigate(self) -> None:
        """Send suspects again, each while nothing else is under way; then what waited for that."""
        if self._alone not in self._tasks:
            self._alone = None
        if self._tasks:
            return
        if self._suspects:
            (self._alone,) = self._submit([[self._suspects.popleft()]])
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

    def _take(self, pieces: list[Numbered], done: Done) -> None:
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
        elif now - self._seen > ALONE_SECONDS:
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

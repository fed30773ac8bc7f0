"""Submit tasks to Dask in batches and return their results."""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, wait
from concurrent.futures import Future as Answer
from contextlib import suppress
from functools import partial
from itertools import count, islice
from threading import Thread
from typing import Any, Self, TypeVar

from distributed import Client, Future, KilledWorker, as_completed

from georsr.distributed.worker import BATCH_SECONDS, GPU, RunPlugin, describe_error, run_tasks
from georsr.errors import GeorsrError, ResourceError
from georsr.inference.predictor import TileTooLargeError
from georsr.progress import Timer

log = logging.getLogger(__name__)

PREFETCH_BATCHES = 2
"""Batches in flight for each worker: the next one is there when one is done."""
MIN_FREE_DIVISOR = 8
"""One in so many batches has to be done before more are submitted: many in one message cost
scheduler and client much less than each alone."""
MAX_BATCH_SIZE = 16
"""Tasks of a batch, however quick they are."""
POLL_SECONDS = 0.1
"""Time between two checks for cancellation."""
ANSWER_TIMEOUT = 65.0
"""Time in which scheduler and workers have to answer; long enough for a network that stalls for a
minute."""
EXIT_TIMEOUT = 10.0
"""Time to wait for the end of the tasks that are running when their run ends."""
CHECK_SECONDS = 5.0
"""Time between two counts of the workers."""
NO_WORKER_TIMEOUT = 60.0
"""Time that a run waits for a new worker once there is none left."""
MAX_REGISTRATIONS = 5
"""Attempts to register a plugin, which fail while a worker dies."""

IndexedTask = tuple[int, Any]
"""Index of a task, and the task."""
T = TypeVar("T")


def call_dask(
    call: Callable[[], T],
    check: Callable[[], None],
    timeout: float | None = None,
    silent: str = "Dask's scheduler",
) -> T:
    """Return the result of a function of Dask, called in a thread: most block without a limit.

    Parameters
    ----------
    call
        The function.
    check
        Called again and again; what it raises ends the wait.
    timeout
        Longest time to wait, in seconds; `ANSWER_TIMEOUT` by default.
    silent
        Name of what is asked, for the message.

    Raises
    ------
    ResourceError
        There is no answer in that time.
    """

    def run(answer: Answer[T]) -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    answer = Answer[T]()
    Thread(target=run, args=[answer], name="georsr-dask", daemon=True).start()
    seconds = ANSWER_TIMEOUT if timeout is None else timeout
    deadline = time.monotonic() + seconds
    while not wait([answer], POLL_SECONDS).done:
        check()
        if time.monotonic() > deadline:
            raise ResourceError(
                f"{silent}: no answer within {seconds:.0f} s; it may be frozen or cut off: "
                "restart it, and repeat the command"
            )
    if answer.exception() is not None:
        check()  # an interrupted run does not also say why it failed
    return answer.result()


class TaskQueue:
    """Bounded queue of tasks that are computed by Dask's workers; a context manager.

    A batch of tasks is one task of Dask, since each of those costs scheduler and client about a
    millisecond. What a worker computed when it died is computed again by another one. When too many
    workers died with a batch, its tasks are retried one by one while nothing else is in flight, so
    that the error names the task that kills workers. On exit all tasks are cancelled.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster.
    plugin : RunPlugin
        Plugin that computes the tasks; registered on all workers.
    gpu : bool
        Whether only workers that offer a GPU compute.
    check_cancelled : callable
        Called again and again while results are awaited; what it raises ends the wait.
    count_workers : callable
        Returns the number of workers that can compute.
    """

    def __init__(
        self,
        client: Client,
        plugin: RunPlugin,
        *,
        gpu: bool,
        check_cancelled: Callable[[], None],
        count_workers: Callable[[], int],
    ) -> None:
        self._client, self._plugin = client, plugin
        self._resources = {GPU: 1} if gpu else None
        self._check_cancelled, self._count_workers = check_cancelled, count_workers
        self._batches: dict[Future[Any], list[IndexedTask]] = {}
        self._batch_numbers = count()
        self._completed = as_completed(loop=client.loop)
        self._results = deque[tuple[int, Any]]()
        self._waiting = list[IndexedTask]()
        self._suspicious = deque[IndexedTask]()
        self._retried: Future[Any] | None = None
        self._any_result = False
        self._task_seconds = BATCH_SECONDS
        self._checked = self._last_seen = time.monotonic()
        self._unanswered = False
        self.workers = max(1, call_dask(self._count, check_cancelled))
        self.in_flight = 0
        """Tasks that were submitted and whose results have not been returned."""

    def __enter__(self) -> Self:
        try:
            self._register_plugin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _register_plugin(self) -> None:
        register = partial(self._client.register_plugin, self._plugin, name=self._plugin.name)
        for attempt in range(MAX_REGISTRATIONS):
            try:
                call_dask(register, self._check, math.inf)
                return
            except OSError as error:  # a worker died: the others remain
                failure = error
                time.sleep(attempt * POLL_SECONDS)
        raise _connection_lost() from failure

    def __exit__(self, *_: object) -> None:
        if not self._unanswered or time.monotonic() - self._checked < EXIT_TIMEOUT:
            with suppress(Exception):  # the scheduler may be gone
                call_dask(self._cancel, lambda: None, EXIT_TIMEOUT)

    def _cancel(self) -> None:
        if self._batches:
            self._client.cancel(list(self._batches), force=True)
        self._client.unregister_worker_plugin(self._plugin.name)

    def _check(self) -> None:
        """Raise if the run is cancelled, or if there have been no workers for long."""
        self._check_cancelled()
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked, self._unanswered = now, True
        workers = call_dask(self._count, self._check_cancelled)
        self._unanswered = False
        if workers:
            self._last_seen, self.workers = now, workers
        elif now - self._last_seen > NO_WORKER_TIMEOUT:
            raise ResourceError(
                f"the cluster has had no workers for {now - self._last_seen:.0f} s; start some and "
                "repeat the command"
            )

    def _count(self) -> int:
        try:
            return self._count_workers()
        except Exception as error:  # Dask raises errors of many types here
            raise _connection_lost() from error

    @property
    def batch_size(self) -> int:
        """Number of tasks that take about `BATCH_SECONDS`."""
        return max(1, min(MAX_BATCH_SIZE, int(BATCH_SECONDS / max(self._task_seconds, 1e-6))))

    def free_slots(self, max_in_flight: float = math.inf) -> int:
        """Return how many tasks to submit now, with at most ``max_in_flight`` in flight."""
        capacity = PREFETCH_BATCHES * self.workers
        limit = int(min(capacity * self.batch_size, max_in_flight))
        free = min((capacity - len(self._batches)) * self.batch_size, limit - self.in_flight)
        return free if free >= max(1, limit // MIN_FREE_DIVISOR) else 0

    def map(self, tasks: Iterator[IndexedTask], timer: Timer) -> Iterator[tuple[int, Any]]:
        """Compute all tasks and yield (index, result) as they complete; time the waiting."""
        while True:
            self.submit(list(islice(tasks, self.free_slots())))
            if not self.in_flight:
                return
            with timer.section("network"):
                completed = self.next_completed()
            yield completed

    def submit(self, tasks: Sequence[IndexedTask]) -> None:
        """Submit tasks, in one message."""
        self.in_flight += len(tasks)
        self._waiting.extend(tasks)
        self._submit_waiting()

    def next_completed(self) -> tuple[int, Any]:
        """Wait for a result and return (index of the task, result).

        Raises
        ------
        GeorsrError
            A task failed, workers died of a task, or the cluster is gone.
        """
        while not self._results:
            self._check()
            self._receive(self._wait_completed())
            self._submit_waiting()
        self.in_flight -= 1
        self._any_result = True
        return self._results.popleft()

    def _submit_waiting(self) -> None:
        """Submit what waits; after workers died, one suspicious task at a time."""
        if self._retried in self._batches:
            return
        if self._suspicious:
            if not self._batches:
                (self._retried,) = self._submit_batches([[self._suspicious.popleft()]])
        elif self._waiting:
            free = max(1, PREFETCH_BATCHES * self.workers - len(self._batches))
            size = min(self.batch_size, math.ceil(len(self._waiting) / free))
            tasks, self._waiting = iter(self._waiting), []
            self._submit_batches(list(iter(lambda: list(islice(tasks, size)), [])))

    def _submit_batches(self, batches: list[list[IndexedTask]]) -> list[Future[Any]]:
        futures: list[Future[Any]] = self._client.map(
            run_tasks,
            [self._plugin.name] * len(batches),
            # pickled here, because the scheduler would import what the tasks are made of
            [pickle.dumps([task for _, task in batch]) for batch in batches],
            key=[(self._plugin.name, next(self._batch_numbers)) for _ in batches],
            pure=False,
            resources=self._resources,
        )
        self._batches.update(zip(futures, batches, strict=True))
        self._completed.update(futures)
        return futures

    def _wait_completed(self) -> list[Future[Any]]:
        """Return the batches that are done, after `POLL_SECONDS` at the latest."""
        with self._completed.thread_condition:
            if not self._completed.has_ready():
                self._completed.thread_condition.wait(POLL_SECONDS)
        futures: list[Future[Any]] = self._completed.next_batch(block=False)
        return futures

    def _receive(self, futures: list[Future[Any]]) -> None:
        """Note the results of batches, and the tasks that are to be computed again."""
        finished = []
        for future in futures:
            killed = future.status == "error" and isinstance(future.exception(), KilledWorker)
            # "cancelled" if the scheduler has forgotten it, "lost" or "pending" if it is computed
            # again; all are "cancelled" if the scheduler is gone
            lost = future.status not in ("finished", "error") and self._client.status == "running"
            if future.status == "finished":
                finished.append(future)
            elif lost or (killed and future is not self._retried):
                log.warning("worker lost: its tasks are computed again")
                again = self._suspicious if killed else self._waiting
                again.extend(self._batches.pop(future))
            else:
                raise self._error_of(future)
        for future, result in zip(finished, self._gather(finished), strict=True):
            batch = self._batches.pop(future)
            if result is not None:
                results, seconds = result
                indices = [index for index, _ in batch]
                self._results.extend(zip(indices, results, strict=False))
                self._task_seconds += (seconds / len(results) - self._task_seconds) / 4
                batch = batch[len(results) :]
            self._waiting.extend(batch)

    def _gather(self, futures: list[Future[Any]]) -> Sequence[tuple[list[Any], float] | None]:
        """Fetch results in one message; None for all if one of them is lost with its worker."""

        if not futures:
            return []

        def check() -> None:
            self._check()
            if any(future.status != "finished" for future in futures):
                raise CancelledError  # its worker may be silent: no other answer will come

        try:
            results: list[tuple[list[Any], float]]
            results = call_dask(partial(self._client.gather, futures), check, math.inf)
            return results
        except GeorsrError:
            raise
        except Exception as error:  # Dask raises errors of many types here
            if self._client.status == "running" and isinstance(error, CancelledError | OSError):
                return [None] * len(futures)
            raise _connection_lost() from error

    def _error_of(self, future: Future[Any]) -> GeorsrError:
        """Return what to raise for a batch without a result."""
        error = future.exception() if future.status == "error" else None
        if error is None:
            return _connection_lost()
        if isinstance(error, TileTooLargeError) and self._any_result:
            # smaller tiles would make all that is finished useless
            return ResourceError(
                f"{error}; other workers have enough memory: run without this worker"
            )
        if isinstance(error, GeorsrError):
            return error
        task = self._batches[future][0][1]
        if isinstance(error, KilledWorker):
            last = getattr(error.last_worker, "address", error.last_worker)
            return ResourceError(
                f"{task} of the output: {error.allowed_failures + 1} workers died one after the "
                f"other while they computed it (the last one was {last}), most likely for lack of "
                "memory; give workers more memory, or use a smaller --tile"
            )
        return ResourceError(f"{task} of the output: a worker failed with {describe_error(error)}")


def _connection_lost() -> ResourceError:
    return ResourceError(
        "the connection to Dask's scheduler is lost; repeat the command once it is back"
    )

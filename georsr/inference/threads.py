"""Read ahead, compute in parallel and write in the background, with threads.

The main thread may be interrupted anywhere, by an exception out of a signal handler. `queue.Queue`
then loses wake-ups or keeps its lock (CPython's Condition.notify, gh-92530), and nobody ever ends;
`queue.SimpleQueue` is made for that, but has no bound: who puts looks how much is waiting.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar, TypeVarTuple, cast

from georsr.errors import InterruptedRunError
from georsr.progress import Timer

T = TypeVar("T")
Block = TypeVarTuple("Block")

_POLL_SECONDS = 0.001, 0.02
"""How soon a blocked thread first looks whether there is room, or the other side has gone; and how
long it sleeps at most, looking twice as late every time: a thread that looks a thousand times a
second takes more than a hundredth of a processor from the network."""


class _End:
    """Marks the end of a stream."""


def prefetch(source: Iterator[T], depth: int = 1) -> Generator[T, None, None]:
    """Yield the items of ``source``, produced in a thread at most ``depth`` items ahead.

    An error of the source is raised here, at its place in the stream. Closing the generator (or
    leaving the loop) ends the thread before returning.
    """
    items: queue.SimpleQueue[T | _End | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def put(item: T | _End | BaseException) -> bool:
        pauses = _pauses()
        while items.qsize() >= depth:
            if stop.wait(next(pauses)):
                return False
        items.put(item)
        return not stop.is_set()

    work = partial(_produce, source, put, stop)
    thread = threading.Thread(target=work, name="georsr-reader", daemon=True)
    try:
        thread.start()
        while not isinstance(item := items.get(), _End):
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        _wait_for(thread)


def _produce(
    source: Iterator[T],
    put: Callable[[T | _End | BaseException], bool],
    stop: threading.Event,
) -> None:
    """Put every item into the queue, then the end or the error; runs in the reader thread."""
    if stop.is_set():
        return  # whoever started it was interrupted before it ran, and nobody waited for it
    try:
        for item in source:
            if not put(item):
                return
        put(_End())
    except BaseException as error:
        put(error)


def _pauses() -> Iterator[float]:
    pause, longest = _POLL_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, longest)


def _wait_for(thread: threading.Thread) -> None:
    """Wait until a thread has ended, if it was started."""
    if thread.is_alive():
        thread.join()


class BackgroundWriter(Generic[T]):
    """Passes items to ``consume`` in one thread, in order; at most ``depth`` of them wait.

    An error of the consumer is raised by the next :meth:`put` or on leaving the block; leaving it
    with an error of one's own drops what is waiting.
    """

    def __init__(self, consume: Callable[[T], None], depth: int) -> None:
        self._consume = consume
        self._depth = depth
        self._items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._dropping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="georsr-writer", daemon=True)

    def _run(self) -> None:
        while not isinstance(item := self._items.get(), _End):
            # After an error the queue is still emptied, so that nobody waits for room in it.
            if self._error is None and not self._dropping.is_set():
                try:
                    self._consume(item)
                except BaseException as error:
                    self._error = error

    def put(self, item: T) -> None:
        """Pass on one item; waits while ``depth`` items are waiting."""
        pauses = _pauses()
        while self._items.qsize() >= self._depth:
            time.sleep(next(pauses))
        if self._error is not None:
            raise self._error
        self._items.put(item)

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except BaseException:
            self._items.put(_End())
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._dropping.set()
        self._items.put(_End())
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error


WAITING_BLOCKS = 8
"""Finished blocks that may wait for the writer."""


def write_in_background(
    blocks: Generator[tuple[*Block], None, None], write: Callable[[*Block], None], timer: Timer
) -> None:
    """Write blocks in a thread of its own.

    After an InterruptedRunError in ``blocks``, those before it are still written.

    Parameters
    ----------
    blocks
        Arguments of ``write``, block by block.
    write
        Writes one block.
    timer
        Adds up the seconds that this thread waits for the other.
    """
    interruption: InterruptedRunError | None = None
    with (
        BackgroundWriter[tuple[*Block]](lambda block: write(*block), WAITING_BLOCKS) as writer,
        closing(blocks),
    ):
        try:
            for block in blocks:
                with timer.section("write"):
                    writer.put(block)
        except InterruptedRunError as error:
            interruption = error
    if interruption is not None:
        raise interruption


class OrderedThreadPool:
    """Threads that run calls at the same time.

    Leaving the block waits for the calls that have begun and drops the others; by SystemExit it
    waits for none, since the process is to end.

    Parameters
    ----------
    count
        Threads; with one, the caller makes every call itself, at once.
    enter
        Called by each thread before its first call.
    """

    def __init__(self, count: int, enter: Callable[[], None]) -> None:
        self._enter = enter
        self._calls: queue.SimpleQueue[Callable[[], None] | _End] = queue.SimpleQueue()
        self._dropping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"georsr-lane-{i}", daemon=True)
            for i in range(count if count > 1 else 0)
        ]

    def _run(self) -> None:
        self._enter()
        while not isinstance(call := self._calls.get(), _End):
            if not self._dropping.is_set():
                call()

    def submit(self, work: Callable[[], T]) -> Callable[[], T]:
        """Start a call as soon as a thread is free.

        Returns
        -------
        callable
            Waits for the call and returns its result, or raises its error. To be called once.
        """
        if not self._threads:
            made = work()
            return lambda: made
        answer: queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]]
        answer = queue.SimpleQueue()

        def call() -> None:
            try:
                answer.put((work(), None))
            except BaseException as error:
                answer.put((None, error))

        def result() -> T:
            made, error = answer.get()
            if error is not None:
                raise error
            return cast(T, made)

        self._calls.put(call)
        return result

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end()
        if kind is not None and issubclass(kind, SystemExit):
            return
        for thread in self._threads:
            _wait_for(thread)

    def _end(self) -> None:
        self._dropping.set()
        for _ in self._threads:
            self._calls.put(_End())

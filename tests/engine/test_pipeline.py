"""Threads that end, however the main thread is interrupted."""

import signal
import threading
from contextlib import closing

import pytest

from georsr.engine.pipeline import WriteBehind, read_ahead


class Interruption(BaseException):
    pass


@pytest.fixture
def interrupted_soon():
    """interrupted_soon(seconds): an exception in the main thread, wherever it is then."""

    def interrupt(number, frame):
        raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("georsr-")]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
@pytest.mark.parametrize("depth", [1, 4])
def test_writing_ends_wherever_it_is_interrupted(interrupted_soon, depth):
    def work(taken, seconds):
        with WriteBehind(taken.append, depth) as sink:
            interrupted_soon(seconds)
            for number in range(10**9):
                sink.put(number)

    for round_number in range(150):
        taken = []
        with pytest.raises(Interruption):
            work(taken, 0.0005 + round_number * 1e-5)
        assert taken == list(range(len(taken)))
    assert not threads()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_reading_ends_wherever_it_is_interrupted(interrupted_soon):
    def work(seen, seconds):
        with closing(read_ahead(iter(range(10**9)))) as items:
            interrupted_soon(seconds)
            seen.extend(items)

    for round_number in range(150):
        seen = []
        with pytest.raises(Interruption):
            work(seen, 0.0005 + round_number * 1e-5)
        assert seen == list(range(len(seen)))
    assert not threads()


def test_no_more_than_the_depth_is_waiting():
    released, waiting = threading.Event(), []

    def consume(item):
        released.wait()

    with WriteBehind(consume, 2) as sink:
        for number in range(3):
            sink.put(number)
            waiting.append(sink._items.qsize())
        released.set()
    assert max(waiting) <= 2
    read = []

    def source():
        for number in range(100):
            read.append(number)
            yield number

    with closing(read_ahead(source(), depth=1)) as items:
        assert next(items) == 0
        threading.Event().wait(0.1)
        assert len(read) <= 3

"""Threads that end, however the main thread is interrupted."""

import signal
import threading
from contextlib import closing
from functools import partial

import pytest

from georsr.inference.pipeline import BackgroundWriter, OrderedThreadPool, prefetch


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
    # one whose start was interrupted before it ran is on Python's list for good, and not alive
    return [t for t in threading.enumerate() if t.name.startswith("georsr-") and t.is_alive()]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
@pytest.mark.parametrize("depth", [1, 4])
def test_background_writer_interrupted_anywhere_ends(interrupted_soon, depth):
    def work(taken, seconds):
        with BackgroundWriter(taken.append, depth) as sink:
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
def test_background_writer_interrupted_while_it_is_left_ends_before(interrupted_soon):
    """Otherwise its thread would still write while the caller closes the output."""
    taken, never = [], threading.Event()

    def consume(item):
        never.wait(0.5)  # the main thread waits for this one when it is interrupted
        taken.append(item)

    def work():
        with BackgroundWriter(consume, 2) as sink:
            sink.put("block")
            interrupted_soon(0.1)

    with pytest.raises(Interruption):
        work()
    assert taken == ["block"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_prefetch_interrupted_anywhere_ends(interrupted_soon):
    def work(seen, seconds):
        with closing(prefetch(iter(range(10**9)))) as items:
            interrupted_soon(seconds)
            seen.extend(items)

    for round_number in range(150):
        seen = []
        with pytest.raises(Interruption):
            work(seen, 0.0005 + round_number * 1e-5)
        assert seen == list(range(len(seen)))
    assert not threads()


def test_prefetch_thread_starting_late_reads_nothing(monkeypatch):
    late, read = [], []

    def interrupted(thread):
        late.append(thread)
        raise Interruption

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(Interruption):
        next(prefetch(map(read.append, range(3))))
    late[0].run()  # as the system does, once it has a processor for it
    assert not read


def test_background_writer_with_a_slow_consumer_lets_depth_items_wait():
    accepted, early = threading.Event(), []

    def consume(item):
        if item == 0:
            early.append(accepted.wait(0.2))

    with BackgroundWriter(consume, 2) as sink:
        for number in range(4):  # one is consumed and two wait: there is no room for the fourth
            sink.put(number)
        accepted.set()
    assert early == [False]


def test_prefetch_with_a_slow_reader_reads_depth_items_ahead():
    too_many = threading.Event()

    def source():
        for number in range(100):
            if number == 3:  # one is out, one waits, one is about to
                too_many.set()
            yield number

    with closing(prefetch(source(), depth=1)) as items:
        assert next(items) == 0
        assert not too_many.wait(0.2)


def test_ordered_thread_pool_returns_results_in_order():
    """Each waits until all three are there: in a row they would never be."""
    all_here = threading.Barrier(3, timeout=60)
    entered = []

    def call(number):
        all_here.wait()
        return number

    with OrderedThreadPool(3, lambda: entered.append(threading.current_thread().name)) as side:
        answers = [side.submit(partial(call, number)) for number in range(3)]
        assert [answer() for answer in answers] == [0, 1, 2]
    assert len(set(entered)) == 3
    assert not threads()


def test_ordered_thread_pool_of_one_runs_in_the_caller():
    with OrderedThreadPool(1, lambda: pytest.fail("nobody enters")) as side:
        assert side.submit(threading.current_thread)() is threading.current_thread()


def test_ordered_thread_pool_error_is_raised_by_its_result():
    with OrderedThreadPool(2, lambda: None) as side:
        bad, good = side.submit(lambda: 1 // 0), side.submit(lambda: 2)
        assert good() == 2
        with pytest.raises(ZeroDivisionError):
            bad()


def test_ordered_thread_pool_left_waits_for_running_calls_only():
    begun, go, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        go.wait(60)
        done.append("first")

    def leave_at_once():
        with OrderedThreadPool(2, lambda: None) as side:
            for _ in range(2):
                side.submit(first)
            for _ in range(5):
                side.submit(lambda: done.append("later"))
            begun.wait(60)
            threading.Timer(0.2, go.set).start()
            raise Interruption

    with pytest.raises(Interruption):
        leave_at_once()
    assert set(done) == {"first"}
    assert not threads()


def test_ordered_thread_pool_left_by_system_exit_waits_for_nothing():
    begun, go = threading.Event(), threading.Event()

    def call():
        begun.set()
        go.wait(60)

    def leave():
        with OrderedThreadPool(2, lambda: None) as side:
            side.submit(call)
            begun.wait(60)
            raise SystemExit

    with pytest.raises(SystemExit):
        leave()
    assert threads()
    go.set()
    for thread in threads():
        thread.join(60)
    assert not threads()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_ordered_thread_pool_interrupted_anywhere_ends(interrupted_soon):
    def work(seconds):
        with OrderedThreadPool(2, lambda: None) as side:
            interrupted_soon(seconds)
            while True:
                answers = [side.submit(partial(pow, 3, number)) for number in range(4)]
                assert [answer() for answer in answers] == [1, 3, 9, 27]

    for round_number in range(150):
        with pytest.raises(Interruption):
            work(0.0005 + round_number * 1e-5)
    assert not threads()

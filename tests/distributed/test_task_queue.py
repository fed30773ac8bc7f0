"""Test that tasks are computed whatever happens to workers, or that the error names the task."""

import logging
import os
import signal
import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import count
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from georsr.distributed import task_queue, worker
from georsr.distributed.cluster import RESTART_CONFIG
from georsr.distributed.executor import ordered_blocks
from georsr.distributed.task_queue import MAX_BATCH_SIZE, PREFETCH_BATCHES, TaskQueue
from georsr.distributed.worker import RunPlugin
from georsr.errors import InputError, InterruptedRunError, ResourceError
from georsr.progress import Timer
from georsr.tiling.grid import make_grid
from georsr.tiling.partition import TaskGrid
from tests.killers import Killer

RUNS = count(1)
EVENT = threading.Event()
RUNNING = threading.Event()
"""Shared with worker threads by module-level functions, which are pickled by name."""


def wait_for_event(task):
    assert EVENT.wait(30)


def wait_in_the_second_task_for_the_third(task):
    if task == 0:
        time.sleep(0.1)
    elif task == 1:
        assert EVENT.wait(30)
    elif task == 2:
        EVENT.set()
    return task


class Runner:
    def __init__(self, function=lambda task: task):
        self.function = function

    def prepare(self, worker_name):
        pass

    def __call__(self, task, should_stop):
        return self.function(task)


class StopRunner(Runner):
    def __call__(self, task, should_stop):
        while not should_stop():
            time.sleep(0.01)
        EVENT.set()


class SlowlyStoppingRunner(Runner):
    """Says when it runs, and ends some time after it is asked to."""

    def __call__(self, task, should_stop):
        RUNNING.set()
        while not should_stop():
            time.sleep(0.01)
        time.sleep(0.3)
        EVENT.set()


class UnpreparedRunner(Runner):
    def prepare(self, worker_name):
        raise ResourceError("has no file in.tif")


def make_queue(client, runner, check_cancelled=lambda: None, workers=None):
    return TaskQueue(
        client,
        RunPlugin(f"test-{next(RUNS)}", runner),
        gpu=False,
        check_cancelled=check_cancelled,
        count_workers=lambda: len(client.nthreads()) if workers is None else workers,
    )


def next_all(queue):
    return dict(queue.next_completed() for _ in range(queue.in_flight))


def fill_batches(queue, first=1000):
    """Compute quick tasks, until the queue puts as many as possible into a batch."""
    for number in range(first, first + 40):
        queue.submit([(number, number)])
        queue.next_completed()
    assert queue.batch_size == MAX_BATCH_SIZE


@pytest.fixture(scope="module")
def threads():
    """Client of two worker threads in this process."""
    options = {"processes": False, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, **options) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def processes():
    """Client of two worker processes; a task may kill two of them."""
    options = {"processes": True, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with (
        dask.config.set(RESTART_CONFIG | {"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, silence_logs=logging.CRITICAL + 1, **options
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client
        for nanny in local.workers.values():  # Dask may wait forever for one that it restarts
            nanny.auto_restart = False
            with suppress(TypeError, ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def test_queue_returns_each_result_with_its_index(threads):
    with make_queue(threads, Runner(lambda task: task**2)) as queue:
        queue.submit([(number, number + 1) for number in range(20)])
        assert queue.in_flight == 20
        results = next_all(queue)
        assert queue.in_flight == 0
    assert results == {number: (number + 1) ** 2 for number in range(20)}


def test_map_of_many_tasks_yields_all_with_few_in_flight(threads):
    in_flight = []
    with make_queue(threads, Runner(lambda task: task + 1), workers=2) as queue:
        results = {}
        for index, result in queue.map(iter(enumerate(range(300))), Timer()):
            results[index] = result
            in_flight.append(queue.in_flight)
    assert results == {number: number + 1 for number in range(300)}
    assert max(in_flight) <= PREFETCH_BATCHES * 2 * MAX_BATCH_SIZE


def test_ordered_blocks_of_many_tasks_keeps_few_in_scheduler_and_client(threads):
    # a small form of benchmarks/speed/cluster_simulation.py
    side, workers = 14, 3
    plan = make_grid(side * 16, side * 16, scale=1, tile=16, halo=0, overlap=0)
    grid, done = TaskGrid(side * 16, side * 16, 0, 16, 16), np.zeros((side, side), bool)
    done[:2] = True
    scheduled, received, yielded = [], [], []

    def compute(window):
        return SimpleNamespace(blocks=[(window.top // 16, window.left // 16, b"")])

    def on_result(index, result):
        received.append(index)
        scheduled.append(threads.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))
        assert queue.in_flight + len(received) - len(yielded) <= side + PREFETCH_BATCHES * workers

    with make_queue(threads, Runner(compute), workers=workers) as queue:
        for row, column, _ in ordered_blocks(plan, 16, grid, done, queue, Timer(), on_result):
            yielded.append((row, column))
    assert yielded == [divmod(n, side) for n in range(2 * side, side**2)]
    assert sorted(received) == list(range(2 * side, side**2))
    assert max(scheduled) <= PREFETCH_BATCHES * workers


@pytest.mark.parametrize("workers", [1, 2, 7, 100])
def test_free_slots_of_slow_tasks_keep_every_worker_busy(threads, workers):
    EVENT.clear()
    with make_queue(threads, Runner(wait_for_event), workers=workers) as queue:
        assert queue.free_slots() == PREFETCH_BATCHES * workers
        queue.submit([(n, n) for n in range(PREFETCH_BATCHES * workers)])
        assert queue.free_slots() == 0
        EVENT.set()
        freed = 0
        while not (slots := queue.free_slots()):
            queue.next_completed()
            freed += 1
        assert freed <= max(1, workers // 2)
        assert slots >= max(1, workers // 4)


def test_free_slots_with_a_bound_on_tasks_in_flight_return_the_rest(threads):
    with make_queue(threads, Runner(), workers=4) as queue:
        assert queue.free_slots(max_in_flight=3) == 3
        assert queue.free_slots(max_in_flight=0) == 0


def test_task_with_georsr_error_raises_the_same_class_and_message(threads):
    def fail(task):
        try:
            raise OSError("what GDAL said")
        except OSError as error:
            raise InputError(f"task {task} cannot be read") from error

    with make_queue(threads, Runner(fail)) as queue:
        queue.submit([(0, 7)])
        with pytest.raises(InputError, match=r"^task 7 cannot be read$"):
            queue.next_completed()


def test_task_with_other_error_raises_resource_error_that_names_it(threads):
    with make_queue(threads, Runner(lambda task: 1 // 0)) as queue:
        queue.submit([(3, "rows 0:5, columns 2:3")])
        with pytest.raises(
            ResourceError,
            match=r"^rows 0:5, columns 2:3 of the output: worker \S+ failed with ZeroDivision",
        ):
            queue.next_completed()


def test_next_completed_with_check_that_raises_is_cancelled(threads):
    cancelled = threading.Event()

    def check_cancelled():
        if cancelled.is_set():
            raise InterruptedRunError("interrupted")

    with make_queue(threads, Runner(lambda task: time.sleep(1)), check_cancelled) as queue:
        queue.submit([(0, 0)])
        cancelled.set()
        with pytest.raises(InterruptedRunError):
            queue.next_completed()


def test_queue_left_stops_running_tasks(threads):
    EVENT.clear()
    with make_queue(threads, StopRunner()) as queue:
        queue.submit([(0, 0)])
        time.sleep(0.1)
    assert EVENT.wait(30)


def test_next_completed_without_workers_raises_after_timeout(threads, monkeypatch):
    monkeypatch.setattr(task_queue, "CHECK_SECONDS", 0.05)
    with make_queue(threads, Runner(lambda task: time.sleep(2)), workers=0) as queue:
        monkeypatch.setattr(task_queue, "NO_WORKER_TIMEOUT", 0.2)
        queue.submit([(0, 0)])
        with pytest.raises(ResourceError, match="has had no workers for"):
            queue.next_completed()


def test_task_that_kills_one_worker_is_computed_by_another(processes, tmp_path):
    with make_queue(processes, Killer(3, tmp_path, always=False)) as queue:
        queue.submit([(number, number) for number in range(8)])
        results = next_all(queue)
    assert results == {number: number * 10 for number in range(8)}
    assert len(list(tmp_path.iterdir())) == 1


def test_task_that_kills_every_worker_is_named(processes, tmp_path):
    with make_queue(processes, Killer(5, tmp_path, always=True)) as queue:
        queue.submit([(number, number) for number in range(6)])
        with pytest.raises(ResourceError, match=r"^5 of the output: 2 workers died one after"):
            next_all(queue)


def test_task_that_kills_every_worker_is_named_among_quick_ones(processes, tmp_path):
    with make_queue(processes, Killer(9, tmp_path, always=True)) as queue:
        fill_batches(queue)
        queue.submit([(number, number) for number in range(6, 12)])
        with pytest.raises(ResourceError, match=r"^9 of the output: 2 workers died one after"):
            next_all(queue)


def test_results_lost_while_they_are_fetched_are_computed_again(threads, monkeypatch):
    gather, calls = threads.gather, []

    def lose_first(futures, *args, **kwargs):
        calls.append(len(futures))
        if len(calls) == 1:
            raise CancelledError
        return gather(futures, *args, **kwargs)

    monkeypatch.setattr(threads, "gather", lose_first)
    with make_queue(threads, Runner(lambda task: task + 1)) as queue:
        queue.submit([(number, number) for number in range(4)])
        assert next_all(queue) == {number: number + 1 for number in range(4)}
    assert len(calls) > 1


def test_next_completed_cancelled_while_a_result_is_fetched_raises_interrupted(
    threads, monkeypatch
):
    """A worker that is silent would otherwise hold back the cancellation, or its reason."""
    fetching = threading.Event()

    def never_answer(futures):
        fetching.set()
        time.sleep(5)

    def check_cancelled():
        if fetching.is_set():
            raise InterruptedRunError("interrupted")

    monkeypatch.setattr(threads, "gather", never_answer)
    with make_queue(threads, Runner(), check_cancelled) as queue:
        queue.submit([(0, 0)])
        with pytest.raises(InterruptedRunError):
            queue.next_completed()


def test_queue_left_waits_for_the_running_tasks(threads):
    EVENT.clear()
    RUNNING.clear()
    with make_queue(threads, SlowlyStoppingRunner()) as queue:
        queue.submit([(0, 0)])
        assert RUNNING.wait(60)
    assert EVENT.is_set()


def test_quick_tasks_share_a_batch(threads):
    with make_queue(threads, Runner(lambda task: task + 1), workers=2) as queue:
        fill_batches(queue)
        queue.submit([(number, number) for number in range(40)])
        assert queue.in_flight == 40
        scheduled = threads.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        assert scheduled <= PREFETCH_BATCHES * 2
        assert queue.free_slots() == 0
        assert next_all(queue) == {number: number + 1 for number in range(40)}
        assert queue.in_flight == 0


def test_slow_task_in_a_batch_does_not_delay_those_behind_it(threads, monkeypatch):
    monkeypatch.setattr(worker, "BATCH_SECONDS", 0.05)
    EVENT.clear()
    with make_queue(threads, Runner(wait_in_the_second_task_for_the_third)) as queue:
        fill_batches(queue)
        queue.submit([(number, number) for number in range(3)])
        assert next_all(queue) == {0: 0, 1: 1, 2: 2}


def test_failure_in_a_batch_names_its_task(threads):
    with make_queue(threads, Runner(lambda task: 1 // (task - 7))) as queue:
        fill_batches(queue)
        queue.submit([(number, number) for number in range(12)])
        with pytest.raises(ResourceError, match=r"^7 of the output: worker \S+ failed with Zero"):
            next_all(queue)


def test_plugin_that_cannot_be_prepared_fails_before_a_task(threads):
    with (
        pytest.raises(ResourceError, match=r"^worker \S+: has no file in\.tif$"),
        make_queue(threads, UnpreparedRunner()),
    ):
        raise AssertionError("prepared")
    plugins = threads.run(lambda dask_worker: list(dask_worker.plugins))
    assert not [name for names in plugins.values() for name in names if name.startswith("test-")]

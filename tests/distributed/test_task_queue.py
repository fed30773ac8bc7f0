"""Pieces come back whatever happens to workers, or one line says which does not."""

import logging
from itertools import count
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from georsr.distributed import task_queue, worker
from georsr.distributed.executor import OrderedBlocks
from georsr.distributed.task_queue import MAX_BATCH, PREFETCH_TASKS, DaskQueue, free_slots
from georsr.errors import InputError, InterruptedRunError, ResourceError
from georsr.inference.pipeline import Timer
from georsr.tiling.grid import make_grid
from georsr.tiling.partition import TaskGrid
from tests.killers import Killer

RUNS = count(1)


class Hand:
    def __init__(self, function=lambda piece: piece):
        self.function = function

    def setup(self, address):
        pass

    def __call__(self, piece, stopped):
        return self.function(piece)


def fly(client, hand, look=lambda: None, workers=1):
    return DaskQueue(
        client, f"test-{next(RUNS)}", hand, gpu=False, look=look, count=lambda: workers
    )


@pytest.fixture(scope="module")
def threads():
    options = {"processes": False, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, **options) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def test_what_was_sent_comes_back_by_number(threads):
    with fly(threads, Hand(lambda piece: piece**2)) as flight:
        flight.submit([(number, number + 1) for number in range(20)])
        assert flight.in_flight == 20
        landed = dict(flight.next_completed() for _ in range(20))
        assert flight.in_flight == 0
    assert landed == {number: (number + 1) ** 2 for number in range(20)}


def test_a_plan_of_many_tasks_fills_neither_scheduler_nor_client(threads):
    # a small form of benchmarks/speed/cluster_simulation.py
    side, workers = 14, 3
    plan = make_grid(side * 16, side * 16, scale=1, tile=16, halo=0, overlap=0)
    job = SimpleNamespace(plan=plan, layout=SimpleNamespace(blocksize=16))
    grid, done = TaskGrid(side * 16, side * 16, 0, 16, 16), np.zeros((side, side), bool)
    done[:2] = True

    def made(window):
        return SimpleNamespace(blocks=[(window.top // 16, window.left // 16, b"")])

    known = []

    def landed(number, made):
        tasks = threads.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        known.append((tasks, flight.in_flight + len(source._held)))

    with fly(threads, Hand(made), workers=workers) as flight:
        source = OrderedBlocks(job, grid, done, flight, landed)
        blocks = list(source.blocks(Timer()))
    assert [block[:2] for block in blocks] == [divmod(n, side) for n in range(2 * side, side**2)]
    assert len(known) == side * (side - 2)
    tasks, under_way = map(max, zip(*known, strict=True))
    assert tasks <= PREFETCH_TASKS * workers
    assert under_way <= side + PREFETCH_TASKS * workers


@pytest.mark.parametrize("machines", [1, 2, 7, 100])
def test_few_are_under_way_and_many_go_out_together(machines):
    flight = SimpleNamespace(machines=machines, batch_size=1, in_flight=0, tasks=0)
    sizes = []
    for _ in range(10 * machines):
        sizes.append(free_slots(flight))
        flight.in_flight += sizes[-1]
        flight.tasks = flight.in_flight
        assert 0 < flight.in_flight <= PREFETCH_TASKS * machines
        flight.in_flight -= 1
        flight.tasks -= 1
    assert sizes[0] == PREFETCH_TASKS * machines
    assert all(size == 0 or size >= machines // 4 for size in sizes)
    # every worker has something to do
    assert flight.in_flight + 1 >= machines


def test_errors_keep_their_class_and_words(threads):
    def fail(piece):
        try:
            raise OSError("what GDAL said")
        except OSError as error:
            raise InputError(f"piece {piece} cannot be read") from error

    with fly(threads, Hand(fail)) as flight:
        flight.submit([(0, 7)])
        with pytest.raises(InputError, match=r"^piece 7 cannot be read$"):
            flight.next_completed()


def test_any_other_failure_names_the_piece(threads):
    with fly(threads, Hand(lambda piece: 1 // 0)) as flight:
        flight.submit([(3, "rows 0:5, columns 2:3")])
        with pytest.raises(
            ResourceError,
            match=r"^rows 0:5, columns 2:3 of the product: worker \S+ failed with ZeroDivision",
        ):
            flight.next_completed()


def test_who_waits_can_be_called_away(threads):
    import time

    def look():
        raise InterruptedRunError("interrupted")

    with fly(threads, Hand(lambda piece: time.sleep(1)), look) as flight:
        flight.submit([(0, 0)])
        with pytest.raises(InterruptedRunError):
            flight.next_completed()


def test_a_run_without_workers_ends(threads, monkeypatch):
    import time

    monkeypatch.setattr(task_queue, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(task_queue, "NO_WORKER_TIMEOUT", 0.2)
    with fly(threads, Hand(lambda piece: time.sleep(2)), workers=0) as flight:
        flight.submit([(0, 0)])
        with pytest.raises(ResourceError, match="no workers any more"):
            flight.next_completed()


@pytest.fixture(scope="module")
def processes():
    """Two worker processes that may die often."""
    options = {"processes": True, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, silence_logs=logging.CRITICAL + 1, **options
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def land_all(flight):
    return dict(flight.next_completed() for _ in range(flight.in_flight))


def test_what_a_lost_worker_did_is_done_again(processes, tmp_path):
    with fly(processes, Killer(3, tmp_path, always=False)) as flight:
        flight.submit([(number, number) for number in range(8)])
        landed = dict(flight.next_completed() for _ in range(8))
    assert landed == {number: number * 10 for number in range(8)}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_piece_that_kills_every_worker_ends_the_run_by_name(processes, tmp_path):
    with fly(processes, Killer(5, tmp_path, always=True)) as flight:
        flight.submit([(number, number) for number in range(6)])
        with pytest.raises(ResourceError, match=r"^5 of the product: 2 workers died one after"):
            land_all(flight)


def quickened(flight, first=1000):
    """A flight that has found out how quick its pieces are."""
    for number in range(first, first + 40):
        flight.submit([(number, number)])
        flight.next_completed()
    assert flight.batch_size == MAX_BATCH
    return flight


def test_quick_pieces_share_a_task(threads):
    with fly(threads, Hand(lambda piece: piece + 1), workers=2) as flight:
        quickened(flight)
        flight.submit([(number, number) for number in range(40)])
        assert flight.in_flight == 40
        assert flight.tasks <= PREFETCH_TASKS * 2
        assert free_slots(flight) == 0
        assert land_all(flight) == {number: number + 1 for number in range(40)}
        assert (flight.in_flight, flight.tasks) == (0, 0)


def test_a_piece_that_takes_long_ends_its_task(threads, monkeypatch):
    import time

    monkeypatch.setattr(worker, "TASK_SECONDS", 0.1)
    with fly(threads, Hand(lambda piece: time.sleep(0.2 if piece == 2 else 0))) as flight:
        quickened(flight)
        flight.submit([(number, number) for number in range(12)])
        assert land_all(flight) == dict.fromkeys(range(12))
        # those behind it went out again
        assert next(flight._names) > 40 + PREFETCH_TASKS


def test_a_failure_among_quick_pieces_names_its_own(threads):
    with fly(threads, Hand(lambda piece: 1 // (piece - 7))) as flight:
        quickened(flight)
        flight.submit([(number, number) for number in range(12)])
        with pytest.raises(ResourceError, match=r"^7 of the product: worker \S+ failed with Zero"):
            land_all(flight)


def test_a_piece_that_kills_workers_is_found_among_quick_ones(processes, tmp_path):
    with fly(processes, Killer(9, tmp_path, always=True)) as flight:
        quickened(flight)
        flight.submit([(number, number) for number in range(6, 12)])
        with pytest.raises(ResourceError, match=r"^9 of the product: 2 workers died one after"):
            land_all(flight)

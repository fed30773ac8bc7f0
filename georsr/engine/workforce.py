"""Workforce: who would do the work of a run, and what that makes of its memory and its time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from georsr.engine.job import Job, memory_of
from georsr.engine.preflight import check_space
from georsr.machine import processors
from georsr.tiling.supertiles import Grid

if TYPE_CHECKING:
    from georsr.engine.cluster import Cluster

START_SECONDS = 6.0
"""From the plan of a run to the first tile of worker processes, which import all libraries anew
(measured with two on two busy cores), and their end."""


@dataclass(frozen=True)
class Workforce:
    """Who does the work.

    Attributes
    ----------
    workers : int
        Of a cluster; 0: this process does it.
    memory : int
        Peak memory of this machine, bytes.
    worker_memory : int
        Of one worker, wherever it runs; 0 if there are none.
    share : float
        Part of the tiles that falls to each.
    start : float
        Seconds before the first tile.
    """

    workers: int
    memory: int
    worker_memory: int = 0
    share: float = 1.0
    start: float = 0.0


def workforce(job: Job, cluster: Cluster | None, parts: str | None) -> Workforce:
    """Who would carry out a job.

    Parameters
    ----------
    job : Job
    cluster : Cluster or None
        Its workers, which need not have been started; None: this process.
    parts : str or None
        Folder of parts, if the product is to be many files.
    """
    if parts is None and cluster is None:
        return Workforce(0, memory_of(job))
    if parts is None:
        from georsr.engine.cluster_maker import ClusterMaker

        assert cluster is not None, "one of the two is given"
        maker = ClusterMaker(cluster)
        return _of(job, cluster, maker.grid(job), maker.memory(job), maker.worker_memory(job))
    from georsr.engine.parts import grid_of, memory_here, part_memory

    memory = memory_here(job, cluster)
    if cluster is None:
        return Workforce(0, memory)
    return _of(job, cluster, grid_of(job), memory, part_memory(job, cluster))


def _of(job: Job, cluster: Cluster, grid: Grid, memory: int, each: int) -> Workforce:
    count = max(1, cluster.count())
    at_once = count if cluster.local is None else min(count, processors())
    largest = len(job.plan.crop(grid.window(0).coarser(job.plan.scale)))
    share = max(1 / at_once, largest / len(job.plan))
    start = 0.0 if cluster.local is None else START_SECONDS * -(-count // processors())
    return Workforce(count, memory, each, share, start)


def check_parts_space(job: Job, parts: str) -> None:
    """Refuse to start parts that the disk may not hold; those that are there count as free.

    Raises
    ------
    ResourceError
        As `georsr.engine.preflight.check_space`.
    """
    from georsr.engine.parts import stored_layout

    there = sum(path.stat().st_size for path in Path(parts).glob("r*_c*.tif"))
    check_space(stored_layout(job), str(Path(parts) / "part"), job.config, there)

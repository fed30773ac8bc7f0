"""Lanes: how many tiles the CPU computes side by side, and by how many threads each.

A network that has all threads of a CPU stops after every layer until the slowest of them is there,
and whatever else a run does, joining and compressing, stops one and so all. Tiles side by side wait
for nobody. A tile computed by one thread is also the same whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from georsr.config import SRConfig
from georsr.device import Placement
from georsr.models.spec import ModelSpec
from georsr.models.zoo import BUILDERS

MOST = 4
"""Lanes: each holds the features of one more tile."""


@dataclass(frozen=True)
class Lanes:
    """Callers of one network at the same time.

    Attributes
    ----------
    count : int
        How many; 1: nobody beside the caller.
    threads : int
        Of torch, for each.
    """

    count: int = 1
    threads: int = 1

    def enter(self) -> None:
        """Give the calling thread its share of torch's threads."""
        torch.set_num_threads(self.threads)


def lanes_of(
    placement: Placement,
    spec: ModelSpec,
    compiled: bool,
    tiles: int,
    threads: int | None = None,
) -> Lanes:
    """How a network is to be asked.

    Parameters
    ----------
    placement, spec
        Where it runs, and its contract. Networks of others may keep what they need from one layer
        to the next, and answer one caller at a time.
    compiled
        Whether ``torch.compile`` builds it, which is not made for several callers.
    tiles
        That there are to compute: a lane without one would be threads without work.
    threads
        Of torch, for all together; by default those of the calling thread.
    """
    threads = threads or torch.get_num_threads()
    alone = placement.device.type != "cpu" or compiled or spec.architecture not in BUILDERS
    if alone:
        return Lanes(1, threads)
    each = -(-threads // max(1, min(MOST, tiles)))
    return Lanes(threads // each, each)


def tiles_at_once(
    placement: Placement, spec: ModelSpec, config: SRConfig, tiles: int, batch: int
) -> int:
    """Tiles whose features are in memory at the same time in a run.

    Parameters
    ----------
    placement, spec, config, tiles
        As the run's.
    batch
        Tiles per call of the network.
    """
    return batch * lanes_of(placement, spec, config.compile, tiles, config.jobs).count

"""Batches for torch: crops drawn by their number in the run, so that nothing need be remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from georsr.training.data.crops import Crop, CropSource, Pair, PairSource
from georsr.window import AnyArray, BoolArray


class Batch(NamedTuple):
    """Aligned crops of one step on one device."""

    lr: Tensor
    """(N, C, p, p) float32 in 0..1."""
    hr: Tensor
    """(N, C, s * p, s * p) float32 in 0..1."""
    labels: Tensor
    """(N,) class indices, -1 without classes."""
    valid: Tensor | None
    """(N, 1, s * p, s * p) float32, 1 where the loss counts; None: everywhere."""
    sensor: Tensor | None = None
    """(N, N_SENSOR_VALUES) normalised sensor descriptions of ``lr``; None: not known."""


class IndexedCrops(Dataset[Crop]):
    """Crop ``i`` of a run: a pure function of the run's seed and ``i``."""

    def __init__(self, source: CropSource, seed: int) -> None:
        self.source, self.seed = source, seed

    def __getitem__(self, number: int) -> Crop:
        return self.source.crop(np.random.default_rng([self.seed, number]))


class StepSampler(Sampler[list[int]]):
    """Numbers of the crops of each step, from the step a run has reached.

    Parameters
    ----------
    steps, batch
        Length of the run, crops per step and device.
    reached
        Called when iteration begins: steps done so far.
    rank, world
        Which of how many devices this is: they draw different crops.
    """

    def __init__(
        self, steps: int, batch: int, reached: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        self.steps, self.batch, self.reached = steps, batch, reached
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.reached(), self.steps):
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        return self.steps


def collate(crops: list[Crop]) -> Batch:
    """Stack the crops of one step."""
    valid = None
    if any(crop.valid is not None for crop in crops):
        masks = [
            np.ones(crop.hr.shape[1:], bool) if crop.valid is None else crop.valid for crop in crops
        ]
        valid = torch.from_numpy(np.stack(masks))[:, None].float()
    sensors = [crop.sensor for crop in crops]
    return Batch(
        torch.from_numpy(np.stack([crop.lr for crop in crops])),
        torch.from_numpy(np.stack([crop.hr for crop in crops])),
        torch.tensor([crop.label for crop in crops]),
        valid,
        torch.tensor(sensors) if all(sensors) else None,
    )


class ShardedPairs(IterableDataset[Pair]):
    """Every ``world``-th validation pair, beginning with pair ``rank``."""

    def __init__(self, pairs: PairSource, rank: int, world: int) -> None:
        self.pairs, self.rank, self.world = pairs, rank, world

    def __iter__(self) -> Iterator[Pair]:
        return islice(iter(self.pairs), self.rank, None, self.world)


class CropLoader(DataLoader[Crop]):
    """Batches from the step a run has reached; where that is, is the trainer's to know."""

    def __init__(
        self, source: CropSource, seed: int, numbers: StepSampler, workers: int, pinned: bool
    ) -> None:
        super().__init__(
            IndexedCrops(source, seed),
            batch_sampler=numbers,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pinned,
            persistent_workers=False,
        )

    def state_dict(self) -> dict[str, int]:
        """Nothing: the steps done say where to go on (the trainer looks for this method)."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """See :meth:`state_dict`."""


ValidationPair = tuple[AnyArray, AnyArray, BoolArray | None]
"""HR, LR and the valid mask of a :class:`georsr.training.data.crops.Pair`."""


def pair_loader(pairs: PairSource, rank: int, world: int) -> DataLoader[Pair]:
    """Validation pairs one by one, as :data:`ValidationPair`."""
    convert: Any = _arrays  # without batches, torch calls it with one item
    return DataLoader(ShardedPairs(pairs, rank, world), batch_size=None, collate_fn=convert)


def _arrays(pair: Pair) -> ValidationPair:
    return pair.hr, pair.lr, pair.valid

"""Load batches for torch: each crop is determined by the seed and its number in the run."""

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
    """Crops of one step on one device.

    Attributes
    ----------
    lr : float32 (N, C, p, p)
        Values in 0..1.
    hr : float32 (N, C, s * p, s * p)
        Values in 0..1.
    labels : (N,)
        Class indexes, -1 without classes.
    valid : float32 (N, 1, s * p, s * p) or None
        1 for pixels that count in the loss; None: all.
    sensor : (N, N_SENSOR_VALUES) or None
        Normalized sensor descriptions of ``lr``; None: not known.
    """

    lr: Tensor
    hr: Tensor
    labels: Tensor
    valid: Tensor | None
    sensor: Tensor | None = None


class IndexedCrops(Dataset[Crop]):
    """Crops by their number in a run, which depend on the seed and the number alone."""

    def __init__(self, source: CropSource, seed: int) -> None:
        self.source, self.seed = source, seed

    def __getitem__(self, number: int) -> Crop:
        return self.source.crop(np.random.default_rng([self.seed, number]))


class StepSampler(Sampler[list[int]]):
    """Numbers of the crops of each remaining step of a run.

    Parameters
    ----------
    steps, batch
        Length of the run, crops per step and device.
    steps_done
        Function that returns the steps done so far; called when iteration begins.
    rank, world
        Number of this device, and of all devices: each draws its own crops.
    """

    def __init__(
        self, steps: int, batch: int, steps_done: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        self.steps, self.batch, self.steps_done = steps, batch, steps_done
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps_done(), self.steps):
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
    """Batches of the remaining steps of a run."""

    def __init__(
        self, source: CropSource, seed: int, sampler: StepSampler, workers: int, pin_memory: bool
    ) -> None:
        super().__init__(
            IndexedCrops(source, seed),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            persistent_workers=False,
        )

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the trainer calls it, but the steps done determine the next batch."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """See :meth:`state_dict`."""


ValidationPair = tuple[AnyArray, AnyArray, BoolArray | None]
"""HR, LR and the valid mask of a :class:`georsr.training.data.crops.Pair`."""


def pair_loader(pairs: PairSource, rank: int, world: int) -> DataLoader[Pair]:
    """Load validation pairs one by one, as :data:`ValidationPair`."""
    convert: Any = _arrays  # without batches, torch calls it with one item
    return DataLoader(ShardedPairs(pairs, rank, world), batch_size=None, collate_fn=convert)


def _arrays(pair: Pair) -> ValidationPair:
    return pair.hr, pair.lr, pair.valid

"""Batches: numbered crops, shares of devices, masks."""

import numpy as np
import torch

from georsr.training.data.crops import Crop
from georsr.training.data.dataloader import IndexedCrops, ShardedPairs, StepSampler, collate


class Dice:
    scale, patch, bands, classes = 2, 3, 1, ()

    def crop(self, rng):
        lr = rng.random((1, 3, 3), np.float32)
        return Crop(lr, np.repeat(np.repeat(lr, 2, 1), 2, 2))


def test_indexed_crops_depend_on_the_index_only():
    crops = IndexedCrops(Dice(), seed=3)
    np.testing.assert_array_equal(crops[7].lr, crops[7].lr)
    assert not np.array_equal(crops[7].lr, crops[8].lr)
    assert not np.array_equal(crops[7].lr, IndexedCrops(Dice(), seed=4)[7].lr)


def test_step_sampler_shares_and_resumes_without_overlap():
    whole = [[n for step in StepSampler(4, 3, lambda: 0, r, 2) for n in step] for r in (0, 1)]
    assert sorted(whole[0] + whole[1]) == list(range(24))
    rest = [n for step in StepSampler(4, 3, lambda: 3, 1, 2) for n in step]
    assert rest == whole[1][9:]
    assert len(StepSampler(4, 3, lambda: 3)) == 4


def test_sharded_pairs_share_the_pairs():
    shares = [list(ShardedPairs(range(5), rank, 2)) for rank in (0, 1)]
    assert shares == [[0, 2, 4], [1, 3]]


def test_collate_with_one_mask_masks_all():
    hr = np.zeros((1, 4, 4), np.float32)
    lr = np.zeros((1, 2, 2), np.float32)
    assert collate([Crop(lr, hr), Crop(lr, hr)]).valid is None
    mask = np.zeros((4, 4), bool)
    batch = collate([Crop(lr, hr, label=3), Crop(lr, hr, valid=mask)])
    assert batch.valid is not None
    assert torch.equal(batch.valid.sum((1, 2, 3)), torch.tensor([16.0, 0.0]))
    assert torch.equal(batch.labels, torch.tensor([3, -1]))

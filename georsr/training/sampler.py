"""Random training batches, a pure function of (seed, step): resuming needs no saved state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from georsr.errors import InputError
from georsr.training.data.crops import dihedral
from georsr.training.data.degrade import make_pair
from georsr.training.data.images import ImageFolder, read_image
from georsr.types import AnyArray


@dataclass(frozen=True)
class Batch:
    """LR (N, 3, p, p) and HR (N, 3, s * p, s * p) in 0..1, and class labels (N,)."""

    lr: Tensor
    hr: Tensor
    labels: Tensor


class CropSampler:
    """Aligned random crops of LR/HR pairs held in memory, flipped and turned at random.

    Parameters
    ----------
    pairs
        (HR, LR) uint8 images, (3, s * h, s * w) and (3, h, w).
    labels
        Class index of each pair.
    scale, patch, batch
        Scale, LR crop size in pixels, crops per batch.
    seed
        Of the whole run.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[AnyArray, AnyArray]],
        labels: Sequence[int],
        *,
        scale: int,
        patch: int,
        batch: int,
        seed: int,
    ) -> None:
        smallest = min(min(lr.shape[1:]) for _, lr in pairs)
        if smallest < patch:
            raise InputError(
                f"an image of the data set is {smallest} LR pixels wide, the crop is {patch}: "
                "choose a smaller patch"
            )
        self.pairs, self.labels = pairs, labels
        self.scale, self.patch, self.batch_size, self.seed = scale, patch, batch, seed

    @classmethod
    def from_folder(
        cls, folder: ImageFolder, *, scale: int, patch: int, batch: int, seed: int
    ) -> CropSampler:
        """Decode and degrade every image of ``folder`` once."""
        classes = {name: i for i, name in enumerate(folder.classes)}
        pairs = [make_pair(read_image(image.path), scale) for image in folder]
        labels = [classes[image.label] for image in folder]
        return cls(pairs, labels, scale=scale, patch=patch, batch=batch, seed=seed)

    def batch(self, step: int) -> Batch:
        """Draw the batch of one training step."""
        rng = np.random.default_rng([self.seed, step])
        chosen = rng.integers(len(self.pairs), size=self.batch_size)
        lrs, hrs = [], []
        for index in chosen:
            hr, lr = self.pairs[index]
            top = int(rng.integers(lr.shape[1] - self.patch + 1))
            left = int(rng.integers(lr.shape[2] - self.patch + 1))
            element = int(rng.integers(8))
            lrs.append(dihedral(_crop(lr, top, left, self.patch), element))
            hrs.append(dihedral(_crop(hr, top, left, self.patch, self.scale), element))
        return Batch(
            torch.from_numpy(np.stack(lrs)).float().div_(255),
            torch.from_numpy(np.stack(hrs)).float().div_(255),
            torch.tensor([self.labels[i] for i in chosen]),
        )


def _crop(image: AnyArray, top: int, left: int, size: int, scale: int = 1) -> AnyArray:
    rows = slice(top * scale, (top + size) * scale)
    return image[:, rows, left * scale : (left + size) * scale]

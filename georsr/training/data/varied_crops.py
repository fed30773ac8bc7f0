"""Random crops of an image data set, each varied before it is degraded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.io.image_datasets import ImageFolder, read_image
from georsr.radiometry.degradation import Degradation
from georsr.radiometry.imaging_chain import ImagingChain
from georsr.training.data.crops import Crop, flip_rotate
from georsr.training.data.image_crops import GIB, ImageStore
from georsr.training.data.variation import Variation
from georsr.window import AnyArray


class VariedCrops:
    """Varied crops, each image as likely as any other; a `CropSource`.

    Parameters
    ----------
    folder
        Images.
    infrared
        Folders of gray images, those named as an image are its near infrared.
    variation, degradation
        What a crop goes through.
    scale, patch
        Factor, height and width of an LR crop in pixels.
    memory, skip_corrupt
        As for `ImageStore`.
    """

    bands = 3

    def __init__(
        self,
        folder: ImageFolder,
        infrared: Sequence[Path],
        variation: Variation,
        degradation: Degradation,
        scale: int,
        patch: int,
        *,
        memory: float = 4 * GIB,
        skip_corrupt: bool = False,
    ) -> None:
        self.scale, self.patch = scale, patch
        self.variation, self.degradation = variation, degradation
        self.store = ImageStore(folder, 1, memory=memory, skip_corrupt=skip_corrupt)
        self.classes = folder.classes
        numbers = {name: i for i, name in enumerate(self.classes)}
        self.labels = [numbers.get(image.label, -1) for image in self.store.images]
        self.infrared = self._infrared(infrared)

    def _infrared(self, folders: Sequence[Path]) -> dict[int, AnyArray]:
        """Number of an image -> (1, H, W) uint8."""
        found = {}
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"{folder}: no such folder; expected images of the near infrared")
            for index, image in enumerate(self.store.images):
                path = folder / image.path.name
                if not path.is_file():
                    continue
                band = read_image(path)[:1]
                if band.shape[1:] != self.store[index].shape[1:]:
                    raise InputError(
                        f"{path}: is {band.shape[2]}x{band.shape[1]} pixels, not as large as "
                        f"{image.path}"
                    )
                found[index] = band
        return found

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.store)

    def crop(self, rng: np.random.Generator) -> Crop:
        """Draw image, place, variation, orientation and what the degradation leaves to chance."""
        index = int(rng.integers(len(self.store)))
        image = self.store[index]
        if index in self.infrared:
            image = np.concatenate([image, self.infrared[index]])
        margin = self.degradation.margin(self.scale)
        whole = self.variation.crop(image, self.patch * self.scale + 2 * margin, rng)
        whole = np.ascontiguousarray(flip_rotate(whole, int(rng.integers(8))))
        sensor = None
        if isinstance(self.degradation, ImagingChain):
            lr, description = self.degradation.simulate(whole, self.scale, rng)
            sensor = description.normalize()
        else:
            lr = self.degradation(whole, self.scale, rng)
        inner, fine = margin // self.scale, slice(margin, margin + self.patch * self.scale)
        lr = lr[:, inner : inner + self.patch, inner : inner + self.patch]
        return Crop(_three(lr), _three(whole[:, fine, fine]), None, self.labels[index], sensor)


def _three(bands: AnyArray) -> AnyArray:
    """One band three times, or three bands, contiguous."""
    return np.ascontiguousarray(np.broadcast_to(bands, (3, *bands.shape[1:])))

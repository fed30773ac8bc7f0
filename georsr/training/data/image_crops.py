"""Crops and validation pairs of image data sets, degraded from 8-bit RGB."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from georsr.errors import InputError
from georsr.io.image_datasets import ImageFolder, LabelledImage, read_image
from georsr.radiometry.degradation import (
    VALIDATION_SEED,
    Degradation,
    crop_to_multiple,
    degrade_image,
    to_float,
)
from georsr.training.data.crops import Crop, Pair, flip_rotate
from georsr.window import AnyArray, Window

log = logging.getLogger(__name__)

GIB = 2**30


class ImageStore:
    """HR images, decoded once; those that do not fit in memory are decoded at every use.

    Parameters
    ----------
    folder
        Which images.
    scale
        Images are cut at the end to a multiple of it.
    smallest
        Least height and width of an LR image.
    memory
        Bytes of pixels to keep.
    skip_corrupt
        Leave out images that cannot be decoded, with a warning; else they are an error.

    Raises
    ------
    InputError
        An image is corrupt or too small, or none is left.
    """

    def __init__(
        self,
        folder: ImageFolder,
        scale: int,
        *,
        smallest: int = 1,
        memory: float = 4 * GIB,
        skip_corrupt: bool = False,
    ) -> None:
        self.scale, self.smallest = scale, smallest
        self.images: list[LabelledImage] = []
        self.shapes: list[tuple[int, int]] = []
        """(height, width) in LR pixels."""
        self._kept: dict[int, AnyArray] = {}
        skipped = 0
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for image, result in zip(folder, pool.map(_attempt, folder), strict=True):
                if not isinstance(result, InputError):
                    memory -= self._add(image, result, memory)
                    continue
                if not skip_corrupt:
                    pool.shutdown(cancel_futures=True)
                    raise result
                log.warning("left out: %s", result)
                skipped += 1
        if skipped:
            log.warning("%s: %d of %d images left out", folder.root, skipped, len(folder))
        if not self.images:
            raise InputError(f"{folder.root}: no readable image is left")
        if len(self._kept) < len(self.images):
            log.info("%d of %d images kept in memory", len(self._kept), len(self.images))

    def _add(self, image: LabelledImage, pixels: AnyArray, memory: float) -> int:
        """Check an image, and keep it if it fits; returns the bytes taken."""
        hr = np.ascontiguousarray(crop_to_multiple(pixels, self.scale))
        height, width = (n // self.scale for n in hr.shape[1:])
        if min(height, width) < self.smallest:
            raise InputError(
                f"{image.path}: is {pixels.shape[2]}x{pixels.shape[1]} pixels, {width}x{height} "
                f"at {self.scale}x coarser resolution, the crop is {self.smallest}: "
                "choose a smaller patch"
            )
        self.images.append(image)
        self.shapes.append((height, width))
        if hr.nbytes > memory:
            return 0
        self._kept[len(self.images) - 1] = hr
        return hr.nbytes

    def __len__(self) -> int:
        return len(self.images)

    def __contains__(self, index: int) -> bool:
        """Whether image ``index`` is in memory."""
        return index in self._kept

    def __getitem__(self, index: int) -> AnyArray:
        """HR image (3, s * h, s * w) uint8."""
        if index in self._kept:
            return self._kept[index]
        return crop_to_multiple(read_image(self.images[index].path), self.scale)


def _attempt(image: LabelledImage) -> AnyArray | InputError:
    try:
        return read_image(image.path)
    except InputError as error:
        return error


class ImageCrops:
    """Random crops of an image data set, each image as likely as any other; a `CropSource`.

    Parameters
    ----------
    folder, degradation, scale, patch
        Images, how they are degraded, factor, height and width of an LR crop in pixels.
    memory, skip_corrupt
        As for `ImageStore`.
    """

    bands = 3

    def __init__(
        self,
        folder: ImageFolder,
        degradation: Degradation,
        scale: int,
        patch: int,
        *,
        memory: float = 4 * GIB,
        skip_corrupt: bool = False,
    ) -> None:
        self.scale, self.patch, self.degradation = scale, patch, degradation
        self.store = ImageStore(
            folder, scale, smallest=patch, memory=memory, skip_corrupt=skip_corrupt
        )
        self._lr: dict[int, AnyArray] = {}
        if degradation.fixed:
            kept = (i for i in range(len(self.store)) if i in self.store)
            self._lr = {i: self._degraded(i) for i in kept}
        self.classes = folder.classes
        numbers = {name: i for i, name in enumerate(self.classes)}
        self.labels = [numbers.get(image.label, -1) for image in self.store.images]

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.store)

    def crop(self, rng: np.random.Generator) -> Crop:
        """Draw image, place, orientation and what the degradation leaves to chance."""
        index = int(rng.integers(len(self.store)))
        height, width = self.store.shapes[index]
        top = int(rng.integers(height - self.patch + 1))
        left = int(rng.integers(width - self.patch + 1))
        element = int(rng.integers(8))
        lr, hr = self._cut(index, Window(top, left, self.patch, self.patch), rng)
        return Crop(
            to_float(flip_rotate(lr, element)),
            to_float(flip_rotate(hr, element)),
            label=self.labels[index],
        )

    def _cut(
        self, index: int, window: Window, rng: np.random.Generator
    ) -> tuple[AnyArray, AnyArray]:
        """(LR, HR) uint8 of a window given in LR pixels."""
        hr = self.store[index]
        fine = hr[(slice(None), *window.scaled(self.scale).slices)]
        if index in self._lr:
            return self._lr[index][(slice(None), *window.slices)], fine
        height, width = self.store.shapes[index]
        around = window.grow(self.degradation.margin(self.scale) // self.scale)
        around = around.intersection(Window(0, 0, height, width)) or window
        context = hr[(slice(None), *around.scaled(self.scale).slices)]
        lr = degrade_image(context, self.degradation, self.scale, rng)
        return lr[(slice(None), *window.relative_to(around).slices)], fine

    def _degraded(self, index: int) -> AnyArray:
        rng = np.random.default_rng([VALIDATION_SEED, index])
        return degrade_image(self.store[index], self.degradation, self.scale, rng)

    def scenes(self) -> tuple[list[AnyArray], list[int]]:
        """Every LR image, (3, h, w) uint8, and the index of its class."""
        whole = [
            self._lr[i] if i in self._lr else self._degraded(i) for i in range(len(self.store))
        ]
        return whole, self.labels


class ImagePairs:
    """Whole images and their degraded versions, in order; a `PairSource`.

    Parameters
    ----------
    folder, degradation, scale, memory, skip_corrupt
        As for `ImageStore`.
    """

    def __init__(
        self,
        folder: ImageFolder,
        degradation: Degradation,
        scale: int,
        *,
        memory: float = 4 * GIB,
        skip_corrupt: bool = False,
    ) -> None:
        self.scale, self.degradation = scale, degradation
        self.store = ImageStore(folder, scale, memory=memory, skip_corrupt=skip_corrupt)

    def __len__(self) -> int:
        return len(self.store)

    def __iter__(self) -> Iterator[Pair]:
        for index, image in enumerate(self.store.images):
            rng = np.random.default_rng([VALIDATION_SEED, index])
            hr = self.store[index]
            lr = degrade_image(hr, self.degradation, self.scale, rng)
            yield Pair(image.label or image.path.stem, hr, lr)

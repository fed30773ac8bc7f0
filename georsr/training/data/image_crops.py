"""Draw crops, and list validation pairs, from image data sets that are degraded from 8-bit RGB."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.io.image_datasets import ImageFolder, LabelledImage, read_image
from georsr.radiometry.degradation import (
    VALIDATION_SEED,
    Degradation,
    ImagingChain,
    crop_to_multiple,
    degrade_image,
    to_float,
)
from georsr.training.data.crops import Crop, Pair, flip_rotate
from georsr.training.data.variation import Variation
from georsr.window import AnyArray, Window

log = logging.getLogger(__name__)

GIB = 2**30


class ImageStore:
    """HR images, decoded once; those that do not fit in memory are decoded at every use.

    Parameters
    ----------
    folder
        Images.
    scale
        Images are cropped at the bottom and right to a multiple of it.
    min_size
        Smallest height and width of an LR image.
    memory
        Bytes of pixels to keep.
    skip_corrupt
        Leave out images that cannot be decoded, with a warning, instead of raising.

    Attributes
    ----------
    images : list of LabelledImage
    labels : list of int
        Index of each image's scene class; -1 without.
    shapes : list of (int, int)
        Height and width of each image in LR pixels.

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
        min_size: int = 1,
        memory: float = 4 * GIB,
        skip_corrupt: bool = False,
    ) -> None:
        self.scale, self.min_size = scale, min_size
        self.images: list[LabelledImage] = []
        self.shapes: list[tuple[int, int]] = []
        self._in_memory: dict[int, AnyArray] = {}
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for image, result in zip(folder, pool.map(_read_or_error, folder), strict=True):
                if not isinstance(result, InputError):
                    memory -= self._add(image, result, memory)
                elif skip_corrupt:
                    log.warning("left out: %s", result)
                else:
                    pool.shutdown(cancel_futures=True)
                    raise result
        if skipped := len(folder) - len(self.images):
            log.warning("%s: %d of %d images left out", folder.root, skipped, len(folder))
        if not self.images:
            raise InputError(f"{folder.root}: no readable image is left")
        if len(self._in_memory) < len(self.images):
            log.info("%d of %d images kept in memory", len(self._in_memory), len(self.images))
        indexes = {name: index for index, name in enumerate(folder.classes)}
        self.labels = [indexes.get(image.label, -1) for image in self.images]

    def _add(self, image: LabelledImage, pixels: AnyArray, memory: float) -> int:
        """Check an image, and keep it if it fits; returns the bytes of memory it takes."""
        hr = np.ascontiguousarray(crop_to_multiple(pixels, self.scale))
        height, width = (n // self.scale for n in hr.shape[1:])
        if min(height, width) < self.min_size:
            raise InputError(
                f"{image.path}: is {pixels.shape[2]}x{pixels.shape[1]} pixels, {width}x{height} "
                f"at {self.scale}x coarser resolution, the crop is {self.min_size}: "
                "set a smaller patch in your own recipe: `georsr train --show NAME > mine.yaml`"
            )
        self.images.append(image)
        self.shapes.append((height, width))
        if hr.nbytes > memory:
            return 0
        self._in_memory[len(self.images) - 1] = hr
        return hr.nbytes

    def __len__(self) -> int:
        return len(self.images)

    def __contains__(self, index: int) -> bool:
        """Return whether image ``index`` is in memory."""
        return index in self._in_memory

    def __getitem__(self, index: int) -> AnyArray:
        """Return an HR image, (3, s * h, s * w) uint8."""
        if index in self._in_memory:
            return self._in_memory[index]
        return crop_to_multiple(read_image(self.images[index].path), self.scale)


def _read_or_error(image: LabelledImage) -> AnyArray | InputError:
    try:
        return read_image(image.path)
    except InputError as error:
        return error


class ImageCrops:
    """Random crops of an image data set, each image with the same probability; a `CropSource`.

    Parameters
    ----------
    folder
        Images.
    degradation
        Degradation from HR to LR.
    scale
        Super-resolution factor.
    patch
        Height and width of an LR crop in pixels.
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
            folder, scale, min_size=patch, memory=memory, skip_corrupt=skip_corrupt
        )
        self.classes = folder.classes
        self._lr: dict[int, AnyArray] = {}
        if degradation.fixed:
            in_memory = (i for i in range(len(self.store)) if i in self.store)
            self._lr = {i: self._degrade(i) for i in in_memory}

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.store)

    def crop(self, rng: np.random.Generator) -> Crop:
        """Draw an image, a window, an orientation and the random part of the degradation."""
        index = int(rng.integers(len(self.store)))
        height, width = self.store.shapes[index]
        top = int(rng.integers(height - self.patch + 1))
        left = int(rng.integers(width - self.patch + 1))
        element = int(rng.integers(8))
        lr, hr = self._read(index, Window(top, left, self.patch, self.patch), rng)
        return Crop(
            to_float(flip_rotate(lr, element)),
            to_float(flip_rotate(hr, element)),
            label=self.store.labels[index],
        )

    def _read(
        self, index: int, window: Window, rng: np.random.Generator
    ) -> tuple[AnyArray, AnyArray]:
        """Return (LR, HR) uint8 of a window in LR pixels."""
        image = self.store[index]
        hr = image[:, *window.scaled(self.scale).slices]
        if index in self._lr:
            return self._lr[index][:, *window.slices], hr
        margin = self.degradation.margin(self.scale) // self.scale
        full = Window(0, 0, *self.store.shapes[index])
        padded = window.grow(margin).intersection(full) or window
        context = image[:, *padded.scaled(self.scale).slices]
        lr = degrade_image(context, self.degradation, self.scale, rng)
        return lr[:, *window.relative_to(padded).slices], hr

    def _degrade(self, index: int) -> AnyArray:
        rng = np.random.default_rng([VALIDATION_SEED, index])
        return degrade_image(self.store[index], self.degradation, self.scale, rng)

    def scenes(self) -> tuple[list[AnyArray], list[int]]:
        """Return every LR image, (3, h, w) uint8, and the index of its class."""
        lr = [self._lr[i] if i in self._lr else self._degrade(i) for i in range(len(self.store))]
        return lr, self.store.labels


class VariedCrops:
    """Random crops that are varied before they are degraded; a `CropSource`.

    Parameters
    ----------
    folder
        Images.
    infrared
        Folders of gray images: those named as an image are its near infrared band.
    variation
        Variation of HR crops.
    degradation, scale, patch, memory, skip_corrupt
        As for `ImageCrops`.
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
        self.infrared = self._read_infrared(infrared)

    def _read_infrared(self, folders: Sequence[Path]) -> dict[int, AnyArray]:
        """Return the near infrared bands: index of an image -> (1, H, W) uint8."""
        bands = {}
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"{folder}: no such folder; expected images of the near infrared")
            for index, image in enumerate(self.store.images):
                path = folder / image.path.name
                if not path.is_file():
                    continue
                band = read_image(path)[:1]
                height, width = self.store.shapes[index]
                if band.shape[1:] != (height, width):
                    raise InputError(
                        f"{path}: is {band.shape[2]}x{band.shape[1]} pixels, expected the "
                        f"{width}x{height} of {image.path}"
                    )
                bands[index] = band
        return bands

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.store)

    def crop(self, rng: np.random.Generator) -> Crop:
        """Draw an image, a variation, an orientation and the random part of the degradation."""
        index = int(rng.integers(len(self.store)))
        image = self.store[index]
        if index in self.infrared:
            image = np.concatenate([image, self.infrared[index]])
        margin, size = self.degradation.margin(self.scale), self.patch * self.scale
        padded = self.variation.crop(image, size + 2 * margin, rng)
        padded = np.ascontiguousarray(flip_rotate(padded, int(rng.integers(8))))
        sensor = None
        if isinstance(self.degradation, ImagingChain):
            lr, description = self.degradation.simulate(padded, self.scale, rng)
            sensor = description.normalize()
        else:
            lr = self.degradation(padded, self.scale, rng)
        window = Window(margin // self.scale, margin // self.scale, self.patch, self.patch)
        hr = padded[:, margin : margin + size, margin : margin + size]
        label = self.store.labels[index]
        return Crop(_to_rgb(lr[:, *window.slices]), _to_rgb(hr), None, label, sensor)


def _to_rgb(bands: AnyArray) -> AnyArray:
    """Return three bands, or one band three times, contiguous."""
    return np.ascontiguousarray(np.broadcast_to(bands, (3, *bands.shape[1:])))


class ImagePairs:
    """Full images and their degraded versions, in order; a `PairSource`.

    Parameters
    ----------
    folder, degradation, scale, memory, skip_corrupt
        As for `ImageCrops`.
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

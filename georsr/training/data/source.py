"""Open the crops and validation pairs that a recipe describes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from georsr._files import find_duplicates
from georsr.errors import InputError, UsageError
from georsr.io.image_datasets import ImageFolder, detect_layout, images_in, open_dataset
from georsr.radiometry.degradation import Degradation
from georsr.training.data.crops import CropSource, PairSource
from georsr.training.data.image_crops import GIB, ImageCrops, ImagePairs, VariedCrops
from georsr.training.recipe import DataSettings

if TYPE_CHECKING:
    from georsr.training.data.raster_source import RasterSource

log = logging.getLogger(__name__)

HOLDOUT_STRIDE = 10
"""Of images that are not divided into training and validation, one in so many validates."""


def open_source(
    data: DataSettings, degradation: Degradation, *, scale: int, patch: int
) -> tuple[CropSource, PairSource]:
    """Open training crops and validation pairs.

    Parameters
    ----------
    data
        Settings of a recipe.
    degradation
        Degradation from HR to LR; not used by pairs of sensors, whose LR is real.
    scale
        Super-resolution factor.
    patch
        Height and width of LR crops in pixels.

    Returns
    -------
    CropSource, PairSource
        Sources without a common image or a common pixel of a raster.

    Raises
    ------
    UsageError
        Settings contradict each other, a folder is missing, a part or layout is unknown.
    InputError
        Data cannot be read, or there is too little of it.
    """
    if data.kind != "images":
        rasters = _rasters(data, degradation, scale, patch)
        return rasters.training(), rasters.validation()
    if data.train == data.validation:
        raise UsageError(
            f"data: part {data.train!r} is used for training and validation; name another one"
        )
    return (
        open_training(data, degradation, scale=scale, patch=patch),
        open_validation(data, degradation, scale=scale, patch=patch),
    )


def open_training(
    data: DataSettings, degradation: Degradation, *, scale: int, patch: int
) -> CropSource:
    """Open training crops; see `open_source`."""
    if data.kind != "images":
        return _rasters(data, degradation, scale, patch).training()
    folder = _without_duplicates(_image_folder(data, data.train), data)
    options: dict[str, Any] = {"memory": data.memory * GIB, "skip_corrupt": data.skip_corrupt}
    if data.variation is None:
        return ImageCrops(folder, degradation, scale, patch, **options)
    infrared = [Path(root) / data.train for root in data.near_infrared]
    return VariedCrops(folder, infrared, data.variation, degradation, scale, patch, **options)


def open_validation(
    data: DataSettings, degradation: Degradation, *, scale: int, patch: int
) -> PairSource:
    """Open validation pairs; see `open_source`. ``patch`` determines the blocks held out."""
    if data.kind != "images":
        return _rasters(data, degradation, scale, patch).validation()
    return ImagePairs(
        _image_folder(data, data.validation),
        degradation,
        scale,
        memory=data.memory * GIB,
        skip_corrupt=data.skip_corrupt,
    )


def _rasters(data: DataSettings, degradation: Degradation, scale: int, patch: int) -> RasterSource:
    # training on image folders needs no GDAL
    from georsr.training.data.raster_source import RasterSource

    return RasterSource(data, degradation, scale, patch)


def _image_folder(data: DataSettings, part: str) -> ImageFolder:
    """List the images of a part of every root, in the order of the roots."""
    if not data.root:
        raise UsageError("data: no root is given; name the folder of the data set")
    if all(_is_undivided(root, data) for root in data.root):
        return _one_in_ten([open_dataset(root, "folder") for root in data.root], data, part)
    folders = [
        open_dataset(root, data.layout, split=split, split_list=data.split_list)
        for root, split in ((root, _split_of(root, data, part)) for root in data.root)
        if split is not None or part == data.train
    ]
    if not folders:
        raise UsageError(f"data: none of the roots has a part {part!r}")
    return ImageFolder(folders[0].root, tuple(image for folder in folders for image in folder))


def _without_duplicates(folder: ImageFolder, data: DataSettings) -> ImageFolder:
    """Leave out the training images whose files equal those of a validation image."""
    try:
        held_out = _image_folder(data, data.validation)
    except (UsageError, InputError):
        return folder  # opening the validation images raises the error, if they are needed
    duplicates = find_duplicates(
        [image.path for image in folder], [image.path for image in held_out]
    )
    for path, twin in duplicates.items():
        log.warning("left out of training: %s is the same image as %s of validation", path, twin)
    images = tuple(image for image in folder if image.path not in duplicates)
    if not images:
        raise InputError(f"{folder.root}: every training image is also one for validation")
    return ImageFolder(folder.root, images)


def _is_undivided(root: str, data: DataSettings) -> bool:
    """Return whether a root is a folder of images that neither folders nor a list divide."""
    folder = Path(root)
    if data.split_list or data.layout not in ("auto", "folder") or not folder.is_dir():
        return False
    divided = any((folder / part).is_dir() for part in (data.train, data.validation))
    return not divided and detect_layout(folder) == "folder"


def _one_in_ten(folders: list[ImageFolder], data: DataSettings, part: str) -> ImageFolder:
    """Divide images: one in ten is for validation, evenly spread over their names."""
    images = [image for folder in folders for image in folder]
    if len(images) < 2:
        raise InputError(f"{folders[0].root}: one image, expected two: to train, and to validate")
    held_out = images[::HOLDOUT_STRIDE]
    if part == data.train:  # listed once
        log.info(
            "%s: has no folders %s and %s: %d of its %d images are held out for validation",
            folders[0].root,
            data.train,
            data.validation,
            len(held_out),
            len(images),
        )
    if part == data.validation:
        return ImageFolder(folders[0].root, tuple(held_out))
    return ImageFolder(folders[0].root, tuple(i for i in images if i not in held_out))


def _split_of(root: str, data: DataSettings, part: str) -> str | None:
    """Return the name of a part; None for a folder without parts, all of it for training."""
    folder = Path(root)
    no_parts = data.layout in ("auto", "folder") and not data.split_list and folder.is_dir()
    return None if no_parts and images_in(folder, "") else part

"""From settings to crops and validation pairs: the front door of this room."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from georsr.errors import UsageError
from georsr.io.image_datasets import ImageFolder, images_in, open_dataset
from georsr.radiometry.degradation import Degradation
from georsr.training.data.crops import CropSource, PairSource
from georsr.training.data.image_crops import GIB, ImageCrops, ImagePairs
from georsr.training.data.varied_crops import VariedCrops
from georsr.training.recipe import DataSettings

if TYPE_CHECKING:
    from georsr.training.data.raster_source import RasterSource


def open_source(
    data: DataSettings, degradation: Degradation, *, scale: int, patch: int
) -> tuple[CropSource, PairSource]:
    """Training crops and validation pairs.

    Parameters
    ----------
    data
        Which pixels.
    degradation
        How LR is made of HR; not used by pairs of sensors, whose LR is real.
    scale
        Super-resolution factor.
    patch
        Height and width of LR crops in pixels.

    Returns
    -------
    CropSource, PairSource
        They have no image, and no pixel of a raster, in common.

    Raises
    ------
    UsageError
        Settings that contradict each other, missing folders, an unknown part or layout.
    InputError
        Data that cannot be read, or too little of it.
    """
    if data.kind != "images":
        rasters = _rasters(data, degradation, scale, patch)
        return rasters.training(), rasters.validation()
    if data.train == data.validation:
        raise UsageError(
            f"data: part {data.train!r} is both trained and validated on; name another one"
        )
    return (
        open_training(data, degradation, scale=scale, patch=patch),
        open_validation(data, degradation, scale=scale, patch=patch),
    )


def open_training(
    data: DataSettings, degradation: Degradation, *, scale: int, patch: int
) -> CropSource:
    """The first half of `open_source`."""
    if data.kind != "images":
        return _rasters(data, degradation, scale, patch).training()
    folder = _image_folder(data, data.train)
    options: dict[str, Any] = {"memory": data.memory * GIB, "skip_corrupt": data.skip_corrupt}
    if data.variation is None:
        return ImageCrops(folder, degradation, scale, patch, **options)
    infrared = [Path(root) / data.train for root in data.near_infrared]
    return VariedCrops(folder, infrared, data.variation, degradation, scale, patch, **options)


def open_validation(
    data: DataSettings, degradation: Degradation, *, scale: int, patch: int
) -> PairSource:
    """The second half of `open_source`; ``patch`` decides the grid of blocks held out."""
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
    # imported here: training on image folders must not need GDAL
    from georsr.training.data.raster_source import RasterSource

    return RasterSource(data, degradation, scale, patch)


def _image_folder(data: DataSettings, part: str) -> ImageFolder:
    """The part of every root, in the order of the roots."""
    if not data.root:
        raise UsageError("data: no root is given; name the folder of the data set")
    folders = [
        open_dataset(root, data.layout, split=split, split_list=data.split_list)
        for root, split in ((root, _split_of(root, data, part)) for root in data.root)
        if split is not None or part == data.train
    ]
    if not folders:
        raise UsageError(f"data: none of the roots has a part {part!r}")
    return ImageFolder(folders[0].root, tuple(image for each in folders for image in each))


def _split_of(root: str, data: DataSettings, part: str) -> str | None:
    """The name of a part; None for a folder of images that has no parts: all are for training."""
    folder = Path(root)
    loose = data.layout in ("auto", "folder") and not data.split_list and folder.is_dir()
    return None if loose and images_in(folder, "") else part

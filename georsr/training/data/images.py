"""Labelled image folders: ``<root>/<class>/<image>``, as UC Merced is distributed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.types import AnyArray

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class LabelledImage:
    """One image file and the scene class its folder names."""

    path: Path
    label: str


@dataclass(frozen=True)
class ImageFolder:
    """The images of one part of a data set, in sorted order."""

    root: Path
    images: tuple[LabelledImage, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Scene classes, sorted."""
        return tuple(sorted({image.label for image in self.images}))

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[LabelledImage]:
        return iter(self.images)


def open_folder(root: Path | str, part: str | None = None) -> ImageFolder:
    """List ``<root>[/<part>]/<class>/<image>``.

    Raises
    ------
    UsageError
        The folder does not exist.
    InputError
        It holds no class folders with images.
    """
    folder = Path(root) / part if part else Path(root)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; expected <class>/<image> below it")
    images = tuple(
        LabelledImage(path, path.parent.name)
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in SUFFIXES
    )
    if not images:
        raise InputError(f"{folder}: no images; expected <class>/<name>{SUFFIXES[0]} below it")
    return ImageFolder(folder, images)


def read_image(path: Path) -> AnyArray:
    """Decode an RGB image: (3, H, W) uint8.

    Raises
    ------
    InputError
        The file is not an image Pillow can decode.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be decoded as an image ({error})") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))

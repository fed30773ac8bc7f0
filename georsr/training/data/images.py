"""Labelled images on disk: files, their scene classes, and how one is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.types import AnyArray

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("TIFF", "PNG", "JPEG", "WEBP")
"""What Pillow may take a file for, whatever its name: no other of its many decoders is run."""


@dataclass(frozen=True)
class LabelledImage:
    """One image file and the scene class its folder names (empty: none)."""

    path: Path
    label: str

    @property
    def key(self) -> str:
        """``<class>/<name>`` without suffix: how split lists call it."""
        return f"{self.label}/{self.path.stem}" if self.label else self.path.stem


@dataclass(frozen=True)
class ImageFolder:
    """The images of one part of a data set, in sorted order."""

    root: Path
    images: tuple[LabelledImage, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Scene classes, sorted; empty for images without labels."""
        return tuple(sorted({image.label for image in self.images} - {""}))

    def by_class(self) -> dict[str, tuple[LabelledImage, ...]]:
        """The images of each class, in order."""
        return {
            label: tuple(image for image in self.images if image.label == label)
            for label in self.classes
        }

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[LabelledImage]:
        return iter(self.images)


def images_in(folder: Path, label: str) -> list[LabelledImage]:
    """Image files directly inside ``folder``, sorted by name."""
    return [
        LabelledImage(path, label)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]


def images_by_class(folder: Path) -> list[LabelledImage]:
    """Image files in the folders inside ``folder``, each named after its class, sorted."""
    return [
        image
        for inner in sorted(folder.iterdir())
        if inner.is_dir()
        for image in images_in(inner, inner.name)
    ]


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
    images = tuple(images_by_class(folder))
    if not images:
        raise InputError(f"{folder}: no images; expected <class>/<name>{SUFFIXES[0]} below it")
    return ImageFolder(folder, images)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image with Pillow; whatever goes wrong with it becomes an InputError."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be decoded as an image ({error})") from error


def read_image(path: Path) -> AnyArray:
    """Decode an RGB image: (3, H, W) uint8.

    Raises
    ------
    InputError
        The file is not an image Pillow can decode.
    """
    with opened_image(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))

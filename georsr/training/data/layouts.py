"""Layouts of image data sets on disk, as their authors distribute them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from georsr.errors import InputError, UsageError
from georsr.training.data.images import ImageFolder, LabelledImage, images_by_class, images_in
from georsr.training.data.splits import AID_SIZES, UCMERCED_CLASSES, SplitList, load_split_list

log = logging.getLogger(__name__)

LAYOUTS = ("auto", "ucmerced", "aid", "folder")


class _Distribution:
    """A data set with a fixed list of class folders."""

    def __init__(
        self, title: str, places: Sequence[str], classes: Sequence[str], split_list: str
    ) -> None:
        self.title, self.places, self.classes = title, places, set(classes)
        self.split_list = split_list

    def find(self, root: Path) -> Path | None:
        """The folder of class folders at or below ``root``; more than half of them is enough."""
        for place in self.places:
            folder = root / place
            if not folder.is_dir():
                continue
            present = {inner.name for inner in folder.iterdir()} & self.classes
            if len(present) > len(self.classes) / 2:
                return folder
        return None

    def listing(self, root: Path) -> list[LabelledImage]:
        """Every image, classes in order; classes must be complete."""
        folder = self.find(root)
        if folder is None:
            raise InputError(
                f"{root}: does not hold {self.title}; looked for its {len(self.classes)} class "
                f"folders in {', '.join(place or 'the folder itself' for place in self.places)}"
            )
        missing = sorted(name for name in self.classes if not (folder / name).is_dir())
        if missing:
            raise InputError(
                f"{folder}: {self.title} without {len(missing)} of its {len(self.classes)} class "
                f"folders: {', '.join(missing)}; unpack it again"
            )
        return [i for name in sorted(self.classes) for i in images_in(folder / name, name)]


UCMERCED = _Distribution(
    "UC Merced Land Use",
    ("", "Images", "UCMerced_LandUse/Images"),
    UCMERCED_CLASSES,
    "ucmerced-funsr",
)
AID = _Distribution("AID", ("", "AID"), tuple(AID_SIZES), "aid-80-20")
DISTRIBUTIONS = {"ucmerced": UCMERCED, "aid": AID}


def detect_layout(root: Path, split: str | None = None) -> str:
    """``folder`` where a folder named after the split is there, else what the classes say."""
    if split is not None and (root / split).is_dir():
        return "folder"
    return next((n for n, each in DISTRIBUTIONS.items() if each.find(root) is not None), "folder")


def open_dataset(
    root: Path | str,
    layout: str = "auto",
    *,
    split: str | None = None,
    split_list: str = "",
) -> ImageFolder:
    """List a data set, or one part of it.

    Parameters
    ----------
    root
        Where it was unpacked.
    layout
        - ``ucmerced``: ``[UCMerced_LandUse/][Images/]<class>/<name>.tif``;
        - ``aid``: ``[AID/]<Class>/<class>_<n>.jpg``;
        - ``folder``: ``[<split>/]<class>/<image>``, or images without classes directly there;
        - ``auto``: whichever of these is found.
    split
        Name of a part (``train``, ``val``, ``test``), or None for everything.
    split_list
        Built-in list or file that says which image is in which part, see
        :func:`georsr.training.data.splits.load_split_list`. By default parts are folders in the
        layout ``folder``, ``ucmerced-funsr`` for UC Merced and ``aid-80-20`` for AID.

    Raises
    ------
    UsageError
        No such folder, layout, list or part.
    InputError
        No images, class folders missing, images of the split missing, or another layout.
    """
    root = Path(root)
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    if layout == "auto":
        layout = detect_layout(root, None if split_list else split)
        log.info("%s: read with layout %s", root, layout)
    listing: Callable[[Path], list[LabelledImage]] = _plain
    if layout in DISTRIBUTIONS:
        listing = DISTRIBUTIONS[layout].listing
        split_list = split_list or DISTRIBUTIONS[layout].split_list
    if split is None:
        return ImageFolder(root, tuple(listing(root)))
    if not split_list:
        return _split_folder(root, split)
    keys = load_split_list(split_list)
    return ImageFolder(root, _select(listing(root), keys, split, root))


def _split_folder(root: Path, split: str) -> ImageFolder:
    folder = root / split
    if not folder.is_dir():
        raise UsageError(
            f"{root}: no folder {split!r} in it; expected {split}/<class>/<image>, "
            "or give a split list"
        )
    return ImageFolder(folder, tuple(_plain(folder)))


def _plain(folder: Path) -> list[LabelledImage]:
    """Class folders of images, or images without classes."""
    images = images_by_class(folder) or images_in(folder, "")
    if not images:
        parts = [name for name in ("train", "val", "test") if (folder / name).is_dir()]
        hint = f"; it has the parts {', '.join(parts)}: name one" if parts else ""
        raise InputError(f"{folder}: no images; expected <class>/<image> or <image> in it{hint}")
    return images


def _select(
    images: list[LabelledImage], split: SplitList, part: str, root: Path
) -> tuple[LabelledImage, ...]:
    wanted = set(split[part])
    chosen = tuple(image for image in images if image.key in wanted)
    absent = sorted(wanted - {image.key for image in chosen})
    if absent:
        more = ", ..." if len(absent) > 5 else ""
        raise InputError(
            f"{root}: split list {split.name}: {len(absent)} of the {len(wanted)} images of part "
            f"{part!r} are not there: {', '.join(absent[:5])}{more}"
        )
    return chosen

"""List and read image data sets: scene classes, layouts on disk, and lists of their parts.

Split lists say which images are for training, validation and test. Built in are

``ucmerced-funsr``
    UC Merced, 1260/420/420: the list published with FunSR (K. Chen et al., IEEE TGRS 2023).
``ucmerced-half``
    UC Merced, 945/105/1050, the sizes of the split HSENet, TransENet and HAUNet report on. Their
    lists were never published as text, only as archives of images, so **this is a rule of
    georsr**: 50..99 of each class are for test and 00..49 for training, of which 09, 19, 29, 39
    and 49 for validation. Figures on it are only roughly comparable with theirs.
``aid-80-20``
    AID, 7700/300/2000, the sizes per class of the split FunSR reports on: of the n images of a
    class, int(0.8 n) - 10 are for training, 10 for validation, the rest for test. They were
    drawn at random there; **this is a rule of georsr** that takes them in the order of their
    numbers. A random list can be given as a file.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from georsr._files import is_hidden, read_list, refuse_pipe
from georsr.errors import InputError, UsageError
from georsr.window import AnyArray

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("TIFF", "PNG", "JPEG", "WEBP")
"""Formats that Pillow may decode, whatever a file's name: its other decoders are never run."""


@dataclass(frozen=True)
class LabelledImage:
    """One image file and the scene class its folder names (empty: none)."""

    path: Path
    label: str

    @property
    def key(self) -> str:
        """``<class>/<name>`` without suffix: its name in split lists."""
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

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[LabelledImage]:
        return iter(self.images)


def images_in(folder: Path, label: str) -> list[LabelledImage]:
    """List the image files directly inside ``folder``, sorted by name; not hidden files."""
    return [
        LabelledImage(path, label)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not is_hidden(path, folder) and path.is_file()
    ]


def images_by_class(folder: Path) -> list[LabelledImage]:
    """List the image files in the folders inside ``folder``, which are named after classes."""
    return [
        image
        for subfolder in sorted(folder.iterdir())
        if subfolder.is_dir() and not is_hidden(subfolder, folder)
        for image in images_in(subfolder, subfolder.name)
    ]


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image with Pillow; any failure to decode it is an InputError."""
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
    with open_image(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


AID_SIZES = {
    "Airport": 360, "BareLand": 310, "BaseballField": 220, "Beach": 400, "Bridge": 360,
    "Center": 260, "Church": 240, "Commercial": 350, "DenseResidential": 410, "Desert": 300,
    "Farmland": 370, "Forest": 250, "Industrial": 390, "Meadow": 280, "MediumResidential": 290,
    "Mountain": 340, "Park": 350, "Parking": 390, "Playground": 370, "Pond": 420, "Port": 380,
    "RailwayStation": 260, "Resort": 290, "River": 410, "School": 300, "SparseResidential": 300,
    "Square": 330, "Stadium": 290, "StorageTanks": 360, "Viaduct": 420,
}  # fmt: skip
"""Images of each class of AID (Xia et al., IEEE TGRS 55(7), 2017), 10,000 together."""

UCMERCED_CLASSES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral",
    "denseresidential", "forest", "freeway", "golfcourse", "harbor", "intersection",
    "mediumresidential", "mobilehomepark", "overpass", "parkinglot", "river", "runway",
    "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
"""The classes of UC Merced (Yang and Newsam, ACM GIS 2010), 100 images each."""


@dataclass(frozen=True)
class SplitList:
    """Parts of a data set."""

    name: str
    """Name or path of the list."""
    parts: Mapping[str, tuple[str, ...]]
    """Part -> keys ``<class>/<name>`` without suffix, sorted."""

    def __getitem__(self, part: str) -> tuple[str, ...]:
        """Return the keys of one part.

        Raises
        ------
        UsageError
            There is no such part.
        """
        if part not in self.parts:
            raise UsageError(
                f"split list {self.name} has no part {part!r}; it has {', '.join(self.parts)}"
            )
        return self.parts[part]


def _ucmerced_funsr() -> dict[str, list[str]]:
    text = (resources.files(__package__) / "ucmerced_funsr.json").read_text(encoding="utf-8")
    parts = {
        part: [f"{c}/{c}{number}" for c, numbers in by_class.items() for number in numbers.split()]
        for part, by_class in json.loads(text).items()
    }
    others = {key for keys in parts.values() for key in keys}
    all_keys = [f"{c}/{c}{i:02d}" for c in UCMERCED_CLASSES for i in range(100)]
    return {"train": [key for key in all_keys if key not in others], **parts}


def _ucmerced_half() -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label in UCMERCED_CLASSES:
        for i in range(100):
            part = "test" if i >= 50 else "val" if i % 10 == 9 else "train"
            parts[part].append(f"{label}/{label}{i:02d}")
    return parts


def _aid_80_20() -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, size in AID_SIZES.items():
        keys = [f"{label}/{label.lower()}_{i}" for i in range(1, size + 1)]
        n_train = size * 8 // 10
        parts["train"] += keys[: n_train - 10]
        parts["val"] += keys[n_train - 10 : n_train]
        parts["test"] += keys[n_train:]
    return parts


BUILTIN: dict[str, Callable[[], dict[str, list[str]]]] = {
    "ucmerced-funsr": _ucmerced_funsr,
    "ucmerced-half": _ucmerced_half,
    "aid-80-20": _aid_80_20,
}


def load_split_list(name_or_path: str) -> SplitList:
    """Read a split list.

    Parameters
    ----------
    name_or_path
        A built-in list (`BUILTIN`), or a file: JSON, ``{"train": ["beach/beach00.tif", ...],
        "val": [...]}``, or text, one ``train beach/beach00.tif`` a line (``#`` begins a comment at
        the beginning of a line or after a space).
        Suffixes of images are ignored, so one list serves every format.

    Raises
    ------
    UsageError
        There is no such list, or an image is in two parts.
    InputError
        The file is not a valid list.
    """
    path = Path(name_or_path)
    if name_or_path in BUILTIN:
        parts = BUILTIN[name_or_path]()
    elif path.is_file():
        parts = _read(path)
    else:
        raise UsageError(
            f"split list {name_or_path!r}: neither a built-in list ({', '.join(BUILTIN)}) "
            "nor a .json or .txt file"
        )
    split = SplitList(name_or_path, {part: tuple(sorted(set(parts[part]))) for part in parts})
    _check_disjoint(split)
    return split


def _read(path: Path) -> dict[str, list[str]]:
    refuse_pipe(path)
    lines = [] if path.suffix == ".json" else read_list(path)
    try:
        if path.suffix == ".json":
            parts = _from_json(json.loads(path.read_text(encoding="utf-8-sig")))
        else:
            parts = _from_lines(lines)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a split list: {error}") from error
    if not any(parts.values()):
        raise InputError(f"{path}: the split list is empty")
    return parts


def _from_json(values: Any) -> dict[str, list[str]]:
    if not (isinstance(values, dict) and all(isinstance(v, list) for v in values.values())):
        raise ValueError('expected {"train": ["<class>/<name>", ...], ...}')
    return {str(part): [_key(str(name)) for name in names] for part, names in values.items()}


def _from_lines(lines: Sequence[str]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for line in lines:
        words = re.split(r"\s#", line)[0].split(maxsplit=1)
        if len(words) != 2:
            raise ValueError(f"a line is {line!r}, expected '<part> <class>/<name>'")
        parts.setdefault(words[0], []).append(_key(words[1].strip()))
    return parts


def _key(name: str) -> str:
    """Return the last two components of a path, without the suffix of an image."""
    steps = name.replace("\\", "/").split("/")[-2:]
    stem, dot, suffix = steps[-1].rpartition(".")
    if dot and f".{suffix.lower()}" in SUFFIXES:
        steps[-1] = stem
    return "/".join(steps)


def _check_disjoint(split: SplitList) -> None:
    seen: dict[str, str] = {}
    for part, keys in split.parts.items():
        for key in keys:
            if key in seen:
                raise UsageError(
                    f"split list {split.name}: {key} is both in {seen[key]} and in {part}"
                )
            seen[key] = part


log = logging.getLogger(__name__)

LAYOUTS = ("auto", "ucmerced", "aid", "folder")


class _Distribution:
    """A published data set with a fixed list of class folders.

    Parameters
    ----------
    title
        Name for messages.
    subfolders
        Paths, below the folder it was unpacked to, where the class folders may be.
    classes
        Names of the class folders.
    split_list
        Name of the default split list.
    """

    def __init__(
        self, title: str, subfolders: Sequence[str], classes: Sequence[str], split_list: str
    ) -> None:
        self.title, self.subfolders, self.classes = title, subfolders, set(classes)
        self.split_list = split_list

    def find(self, root: Path) -> Path | None:
        """Return the first subfolder with more than half of the class folders."""
        for subfolder in self.subfolders:
            folder = root / subfolder
            if not folder.is_dir():
                continue
            present = {path.name for path in folder.iterdir()} & self.classes
            if len(present) > len(self.classes) / 2:
                return folder
        return None

    def listing(self, root: Path) -> list[LabelledImage]:
        """List every image, classes in order; all class folders must exist."""
        folder = self.find(root)
        if folder is None:
            expected = ", ".join(name or "the folder itself" for name in self.subfolders)
            raise InputError(
                f"{root}: does not hold {self.title}; expected its {len(self.classes)} class "
                f"folders in {expected}"
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
    """Return ``folder`` if there is a folder named as the split, else the layout of the classes."""
    if split is not None and (root / split).is_dir():
        return "folder"
    return next((name for name, known in DISTRIBUTIONS.items() if known.find(root)), "folder")


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
        Folder that the data set was unpacked to.
    layout
        - ``ucmerced``: ``[UCMerced_LandUse/][Images/]<class>/<name>.tif``;
        - ``aid``: ``[AID/]<Class>/<class>_<n>.jpg``;
        - ``folder``: ``[<split>/]<class>/<image>``, or images without classes directly there;
        - ``auto``: detected.
    split
        Name of a part (``train``, ``val``, ``test``), or None for everything.
    split_list
        Built-in list or file of the parts, see :func:`load_split_list`. By default parts are
        folders in the layout ``folder``, ``ucmerced-funsr`` for UC Merced and ``aid-80-20`` for
        AID.

    Raises
    ------
    UsageError
        There is no such folder, layout, list or part.
    InputError
        There are no images, or class folders or images of the split are missing.
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
    """List class folders of images, or images without classes."""
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
    selected = tuple(image for image in images if image.key in wanted)
    missing = sorted(wanted - {image.key for image in selected})
    if missing:
        dots = ", ..." if len(missing) > 5 else ""
        raise InputError(
            f"{root}: split list {split.name}: {len(missing)} of the {len(wanted)} images of part "
            f"{part!r} are missing: {', '.join(missing[:5])}{dots}"
        )
    return selected

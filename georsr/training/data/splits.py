"""Split lists: which images of a data set are for training, validation and test.

Built in are

``ucmerced-funsr``
    UC Merced, 1260/420/420: the list published with FunSR (K. Chen et al., IEEE TGRS 2023).
``ucmerced-half``
    UC Merced, 945/105/1050, the sizes of the split HSENet, TransENet and HAUNet report on. Their
    lists were never published as text, only as archives of images, so **this is a rule of our
    own**: 50..99 of each class are for test and 00..49 for training, of which 09, 19, 29, 39 and
    49 for validation. Figures on it compare with theirs approximately at best.
``aid-80-20``
    AID, 7700/300/2000, the sizes per class of the split FunSR reports on: of the n images of a
    class, int(0.8 n) - 10 are for training, 10 for validation, the rest for test. They were
    drawn at random there; **this is a rule of our own** that takes them in the order of their
    numbers. The random list can be given as a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from georsr.errors import InputError, UsageError
from georsr.training.data.images import SUFFIXES

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
    """A split by name: part -> keys ``<class>/<name>`` without suffix, sorted."""

    name: str
    parts: Mapping[str, tuple[str, ...]]

    def __getitem__(self, part: str) -> tuple[str, ...]:
        """Keys of one part.

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
    elsewhere = {key for keys in parts.values() for key in keys}
    everything = [f"{c}/{c}{i:02d}" for c in UCMERCED_CLASSES for i in range(100)]
    return {"train": [key for key in everything if key not in elsewhere], **parts}


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
        known = size * 8 // 10
        parts["train"] += keys[: known - 10]
        parts["val"] += keys[known - 10 : known]
        parts["test"] += keys[known:]
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
        "val": [...]}``, or text, one ``train beach/beach00.tif`` a line (``#`` begins a comment).
        Suffixes of images are ignored, so one list serves every format.

    Raises
    ------
    UsageError
        Neither of them, or an image is in two parts.
    InputError
        The file cannot be read as such a list.
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
    try:
        text = path.read_text(encoding="utf-8")
        parts = _from_json(json.loads(text)) if path.suffix == ".json" else _from_lines(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a split list: {error}") from error
    if not any(parts.values()):
        raise InputError(f"{path}: the split list is empty")
    return parts


def _from_json(values: Any) -> dict[str, list[str]]:
    if not (isinstance(values, dict) and all(isinstance(v, list) for v in values.values())):
        raise ValueError('expected {"train": ["<class>/<name>", ...], ...}')
    return {str(part): [_key(str(name)) for name in names] for part, names in values.items()}


def _from_lines(text: str) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split(maxsplit=1)
        if words and len(words) != 2:
            raise ValueError(f"line {number} is {line!r}, expected '<part> <class>/<name>'")
        if words:
            parts.setdefault(words[0], []).append(_key(words[1].strip()))
    return parts


def _key(name: str) -> str:
    """Last two steps of a path, without the suffix of an image."""
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

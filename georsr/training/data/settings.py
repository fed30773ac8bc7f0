"""DataSettings: everything that says which pixels a run is trained and validated on."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from georsr.errors import UsageError
from georsr.training.data.fields import from_fields
from georsr.training.data.layouts import LAYOUTS
from georsr.training.data.variation import Variation

KINDS = ("images", "scenes", "pairs")
# it may be that of a folder in the root
_PART = re.compile(r"(?!\.\.?$)[^/\\:]*")


@dataclass(frozen=True)
class DataSettings:
    """Frozen and round-tripping through plain mappings; unknown keys are errors."""

    kind: str = "images"
    """``images``: RGB image data sets. ``scenes``: rasters, degraded. ``pairs``: rasters of one
    place by two sensors."""
    root: tuple[str, ...] = ()
    """images: folders. scenes: folders, glob patterns, ``.txt`` lists or rasters. pairs: the fine
    rasters, the same way."""
    lr: tuple[str, ...] = ()
    """pairs: the coarse rasters, as many as fine ones and in the same order."""
    layout: str = "auto"
    """images: see :func:`georsr.training.data.layouts.open_dataset`."""
    split_list: str = ""
    """images: built-in list or file; empty takes the layout's own."""
    train: str = "train"
    """images: name of the part to train on."""
    validation: str = "val"
    """images: name of the part to validate on."""
    validation_root: tuple[str, ...] = ()
    """scenes: rasters to validate on, in place of blocks held out of the training rasters."""
    near_infrared: tuple[str, ...] = ()
    """images: folders laid out as the roots are, of gray images of the same names: the near
    infrared of those images, for ``variation``."""
    variation: Variation | None = None
    """images: how crops differ from the images; None: they do not."""
    bands: tuple[int, ...] = ()
    """scenes, pairs: band numbers from 1, in the model's order; empty takes all but alpha."""
    lr_bands: tuple[int, ...] = ()
    """pairs: band numbers of the coarse rasters; empty takes ``bands``."""
    stretch: str = "auto"
    """scenes, pairs: what maps to 0..1, as for ``georsr sr``."""
    nodata: float | None = None
    """scenes, pairs: value to treat as invalid, overriding the files'."""
    holdout: float = 0.1
    """scenes, pairs: share of the area kept out of training for validation."""
    max_shift: float = 0.5
    """pairs: LR pixels by which the two may lie apart."""
    correct_shift: bool = False
    """pairs: move the fine raster by the shift that is measured."""
    match_radiometry: bool = True
    """pairs: bring the fine raster to the radiometry of the coarse one, band by band."""
    skip_corrupt: bool = False
    """Leave out files that cannot be read, with a warning, instead of stopping."""
    memory: float = 4.0
    """images: GiB of decoded pixels to keep for training, and as much for validation; images
    beyond are decoded for every crop."""

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("layout", self.layout, LAYOUTS)
        for key in ("root", "lr", "validation_root", "near_infrared"):
            _check(key, getattr(self, key), _texts, "a path or a list of paths")
        for key in ("split_list", "train", "validation", "stretch"):
            _check(key, getattr(self, key), lambda v: isinstance(v, str), "text")
        for key in ("train", "validation"):
            _check(key, getattr(self, key), _PART.fullmatch, "a name without / and \\")
        for key in ("bands", "lr_bands"):
            _check(key, getattr(self, key), _band_numbers, "band numbers from 1")
        for key in ("correct_shift", "match_radiometry", "skip_corrupt"):
            _check(key, getattr(self, key), lambda v: isinstance(v, bool), "true or false")
        _check("nodata", self.nodata, lambda v: v is None or _number(v), "a number")
        _check("holdout", self.holdout, lambda v: _number(v) and 0 <= v < 1, "0 to below 1")
        _check("max_shift", self.max_shift, lambda v: _number(v) and v > 0, "a positive number")
        _check("memory", self.memory, lambda v: _number(v) and v >= 0, "GiB, at least 0")

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, lists instead of tuples."""
        plain = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        return plain | {"variation": self.variation and self.variation.to_mapping()}

    @classmethod
    def from_mapping(cls, values: Any, where: str) -> DataSettings:
        """Inverse of `to_mapping`; one value stands for a list of one."""
        if isinstance(values, dict):
            lists = ("root", "lr", "validation_root", "near_infrared", "bands", "lr_bands")
            values = {
                key: [value] if key in lists and isinstance(value, str | int) else value
                for key, value in values.items()
            }
            if values.get("variation") is not None:
                made = Variation.from_mapping(values["variation"], f"{where}: variation")
                values["variation"] = made
        return from_fields(cls, values, where)


def _one_of(key: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{key} is {value!r}, expected one of {', '.join(known)}")


def _check(key: str, value: Any, fits: Any, expected: str) -> None:
    if not fits(value):
        raise UsageError(f"{key} is {value!r}, expected {expected}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) for each in value)


def _band_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(each) is int and each > 0 for each in value)

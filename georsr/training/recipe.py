"""Define and read recipes: all settings of a training run, as one small YAML file."""

from __future__ import annotations

import dataclasses
import os
import re
import reprlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from georsr.errors import UsageError, redact_url
from georsr.io.image_datasets import LAYOUTS
from georsr.models.registry import trainable_architectures
from georsr.models.spec import LIMITS, upgrade_parameters
from georsr.radiometry.degradation import (
    BicubicDegradation,
    Degradation,
    degradation_from_dict,
    from_dict,
    is_number,
    plain_values,
)
from georsr.training.data.variation import Variation

T = TypeVar("T")

KINDS = ("images", "scenes", "pairs")
# a part may be the name of a folder in the root
_PART = re.compile(r"(?!\.\.?$)[^/\\:]*")
NAME = re.compile(r"[\w-][\w.-]{0,59}")
"""Names of models, which become names of files."""


MAX_NUMBER = 10**12
"""Largest number in a recipe: torch takes integers of 64 bits, and no infinite sizes."""
MAX_STEP_PIXELS = 10**9
"""Most pixels of the crops of one step."""


@dataclass(frozen=True)
class DataSettings:
    """Section ``data`` of a recipe: the pixels of training and validation."""

    kind: str = "images"
    """``images``: RGB image data sets. ``scenes``: rasters, which are degraded. ``pairs``: rasters
    of one place by two sensors."""
    root: tuple[str, ...] = ()
    """images: folders. scenes: folders, glob patterns, ``.txt`` lists or rasters. pairs: the fine
    rasters, given in the same ways."""
    lr: tuple[str, ...] = ()
    """pairs: the coarse rasters, as many as fine ones and in the same order."""
    layout: str = "auto"
    """images: see :func:`georsr.io.image_datasets.open_dataset`."""
    split_list: str = ""
    """images: built-in list or file; empty: that of the layout."""
    train: str = "train"
    """images: name of the part for training."""
    validation: str = "val"
    """images: name of the part for validation."""
    validation_root: tuple[str, ...] = ()
    """scenes: rasters for validation, instead of blocks held out of the training rasters."""
    near_infrared: tuple[str, ...] = ()
    """images: folders with the layout of the roots, of gray images of the same names: the near
    infrared bands of those images, for ``variation``."""
    variation: Variation | None = None
    """images: random changes of crops; None: none."""
    bands: tuple[int, ...] = ()
    """scenes, pairs: band numbers from 1, in the model's order; empty: all but alpha."""
    lr_bands: tuple[int, ...] = ()
    """pairs: band numbers of the coarse rasters; empty: ``bands``."""
    stretch: str = "auto"
    """scenes, pairs: normalization to 0..1, as for ``georsr sr``."""
    nodata: float | None = None
    """scenes, pairs: value of invalid pixels, which overrides that of the files."""
    holdout: float = 0.1
    """scenes, pairs: fraction of the area held out of training for validation."""
    max_shift: float = 0.5
    """pairs: largest accepted shift of the two rasters in LR pixels."""
    correct_shift: bool = False
    """pairs: move the fine raster by the measured shift."""
    match_radiometry: bool = True
    """pairs: convert the fine raster to the radiometry of the coarse one, band by band."""
    skip_corrupt: bool = False
    """Leave out files that cannot be read, with a warning, instead of stopping."""
    memory: float = 4.0
    """images: GiB of decoded pixels to keep for training, and as much for validation; other images
    are decoded for every crop."""

    def __post_init__(self) -> None:
        for names, is_valid, expected in (
            ("kind", KINDS.__contains__, f"one of {', '.join(KINDS)}"),
            ("layout", LAYOUTS.__contains__, f"one of {', '.join(LAYOUTS)}"),
            ("root lr validation_root near_infrared", _is_texts, "a path or a list of paths"),
            ("split_list train validation stretch", _is_text, "text"),
            ("train validation", _PART.fullmatch, "a name without / and \\"),
            ("bands lr_bands", _is_band_numbers, "band numbers from 1"),
            ("correct_shift match_radiometry skip_corrupt", _is_bool, "true or false"),
            ("nodata", lambda v: v is None or is_number(v), "a number"),
            ("holdout", lambda v: is_number(v) and 0 <= v < 1, "0 to below 1"),
            ("max_shift", lambda v: is_number(v) and v > 0, "a positive number"),
            ("memory", lambda v: is_number(v) and v >= 0, "GiB, at least 0"),
        ):
            for name in names.split():
                if not is_valid(getattr(self, name)):
                    raise UsageError(f"{name} is {getattr(self, name)!r}, expected {expected}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, lists instead of tuples."""
        variation = self.variation and self.variation.to_dict()
        return plain_values(self) | {"variation": variation}

    @classmethod
    def from_dict(cls, values: Any, context: str) -> DataSettings:
        """Build from the result of `to_dict`; a single value is accepted for a list."""
        if isinstance(values, dict):
            lists = ("root", "lr", "validation_root", "near_infrared", "bands", "lr_bands")
            values = {
                key: [value] if key in lists and isinstance(value, str | int) else value
                for key, value in values.items()
            }
            if (variation := values.get("variation")) is not None:
                values["variation"] = Variation.from_dict(variation, f"{context}: variation")
        return from_dict(cls, values, context)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


def _is_band_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and item > 0 for item in value)


@dataclass(frozen=True)
class OptimizerSettings:
    """Section ``optimizer`` of a recipe."""

    kind: str = "muon"
    """``muon``: Muon for the 3x3 kernels of the backbone's groups, Adam for the other parameters;
    ``adam``: Adam for all parameters."""
    lr: float = 1e-3
    """Peak learning rate of Adam."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decays of Adam."""
    muon_lr: float = 0.01
    """Peak learning rate of Muon."""
    weight_decay: float = 0.1
    """Decoupled weight decay of Muon, per unit of learning rate."""
    clip: float = 1.0
    """Largest norm of the gradient of the parameters of Adam; 0: no limit."""


@dataclass(frozen=True)
class ScheduleSettings:
    """Section ``schedule`` of a recipe: learning rates as fractions of their peak."""

    kind: str = "cosine"
    """``cosine``: linear rise, plateau, cosine to zero; ``steps``: multiplied at milestones."""
    warmup: int = 200
    """Steps of linear rise."""
    hold: float = 0.15
    """Fraction of the run at which the cosine begins."""
    milestones: tuple[int, ...] = ()
    """Steps after which the rate is multiplied by ``gamma``."""
    gamma: float = 0.5


@dataclass(frozen=True)
class LossSettings:
    """Section ``loss`` of a recipe: weights of the terms that are added up."""

    absolute: float = 1.0
    """Mean absolute error."""
    squared_share: float = 0.0
    """Last fraction of the run, in which ten times the mean squared error replaces the absolute
    error; it optimizes the PSNR of all images together."""
    psnr_share: float = 0.0
    """Last fraction of the run, in which the mean of the crops' PSNR replaces both; it optimizes
    the mean of the images' PSNR."""
    luma: float = 0.0
    """Weight of the luma (BT.601) in that PSNR, 0..1; the rest is that of all bands. RGB only."""
    frequency: float = 0.0
    """Mean absolute error of the Fourier coefficients."""
    semantic: float = 0.0
    """One minus the cosine of the semantic tokens of SR and HR, by the encoder as it was when the
    run began."""
    perceptual: float = 0.0
    """Mean absolute error of VGG-19 features (needs torchvision and its weights)."""
    scene: float = 0.0
    """Cross-entropy of the scene class, where images have one (segsr-lite)."""
    sensor: float = 0.02
    """Likelihood of the sensor description, if the network estimates one and crops have it."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run; a YAML file with an unknown key is an error."""

    name: str
    """Name of the trained model."""
    scale: int
    """Super-resolution factor."""
    architecture: str = "segsr-lite"
    """``segsr-lite``, ``segsr``, or another architecture that is registered."""
    network: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the architecture's network."""
    clip: str = ""
    """segsr: CLIP weights, ``ViT-B-16/openai`` or a file; empty: random."""
    lora: int = 32
    """segsr: rank of LoRA in a CLIP encoder, whose own weights are frozen; 0: all are trained."""
    data: DataSettings = field(default_factory=DataSettings)
    """Pixels of training and validation."""
    degradation: Degradation = field(default_factory=BicubicDegradation)
    """Degradation from HR to LR."""
    patch: int = 48
    """LR crop size in pixels."""
    batch: int = 8
    """Crops per step and device."""
    steps: int = 20000
    """Training steps."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    ema: float = 0.999
    """Decay of the averaged weights, which are validated and exported."""
    precision: str = "bf16"
    """Precision of the forward pass: ``fp32``, ``bf16`` or ``fp16``; weights are float32."""
    scene_epochs: int = 0
    """Epochs of scene classification before super-resolution (segsr-lite)."""
    sensor_steps: int = 0
    """Steps, of 32 crops each and at most ``steps``, in which the sensor estimator is trained alone
    before super-resolution (segsr-lite with ``sensor_dim``)."""
    init: str = ""
    """Model name, weights or checkpoint whose matching tensors initialize the run; empty: none."""
    validate_every: int = 1000
    """Steps between validations and checkpoints."""
    seed: int = 0
    """Seed of initialization and sampling."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UsageError(
                f"recipe: name is {reprlib.repr(self.name):.80}, expected at most 60 letters, "
                "digits, '.', '_' and '-', not beginning with '.'"
            )
        self._check_numbers()
        for key, known in (
            ("architecture", trainable_architectures()),
            ("precision", ("fp32", "bf16", "fp16")),
        ):
            if getattr(self, key) not in known:
                raise UsageError(
                    f"recipe: {key} is {getattr(self, key)!r}, expected {' or '.join(known)}"
                )
        fractions = {**vars(self.loss), "hold": self.schedule.hold}
        for name in ("squared_share", "psnr_share", "luma", "hold"):
            if not 0 <= (value := fractions[name]) <= 1:
                raise UsageError(f"recipe: {name} is {value}, expected 0 to 1")
        for section, kinds in (("optimizer", ("muon", "adam")), ("schedule", ("cosine", "steps"))):
            kind = getattr(self, section).kind
            if kind not in kinds:
                raise UsageError(
                    f"recipe: {section}: kind is {kind!r}, expected {' or '.join(kinds)}"
                )

    def _check_numbers(self) -> None:
        """Raise unless each number is in the range in which a training makes sense."""
        for name in ("patch", "batch", "steps", "validate_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"recipe: {name} is {getattr(self, name)}, expected at least 1")
        for name, lowest, highest in (
            ("scale", *LIMITS["scale"]),
            ("seed", 0, 2**32 - 1),
            ("patch", 1, 4096),
            ("batch", 1, 65536),
            ("lora", 0, 4096),
            ("ema", 0, 1),
        ):
            if not lowest <= (value := getattr(self, name)) <= highest:
                raise UsageError(f"recipe: {name} is {value}, expected {lowest} to {highest}")
        for section in (self, self.optimizer, self.schedule, self.loss):
            for key, value in vars(section).items():
                if is_number(value) and value < 0:
                    raise UsageError(f"recipe: {key} is {value}, expected at least 0")
        if (pixels := self.batch * (self.patch * self.scale) ** 2) > MAX_STEP_PIXELS:
            raise UsageError(
                f"recipe: a step of batch x (patch x scale)^2 has {pixels:.2g} pixels, expected at "
                f"most {MAX_STEP_PIXELS:.2g}; use a smaller batch or patch"
            )
        if not all(0 <= beta < 1 for beta in self.optimizer.betas):
            raise UsageError(
                f"recipe: optimizer: betas are {self.optimizer.betas}, expected 0 to less than 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, nested as in YAML."""
        sections = ("optimizer", "schedule", "loss")
        return {
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            **{name: plain_values(getattr(self, name)) for name in sections},
            "data": self.data.to_dict(),
            "degradation": self.degradation.to_dict(),
        }

    def to_yaml(self) -> str:
        """Return YAML, one line per value, without passwords and signatures of addresses."""
        import yaml

        return redact_url(str(yaml.safe_dump(self.to_dict(), sort_keys=False)))

    @classmethod
    def from_dict(cls, values: Any, context: str) -> Recipe:
        """Build from parsed YAML; ``context`` names the source in errors."""
        if not isinstance(values, dict):
            raise UsageError(f"{context}: expected a recipe of 'key: value' lines")
        if missing := sorted({"name", "scale"} - set(values)):
            raise UsageError(f"{context}: missing key {missing[0]!r}")
        sections: dict[str, Any] = {
            "data": DataSettings.from_dict,
            "degradation": degradation_from_dict,
            "optimizer": partial(_section, OptimizerSettings),
            "schedule": partial(_section, ScheduleSettings),
            "loss": partial(_section, LossSettings),
        }
        built = {
            key: sections[key](value, f"{context}: {key}") if key in sections else value
            for key, value in values.items()
        }
        if isinstance(built.get("network"), dict):  # recipes of older versions have other names
            architecture = built.get("architecture", cls.architecture)
            built["architecture"], built["network"] = upgrade_parameters(
                architecture, built["network"]
            )
        return _section(cls, built, context)


def _section(cls: type[T], values: Any, context: str) -> T:
    """Build a settings class and check the types of its values against the annotations."""
    if isinstance(values, dict):
        hints = typing.get_type_hints(cls)
        for key, value in values.items():
            if key in hints and not hasattr(value, "to_dict"):
                _check_type(context, str(key), value, hints[key])
    return from_dict(cls, values, context)


def _check_type(context: str, key: str, value: Any, hint: Any) -> None:
    """Raise an error if a value has not the type of an annotation such as ``tuple[int, ...]``."""
    kind, items = typing.get_origin(hint) or hint, typing.get_args(hint)
    accepted: Any = {float: (int, float), tuple: (list, tuple)}.get(kind, kind)
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise UsageError(
            f"{context}: {key} is {reprlib.repr(value):.80}, expected a value of type "
            f"{kind.__name__}"
        )
    if isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
        raise UsageError(
            f"{context}: {key} is {reprlib.repr(value):.80}, expected a finite number, at most "
            f"{MAX_NUMBER}"
        )
    if kind is tuple:
        for item in value:
            _check_type(context, f"an item of {key}", item, items[0])
        if items[-1] is not Ellipsis and len(value) != len(items):
            raise UsageError(f"{context}: {key} has {len(value)} items, expected {len(items)}")


def with_overrides(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """Return a recipe with the options of a command line.

    Parameters
    ----------
    recipe
        Recipe as it was loaded.
    options
        ``data``, ``lr_data`` and ``near_infrared`` (paths), ``bidx`` (band numbers), and any field
        with a single value; None and empty values override nothing.
    """
    given = {key: value for key, value in options.items() if value not in (None, (), "")}
    fields = {"data": "root", "lr_data": "lr", "near_infrared": "near_infrared", "bidx": "bands"}
    changes: dict[str, Any] = {
        field: tuple(given.pop(key)) for key, field in fields.items() if key in given
    }
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **changes), **given)


def builtin_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that come with georsr."""
    names = [f.name for f in (resources.files("georsr.training") / "recipes").iterdir()]
    return tuple(sorted(n.removesuffix(".yaml") for n in names if n.endswith(".yaml")))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by the name of a built-in one or by the path of a YAML file."""
    import yaml

    text: str | bytes
    if name_or_path in builtin_recipes():
        text = (resources.files("georsr.training") / "recipes" / f"{name_or_path}.yaml").read_text()
    else:
        path = Path(name_or_path)
        if not os.path.isfile(path):  # noqa: PTH113  False for a name that is too long
            raise UsageError(
                f"{name_or_path}: neither a built-in recipe ({', '.join(builtin_recipes())}) "
                "nor a YAML file"
            )
        text = path.read_bytes()  # the encoding is detected by YAML
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name_or_path}: not valid YAML ({error})".replace("\n", " ")) from error
    return Recipe.from_dict(values, name_or_path)

"""Recipe: everything a training run depends on, as one small YAML file.

DataSettings: everything that says which pixels a run is trained and validated on.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from georsr._fields import from_dict
from georsr.errors import UsageError
from georsr.io.image_datasets import LAYOUTS
from georsr.models.registry import trainable_architectures
from georsr.radiometry.degradation import BicubicDegradation, Degradation
from georsr.radiometry.degradation_kinds import degradation_from_dict
from georsr.redact import redact_url
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
    """images: see :func:`georsr.io.image_datasets.open_dataset`."""
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values, lists instead of tuples."""
        plain = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        return plain | {"variation": self.variation and self.variation.to_dict()}

    @classmethod
    def from_dict(cls, values: Any, where: str) -> DataSettings:
        """Inverse of `to_dict`; one value stands for a list of one."""
        if isinstance(values, dict):
            lists = ("root", "lr", "validation_root", "near_infrared", "bands", "lr_bands")
            values = {
                key: [value] if key in lists and isinstance(value, str | int) else value
                for key, value in values.items()
            }
            if values.get("variation") is not None:
                made = Variation.from_dict(values["variation"], f"{where}: variation")
                values["variation"] = made
        return from_dict(cls, values, where)


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


T = TypeVar("T")
NAME = re.compile(r"[\w-][\w.-]{0,59}")
"""What a model can be called: it becomes the name of a file."""


@dataclass(frozen=True)
class OptimizerSettings:
    """How weights follow their gradients."""

    kind: str = "muon"
    """``muon``: Muon for the 3x3 kernels between head and tail, Adam for the rest; ``adam``: Adam
    for everything."""
    lr: float = 1e-3
    """Adam's peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decays."""
    muon_lr: float = 0.01
    """Muon's peak learning rate."""
    weight_decay: float = 0.1
    """Decoupled weight decay of Muon, per unit of learning rate."""
    clip: float = 1.0
    """Largest norm of the gradient of Adam's parameters; 0: no limit."""


@dataclass(frozen=True)
class ScheduleSettings:
    """Learning rates over the run, as a share of their peak."""

    kind: str = "cosine"
    """``cosine``: linear rise, plateau, cosine to zero; ``steps``: multiplied at milestones."""
    warmup: int = 200
    """Steps of linear rise."""
    hold: float = 0.15
    """Share of the run at which the cosine begins."""
    milestones: tuple[int, ...] = ()
    """Steps after which the rate is multiplied by ``gamma``."""
    gamma: float = 0.5


@dataclass(frozen=True)
class LossSettings:
    """Weights of the terms that are added up."""

    absolute: float = 1.0
    """Mean absolute error."""
    squared_share: float = 0.0
    """Last share of the run in which ten times the mean squared error replaces the absolute
    error: the PSNR of all images together is what it optimises."""
    psnr_share: float = 0.0
    """Last share of the run in which the PSNR of each crop, as a mean over crops, replaces both:
    the mean of the images' PSNR is what it optimises."""
    luma: float = 0.0
    """Share of the luma (BT.601) in that PSNR, 0..1; the rest is of all bands. RGB only."""
    frequency: float = 0.0
    """Mean absolute error of the Fourier coefficients."""
    semantic: float = 0.0
    """One minus the cosine of the semantic tokens of SR and HR, seen by the encoder as it was
    when the run began."""
    perceptual: float = 0.0
    """Mean absolute error of VGG-19 features (needs torchvision and its weights)."""
    scene: float = 0.0
    """Cross-entropy of the scene class, where images have one (segsr-lite)."""
    sensor: float = 0.02
    """Likelihood of the sensor description, where the network estimates one and crops have it."""


@dataclass(frozen=True)
class Recipe:
    """Frozen settings of one training run; round-trips through YAML, unknown keys are errors."""

    name: str
    """Name of the model that comes out."""
    scale: int
    """Super-resolution factor."""
    architecture: str = "segsr-lite"
    """``segsr-lite``, ``segsr``, or another architecture that is registered."""
    network: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the architecture's network."""
    clip: str = ""
    """segsr: CLIP weights, ``ViT-B-16/openai`` or a file; empty: random."""
    lora: int = 32
    """segsr: rank of LoRA in a CLIP encoder, whose own weights stay as they are; 0: all train."""
    data: DataSettings = field(default_factory=DataSettings)
    """Where images come from."""
    degradation: Degradation = field(default_factory=BicubicDegradation)
    """How HR becomes LR."""
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
    """Decay of the averaged weights, the ones that are evaluated and exported."""
    precision: str = "bf16"
    """Of the forward pass: ``fp32``, ``bf16`` or ``fp16``; weights are float32."""
    scene_epochs: int = 0
    """Epochs of scene classification before super-resolution starts (segsr-lite)."""
    sensor_steps: int = 0
    """Steps, of 32 crops each, in which the estimator of sensors learns alone before
    super-resolution starts (segsr-lite with ``sensor``)."""
    init: str = ""
    """Model name, weights or checkpoint whose matching tensors start this run (empty: scratch)."""
    validate_every: int = 1000
    """Steps between validations and checkpoints."""
    seed: int = 0
    """Of initialisation and sampling."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UsageError(
                f"recipe: name is {reprlib.repr(self.name):.80}, expected at most 60 letters, "
                "digits, '.', '_' and '-', not beginning with '.'"
            )
        for name, at_least in (("patch", 1), ("batch", 1), ("steps", 1), ("validate_every", 1)):
            if getattr(self, name) < at_least:
                raise UsageError(
                    f"recipe: {name} is {getattr(self, name)}, expected at least {at_least}"
                )
        for key, known in (
            ("architecture", tuple(trainable_architectures())),
            ("precision", ("fp32", "bf16", "fp16")),
        ):
            if getattr(self, key) not in known:
                raise UsageError(
                    f"recipe: {key} is {getattr(self, key)!r}, expected {' or '.join(known)}"
                )
        for share in ("squared_share", "psnr_share", "luma"):
            if not 0 <= getattr(self.loss, share) <= 1:
                raise UsageError(
                    f"recipe: loss: {share} is {getattr(self.loss, share)}, expected 0 to 1"
                )
        for section, kinds in (("optimizer", ("muon", "adam")), ("schedule", ("cosine", "steps"))):
            kind = getattr(self, section).kind
            if kind not in kinds:
                raise UsageError(
                    f"recipe: {section}: kind is {kind!r}, expected {' or '.join(kinds)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, nested as in YAML."""
        plain: dict[str, Any] = {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if hasattr(value, "to_dict"):
                plain[each.name] = value.to_dict()
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                plain[each.name] = _plain(dataclasses.asdict(value))
            else:
                plain[each.name] = value
        return plain

    def to_yaml(self) -> str:
        """One line per value, without passwords and signatures of addresses."""
        import yaml

        return redact_url(str(yaml.safe_dump(self.to_dict(), sort_keys=False)))

    @classmethod
    def from_dict(cls, values: Any, where: str) -> Recipe:
        """Build from parsed YAML; ``where`` names the source in errors."""
        if not isinstance(values, dict):
            raise UsageError(f"{where}: a recipe is a list of 'key: value' lines")
        if missing := sorted({"name", "scale"} - set(values)):
            raise UsageError(f"{where}: missing key {missing[0]!r}")
        sections: dict[str, Any] = {
            "data": DataSettings.from_dict,
            "degradation": degradation_from_dict,
            "optimizer": lambda v, w: _section(OptimizerSettings, v, w),
            "schedule": lambda v, w: _section(ScheduleSettings, v, w),
            "loss": lambda v, w: _section(LossSettings, v, w),
        }
        built = {
            key: sections[key](value, f"{where}: {key}") if key in sections else value
            for key, value in values.items()
        }
        return _section(cls, built, where)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _section(cls: type[T], values: Any, where: str) -> T:
    """Build a settings class, its values checked against the annotations."""
    if isinstance(values, dict):
        kinds = typing.get_type_hints(cls)
        for key, value in values.items():
            if key in kinds and not hasattr(value, "to_dict"):
                _check_kind(where, str(key), value, kinds[key])
    return from_dict(cls, values, where)


def _check_kind(where: str, key: str, value: Any, kind: Any) -> None:
    origin = typing.get_origin(kind)
    plain = origin if isinstance(kind, types.GenericAlias) or origin else kind
    accepted: Any = {float: (int, float), tuple: (list, tuple)}.get(plain, plain)
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise UsageError(
            f"{where}: {key} is {reprlib.repr(value):.80}, expected a value of type "
            f"{plain.__name__}"
        )
    if plain is tuple:
        item = typing.get_args(kind)[0]
        for each in value:
            _check_kind(where, f"an item of {key}", each, item)
        if typing.get_args(kind)[-1] is not Ellipsis and len(value) != len(typing.get_args(kind)):
            raise UsageError(
                f"{where}: {key} has {len(value)} items, expected {len(typing.get_args(kind))}"
            )


def with_overrides(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """A recipe with what a command line says instead.

    Parameters
    ----------
    recipe
        As it was loaded.
    options
        ``data``, ``lr_data`` and ``near_infrared`` (paths), ``bidx`` (band numbers), and any field
        that holds one value; None and empty values override nothing.
    """
    given = {key: value for key, value in options.items() if value not in (None, (), "")}
    names = {
        "data": "root",
        "lr_data": "lr",
        "near_infrared": "near_infrared",
        "bidx": "bands",
    }
    of_data: dict[str, Any] = {
        ours: tuple(given.pop(key)) for key, ours in names.items() if key in given
    }
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **of_data), **given)


def builtin_recipes() -> tuple[str, ...]:
    """Names of the recipes that ship with georsr."""
    folder = resources.files("georsr.training.recipes")
    return tuple(
        sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml"))
    )


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by the name of a built-in one or by the path of a YAML file."""
    import yaml

    text: str | bytes
    if name_or_path in builtin_recipes():
        text = (resources.files("georsr.training.recipes") / f"{name_or_path}.yaml").read_text()
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(
                f"{name_or_path}: neither a built-in recipe ({', '.join(builtin_recipes())}) "
                "nor a YAML file"
            )
        text = path.read_bytes()  # YAML says itself how it is encoded
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name_or_path}: not valid YAML ({error})".replace("\n", " ")) from error
    return Recipe.from_dict(values, name_or_path)

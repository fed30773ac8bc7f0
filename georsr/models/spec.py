"""ModelSpec, the specification of a model in its weights file; names of older files."""

from __future__ import annotations

import json
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from georsr._files import has_type
from georsr.errors import ModelError

METADATA_KEY = "georsr"
SCENE = "scene"
"""Value of `ModelSpec.kernel`: the kernel is estimated from each scene."""
SOFTLY = "scene, softly"
"""The same; by default only the smooth part of the residual is corrected, because the network knows
the detail between neighbouring pixels better than its source."""


MAX_NAME = 100
"""Characters of a model's name, which is part of file names and messages."""
LIMITS = {
    "scale": (1, 8),
    "bands": (0, 65535),
    "multiple_of": (1, 4096),
    "tile": (1, 65536),
    "halo": (0, 16384),
    "overlap": (0, 16384),
}
"""Lowest and highest value of the numbers of a specification."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything that running a model requires."""

    name: str
    """Short name, ``[a-z0-9-]+``, as typed after ``--model``."""
    architecture: str
    """Name of a registered architecture (:mod:`georsr.models.registry`)."""
    scale: int
    """Output pixels per input pixel along each axis: 1 to 8."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the architecture."""
    bands: int = 3
    """Input (and output) bands; 0 means any number, each treated alike."""
    band_names: tuple[str, ...] = ("red", "green", "blue")
    """Names of the bands, in order; empty when ``bands`` is 0."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Range of the values the network was trained on, in and out."""
    multiple_of: int = 1
    """Height, width and offset of every tile are multiples of this (LR pixels)."""
    tile: int = 128
    """Height and width of a tile (LR pixels)."""
    halo: int = 8
    """Margin of a tile that is not used where a neighbour covers it (LR pixels)."""
    overlap: int = 8
    """Width over which neighbouring tiles are blended, inside the halo (LR pixels)."""
    degradation: str = "bicubic"
    """Kind of the degradation from HR to LR in training."""
    kernel: str = ""
    """Kernel by which the output reduces to the source, which consistency enforces: a name (see
    :mod:`georsr.radiometry.kernels`), ``scene`` for the one that fits the scene best, ``scene,
    softly``, or empty if it is unknown."""
    licence: str = "Apache-2.0"
    """SPDX licence of the weights."""
    trained_on: str = ""
    """Training data and budget, in one sentence."""
    quality: dict[str, float] = field(default_factory=dict)
    """Measured quality, for example ``{"ucmerced-val-y-psnr": 28.6}``."""
    notes: str = ""
    """Notes on when to use it."""

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME:
            raise ModelError(f"model name of {len(self.name)} characters, expected {MAX_NAME}")
        for name, (lowest, highest) in LIMITS.items():
            if not lowest <= (value := getattr(self, name)) <= highest:
                raise ModelError(
                    f"model {self.name}: {name} {value:.6g}, expected {lowest} to {highest}"
                )
        if self.tile % self.multiple_of:
            raise ModelError(
                f"model {self.name}: tile {self.tile} is not a multiple of {self.multiple_of}"
            )
        low, high = self.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ModelError(
                f"model {self.name}: value_range {low:g}, {high:g}, expected the lower number first"
            )

    @property
    def uses_sensor(self) -> bool:
        """Whether the network takes a sensor description."""
        return bool(self.parameters.get("sensor_dim"))

    def to_json(self) -> str:
        """Serialise to one line of JSON (sorted keys)."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Parse the text of `to_json`; unknown or missing fields and wrong types are errors."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"model spec is not valid JSON: {error}") from error
        if not isinstance(raw, dict):
            raise ModelError(f"model spec is a JSON {type(raw).__name__}, expected an object")
        types = typing.get_type_hints(cls)
        if unknown := sorted(set(raw) - set(types)):
            raise ModelError(
                f"model spec has unknown fields {', '.join(unknown[:5]):.200}; "
                "it may come from a newer georsr"
            )
        for key, value in raw.items():
            if not has_type(value, types[key]):
                raise ModelError(f"model spec: {key} is {value!r:.80}, expected {types[key]}")
        for key in ("band_names", "value_range"):
            if key in raw:
                raw[key] = tuple(raw[key])
        try:
            return cls(**raw)
        except TypeError as error:
            raise ModelError(f"model spec is incomplete: {error}") from error


T = TypeVar("T")

PARAMETERS = {
    "width": "embed_dim",
    "groups": "num_groups",
    "blocks": "depth",
    "heads": "num_heads",
    "tokens": "token_dim",
    "tuning": "film_dim",
    "sensor": "sensor_dim",
    "clip": "encoder_options",
}
"""Old parameter of a network -> its present name."""
ENCODER_OPTIONS = {
    "heads": "num_heads",
    "patch": "patch_size",
    "tokens": "token_dim",
    "grid": "grid_size",
}
"""Old option of an encoder -> its present name."""

TENSORS = (
    # (pattern of an old state-dict key, its present form), applied in this order
    (r"^backbone\.head\.", "backbone.conv_first."),
    (r"^backbone\.groups\.0\.entry\.", "backbone.patch_norm."),
    (r"\.blocks\.(\d+)\.attention\.", r".blocks.\1.attn."),
    (r"\.blocks\.(\d+)\.convolution\.", r".blocks.\1.conv_block."),
    (r"\.overlap\.attention\.", ".overlap_attn.attn."),
    (r"\.overlap\.", ".overlap_attn."),
    (r"\.attn\.bias_table$", ".attn.relative_position_bias.table"),
    (r"^tail\.body\.", "backbone.conv_after_body."),
    (r"^tail\.before\.", "upsampler.conv_before_upsample."),
    (r"^tail\.steps\.", "upsampler.upsample."),
    (r"^tail\.last\.", "upsampler.conv_last."),
    (r"^tail\.", "upsampler.conv."),
    (r"^encoder\.inner\.", "encoder."),
    (r"^localization\.scene_prompt\.", "localization.global_prompt."),
    (r"^tuning\.squeeze\.", "scene_film.mlp.0."),
    (r"^tuning\.", "scene_film."),
    (r"^estimator\.", "sensor_estimator."),
    (r"^sensor_tuning\.lift\.", "sensor_film.mlp.0."),
    (r"^sensor_tuning\.mix\.", "sensor_film.mlp.1."),
    (r"^sensor_tuning\.", "sensor_film."),
)
"""Old keys of the state dicts of SeG-SR networks -> present keys."""


def upgrade_spec(spec: ModelSpec) -> ModelSpec:
    """Return a specification with the present names of architecture and parameters."""
    architecture, parameters = upgrade_parameters(spec.architecture, spec.parameters)
    return replace(spec, architecture=architecture, parameters=parameters)


def upgrade_parameters(
    architecture: str, parameters: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the present names of an architecture and its parameters."""
    if architecture not in ("segsr", "segsr-lite"):
        return architecture, dict(parameters)
    parameters = _renamed(parameters, PARAMETERS)
    if parameters.get("encoder_options"):
        parameters["encoder_options"] = _renamed(parameters["encoder_options"], ENCODER_OPTIONS)
    if parameters.pop("published", False):
        architecture = "segsr-published"
    elif "num_heads" in parameters:
        heads = parameters.pop("num_heads")
        if parameters.get("backbone", "hat") == "hat":
            parameters["backbone_options"] = {"num_heads": heads}
    return architecture, parameters


def _renamed(parameters: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in parameters.items()}


def upgrade_state_dict(state: Mapping[str, T]) -> dict[str, T]:
    """Return a state dict of a network with the present keys."""
    return {_upgraded_key(key): value for key, value in state.items()}


def refuse_old_plain_backbone(spec: ModelSpec, state: Mapping[str, T], where: str) -> None:
    """Refuse older weights of ``segsr`` with the backbone ``plain``, which give other pixels now.

    Parameters
    ----------
    spec
        Present specification of the model.
    state
        Its state dict, as it is in the file.
    where
        Name of the file, for the error.

    Raises
    ------
    ModelError
        The network of these weights did not add its output to bicubic, as the present one does.
    """
    plain = spec.architecture == "segsr" and spec.parameters.get("backbone") == "plain"
    if plain and any(key.startswith("backbone.head.") for key in state):
        raise ModelError(
            f"{where}: weights of segsr with the backbone plain from an earlier version, whose "
            "output was not added to bicubic; train the model again"
        )


def _upgraded_key(key: str) -> str:
    for pattern, present in TENSORS:
        key = re.sub(pattern, present, key)
    return key

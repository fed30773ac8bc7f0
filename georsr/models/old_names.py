"""Names of older weights files, mapped to those of the present code when a file is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from georsr.errors import ModelError
from georsr.models.spec import ModelSpec

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
    if spec.architecture not in ("segsr", "segsr-lite"):
        return spec
    parameters = _renamed(spec.parameters, PARAMETERS)
    if parameters.get("encoder_options"):
        parameters["encoder_options"] = _renamed(parameters["encoder_options"], ENCODER_OPTIONS)
    architecture = spec.architecture
    if parameters.pop("published", False):
        architecture = "segsr-published"
    elif "num_heads" in parameters:
        heads = parameters.pop("num_heads")
        if parameters.get("backbone", "hat") == "hat":
            parameters["backbone_options"] = {"num_heads": heads}
    return replace(spec, architecture=architecture, parameters=parameters)


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

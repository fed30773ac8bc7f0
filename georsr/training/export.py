"""Export: from a checkpoint to the weights file that users run; and back, to start a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from georsr.errors import ModelError
from georsr.models.io import load_weights, open_model, save_model
from georsr.models.old_names import upgrade_state_dict
from georsr.models.segsr.segsr import SegSR
from georsr.models.spec import ModelSpec
from georsr.training.checkpoint import check_recipe, load_checkpoint
from georsr.training.module import for_inference, training_network
from georsr.training.recipe import Recipe

log = logging.getLogger(__name__)

PREFIX = "network."
"""Of the network's tensors in a checkpoint, beside those of losses and classifiers."""


def averaged_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights of the network alone, by its own names."""
    return {
        key.removeprefix(PREFIX): value
        for key, value in state["state_dict"].items()
        if key.startswith(PREFIX)
    }


def export_checkpoint(
    checkpoint: Path,
    target: Path,
    recipe: Recipe,
    *,
    trained_on: str,
    quality: Mapping[str, float],
    notes: str = "",
) -> ModelSpec:
    """Fuse the branches, merge LoRA, halve the precision, and write weights with their contract.

    Parameters
    ----------
    checkpoint
        ``best.ckpt`` or ``last.ckpt`` of a run.
    target
        ``.safetensors`` file to write.
    recipe
        Of the run.
    trained_on, quality, notes
        For the model's spec: data and budget, measured figures, when to use it.
    """
    state = load_checkpoint(checkpoint)
    check_recipe(state, recipe)
    network = training_network(recipe)
    load_weights(network, averaged_weights(state), str(checkpoint))
    whole, spec = for_inference(network, recipe)
    spec = replace(
        spec,
        trained_on=trained_on,
        quality={**quality, "steps": float(state["global_step"])},
        notes=notes,
    )
    save_model(target, spec, whole)
    return spec


def infer_network(recipe: Recipe) -> Recipe:
    """A recipe whose empty ``network`` becomes that of the model it starts from."""
    if recipe.network or not recipe.init or recipe.init.endswith(".ckpt"):
        return recipe
    spec = open_model(recipe.init).spec
    if spec.architecture != recipe.architecture:
        return recipe
    return replace(recipe, network={**spec.parameters, "bands": spec.bands})


def load_init_weights(network: SegSR, source: str) -> None:
    """Start from the weights of another run or model, where names and shapes agree.

    Parameters
    ----------
    network
        In its training form; changed in place.
    source
        A ``.ckpt`` of a run, whose average is taken, or a model's name or file, whose fused
        kernels become the 3x3 branches (the other branches start as they are).

    Raises
    ------
    ModelError
        Not one tensor fits.
    """
    if source.endswith(".ckpt"):
        theirs = upgrade_state_dict(averaged_weights(load_checkpoint(Path(source))))
    else:
        theirs = open_model(source).network.state_dict()
    ours = network.state_dict()
    fitting = {}
    for key, value in ours.items():
        names = (key, key.replace(".base_layer.", "."), _fused_name(key))
        found = next((theirs[n] for n in names if n in theirs), None)
        if found is not None and found.shape == value.shape:
            fitting[key] = found
    if not fitting:
        raise ModelError(f"{source}: no tensor fits this recipe's network")
    network.load_state_dict({**ours, **fitting})
    log.info("initialised %d of %d tensors from %s", len(fitting), len(ours), source)


def _fused_name(key: str) -> str:
    """What the 3x3 branch of a convolution is called once it is the only one."""
    return f"{key.removesuffix('kernel')}weight" if key.endswith(".kernel") else key

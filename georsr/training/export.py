"""Export checkpoints to weights files, and initialize runs from weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from georsr.errors import ModelError
from georsr.models.io import load_weights, open_model, save_model
from georsr.models.segsr import SegSR
from georsr.models.spec import ModelSpec, upgrade_state_dict
from georsr.training.checkpoint import check_recipe, load_checkpoint
from georsr.training.module import for_inference, training_network
from georsr.training.recipe import Recipe

log = logging.getLogger(__name__)

PREFIX = "network."
"""Prefix of the network's tensors in a checkpoint; losses and classifiers have others."""


def averaged_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averaged weights of the network alone, by its own names."""
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
) -> ModelSpec:
    """Fuse the branches, merge LoRA, and write the weights with their spec.

    Parameters
    ----------
    checkpoint
        ``best.ckpt`` or ``last.ckpt`` of a run.
    target
        ``.safetensors`` file to write.
    recipe
        Recipe of the run.
    trained_on, quality
        Fields of the model's spec: data and budget, measured figures.
    """
    state = load_checkpoint(checkpoint)
    check_recipe(state, recipe)
    network = training_network(recipe)
    load_weights(network, averaged_weights(state), str(checkpoint))
    fused, spec = for_inference(network, recipe)
    spec = replace(
        spec,
        trained_on=trained_on,
        quality={**quality, "steps": float(state["global_step"])},
    )
    save_model(target, spec, fused)
    return spec


def infer_network(recipe: Recipe) -> Recipe:
    """Return a recipe whose empty ``network`` is replaced by that of the model it starts from."""
    if recipe.network or not recipe.init or recipe.init.endswith(".ckpt"):
        return recipe
    spec = open_model(recipe.init).spec
    if spec.architecture != recipe.architecture:
        return recipe
    return replace(recipe, network={**spec.parameters, "bands": spec.bands})


def load_init_weights(network: SegSR, source: str) -> None:
    """Copy the weights of another run or model, where names and shapes agree.

    Parameters
    ----------
    network
        Network in its training form; changed in place.
    source
        A ``.ckpt`` of a run, whose averaged weights are used, or a model's name or file, whose
        fused kernels become the 3x3 branches (the other branches are not changed).

    Raises
    ------
    ModelError
        No tensor fits.
    """
    if source.endswith(".ckpt"):
        given = upgrade_state_dict(averaged_weights(load_checkpoint(Path(source))))
    else:
        given = open_model(source).network.state_dict()
    state = network.state_dict()
    fitting = {}
    for key, value in state.items():
        names = (key, key.replace(".base_layer.", "."), _fused_name(key))
        tensor = next((given[name] for name in names if name in given), None)
        if tensor is not None and tensor.shape == value.shape:
            fitting[key] = tensor
    if not fitting:
        raise ModelError(f"{source}: no tensor fits this recipe's network")
    network.load_state_dict({**state, **fitting})
    # what is zero, such as the branches that are fused into kernels, does not change the result
    untrained = [key for key in state.keys() - fitting.keys() if state[key].any()]
    text = f"starting from {source}"
    if untrained:
        kinds = sorted({key.rpartition(".")[2] for key in untrained})
        text += f": {len(fitting)} of {len(state)} tensors fit; not trained yet: "
        text += ", ".join(kinds[:5])
    log.info(text)


def _fused_name(key: str) -> str:
    """Return the name, in a fused network, of the 3x3 branch of a convolution."""
    return f"{key.removesuffix('kernel')}weight" if key.endswith(".kernel") else key

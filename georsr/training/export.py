"""Export: from a checkpoint to the weights file that users run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from georsr.models.lite.network import SegSRLite
from georsr.models.load import save_model
from georsr.models.spec import ModelSpec
from georsr.training.loop import load_checkpoint
from georsr.training.recipe import Recipe

NETWORK_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(SegSRLite).parameters.items()
    if name in ("width", "groups", "blocks", "tokens")
}
"""Written into every spec, so that a later change of a default breaks no weights."""


def network_from_checkpoint(path: Path) -> tuple[Recipe, SegSRLite, int]:
    """(recipe, fused network with the averaged weights, step) of a checkpoint."""
    state = load_checkpoint(path)
    recipe = Recipe.from_mapping(json.loads(state["recipe"]), str(path))
    network = SegSRLite(recipe.scale, fused=False, **recipe.network)
    network.load_state_dict(state["average"])
    return recipe, network.fuse().eval().requires_grad_(False), int(state["step"])


def export_checkpoint(
    checkpoint: Path,
    target: Path,
    *,
    trained_on: str,
    quality: Mapping[str, float],
    notes: str = "",
) -> ModelSpec:
    """Fuse the branches, halve the precision, and write weights with their contract.

    Parameters
    ----------
    checkpoint
        ``best.pt`` or ``last.pt`` of a run.
    target
        ``.safetensors`` file to write.
    trained_on, quality, notes
        For the model's spec: data and budget, measured figures, when to use it.
    """
    recipe, network, step = network_from_checkpoint(checkpoint)
    spec = ModelSpec(
        name=recipe.name,
        architecture="segsr-lite",
        scale=recipe.scale,
        parameters={**NETWORK_DEFAULTS, **recipe.network},
        tile=192,
        halo=4,
        overlap=8,
        trained_on=trained_on,
        notes=notes,
    )
    spec = replace(spec, quality={**quality, "steps": float(step)})
    save_model(target, spec, network)
    return spec

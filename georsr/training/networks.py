"""Networks in the form in which they train, and back to the form in which they run."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from georsr.errors import UsageError
from georsr.models.lite.network import SegSRLite
from georsr.models.segsr.network import SegSR, segsr
from georsr.models.spec import SCENE, SOFTLY, ModelSpec
from georsr.training.data.degrade import Bicubic
from georsr.training.losses import SemanticError
from georsr.training.recipe import Recipe

TILES: dict[str, dict[str, Any]] = {
    "segsr-lite": {"tile": 192, "halo": 4, "overlap": 8, "multiple_of": 1},
    "segsr": {"tile": 64, "halo": 8, "overlap": 8, "multiple_of": 16},
}
"""How the engine cuts a raster for each architecture, in LR pixels."""

Network = SegSRLite | SegSR


def training_network(recipe: Recipe) -> Network:
    """Build the network a recipe describes, with everything that only training needs.

    segsr-lite has its branches; a CLIP encoder has its weights and LoRA beside them.

    Raises
    ------
    UsageError
        The recipe's network arguments do not fit its architecture.
    ModelError
        CLIP weights are missing or damaged.
    """
    if recipe.architecture == "segsr-lite":
        known = set(inspect.signature(SegSRLite).parameters) - {"scale", "fused"}
        _check_arguments(recipe, known)
        return SegSRLite(recipe.scale, **{**recipe.network, "fused": False})
    _check_arguments(recipe, set(inspect.signature(segsr).parameters) - {"scale", "published"})
    arguments = dict(recipe.network)
    encoder = None
    if recipe.clip:
        from georsr.models.segsr.clip_weights import load_clip

        encoder = load_clip(recipe.clip, recipe.scale)
        arguments["clip"] = encoder.options
    network = segsr(recipe.scale, **arguments)
    if encoder is not None:
        network.encoder.load_state_dict(encoder.state_dict())
    if recipe.lora > 0 and arguments.get("encoder", "clip") == "clip":
        from georsr.models.segsr.lora import add_lora

        add_lora(network.encoder, rank=recipe.lora, alpha=recipe.lora)  # type: ignore[arg-type]
    return network


def _check_arguments(recipe: Recipe, known: set[str]) -> None:
    if unknown := sorted(set(recipe.network) - known):
        raise UsageError(
            f"recipe {recipe.name}: network has no argument {unknown[0]!r}; "
            f"{recipe.architecture} knows {', '.join(sorted(known))}"
        )


def enlarge(
    network: Network, lr: Tensor, sensor: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Super-resolve (N, C, h, w) in 0..1: the image, and the scene vectors where there are some.

    ``sensor`` is (N, COUNT), for a network that is told how the images were recorded.
    """
    if isinstance(network, SegSRLite):
        return network.enlarge(lr, sensor)
    image, extra = network.enlarge(lr)
    return image, extra if isinstance(extra, Tensor) else None


def senses(network: nn.Module) -> bool:
    """Whether a network estimates, and is told, how a scene was recorded."""
    return isinstance(network, SegSRLite) and network.senses


def with_errors(truth: Tensor, estimate: Tensor) -> Tensor:
    """What a network in training is told of the sensor, all (N, COUNT) and normalised.

    A crop's own estimate for one half of the crops. For the other half the truth with an error of a
    random size, times what makes it the best guess under a standard normal prior, as estimates are;
    and for one crop in ten zero, as where nothing is known.
    """
    kind = torch.rand(len(truth), 1, device=truth.device)
    size = torch.rand(len(truth), 1, device=truth.device)
    wrong = (truth + size * torch.randn_like(truth)) / (1 + size.square())
    told = torch.where(kind < 0.5, estimate, wrong)
    return told * (kind < 0.9)


def semantic_error(network: Network) -> SemanticError:
    """A frozen copy of a network's encoder that compares images by what they show."""
    if isinstance(network, SegSRLite):
        if not network.guided:
            raise UsageError("recipe: loss: semantic needs a network with guidance")
        return SemanticError(network.encoder, network.mean, network.gain)
    return SemanticError(network.encoder)


def split_parameters(
    network: nn.Module, muon: bool
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(3x3 kernels inside the backbone's groups, for Muon; all other trained parameters)."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if not muon:
        return [], trained
    groups: Any = network.backbone.groups  # type: ignore[union-attr]
    kernels = [p for p in groups.parameters() if p.requires_grad and p.ndim == 4]
    chosen = {id(p) for p in kernels}
    return kernels, [p for p in trained if id(p) not in chosen]


def finished(network: Network, recipe: Recipe) -> tuple[nn.Module, ModelSpec]:
    """The network as users run it, branches fused and LoRA merged, and a spec that rebuilds it."""
    whole: nn.Module
    if isinstance(network, SegSRLite):
        whole = network.fuse()
        # Written out in full, so that a later change of a default breaks no weights.
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(SegSRLite).parameters.items()
            if name not in ("scale", "bands", "fused")
        }
        parameters = {**defaults, **recipe.network}
        bands = int(parameters.pop("bands", 3))
    else:
        whole = copy.deepcopy(network)
        parameters = dict(recipe.network)
        bands = 3
        if hasattr(whole.encoder, "options"):
            from georsr.models.segsr.lora import merge_lora

            parameters["clip"] = dict(whole.encoder.options)  # type: ignore[arg-type]
            merge_lora(whole.encoder)  # type: ignore[arg-type]
    # drawn degradations fit no scene in particular: the scene says which kernel it is
    kernel = "bicubic" if isinstance(recipe.degradation, Bicubic) else SCENE
    spec = ModelSpec(
        name=recipe.name,
        architecture=recipe.architecture,
        scale=recipe.scale,
        parameters=parameters,
        bands=bands,
        band_names=("red", "green", "blue") if bands == 3 else (),
        degradation=recipe.degradation.name,
        kernel=SOFTLY if senses(network) else kernel,
        **TILES[recipe.architecture],
    )
    return whole.eval().requires_grad_(False), spec

"""Zoo: every architecture and every built-in model, in one visible table."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from georsr.errors import ModelError, UsageError
from georsr.models.spec import METADATA_KEY, ModelSpec

if TYPE_CHECKING:
    from torch import nn

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
DEFAULT = "segsr-lite-x{scale}-sensor"
"""What ``georsr sr`` uses when no model is named: users bring what sensors recorded, and networks
that only know bicubic pairs hardly sharpen that."""


def _bicubic(spec: ModelSpec) -> nn.Module:
    from georsr.models.interpolation import Bicubic

    return Bicubic(spec.scale)


def _nearest(spec: ModelSpec) -> nn.Module:
    from georsr.models.interpolation import Nearest

    return Nearest(spec.scale)


def _segsr_lite(spec: ModelSpec) -> nn.Module:
    from georsr.models.segsr.lite import SegSRLite

    return SegSRLite(spec.scale, bands=spec.bands, **spec.parameters)


def _segsr(spec: ModelSpec) -> nn.Module:
    from georsr.models.segsr.segsr import build

    return build(spec)


ARCHITECTURES: dict[str, Callable[[ModelSpec], nn.Module]] = {
    "bicubic": _bicubic,
    "nearest": _nearest,
    "segsr-lite": _segsr_lite,
    "segsr": _segsr,
}
"""Architecture name -> builder of an untrained network."""


def _computed(architecture: str, scale: int, halo: int, notes: str) -> ModelSpec:
    return ModelSpec(
        name=f"{architecture}-x{scale}",
        architecture=architecture,
        scale=scale,
        bands=0,
        band_names=(),
        tile=256,
        halo=halo,
        overlap=0,
        trained_on="nothing: a fixed kernel",
        notes=notes,
    )


COMPUTED: dict[str, ModelSpec] = {
    spec.name: spec
    for scale in (1, 2, 3, 4)
    for spec in (
        _computed("bicubic", scale, 2, "baseline: any bands, invents nothing"),
        _computed("nearest", scale, 0, "repeats pixels; for checks"),
    )
}
"""Models without weights."""


COMPUTED_ARCHITECTURES = frozenset(spec.architecture for spec in COMPUTED.values())
"""Fixed kernels, which suit any numbers."""


def weights_folder() -> Path:
    """Folder of the weights that ship with georsr."""
    return Path(str(resources.files("georsr.models.weights")))


def bundled_weights() -> dict[str, Path]:
    """Name -> file of the weights that ship with georsr."""
    return {path.stem: path for path in sorted(weights_folder().glob("*.safetensors"))}


def read_spec(path: Path) -> ModelSpec:
    """Read the contract stored in a safetensors file, without its weights and without torch.

    Raises
    ------
    ModelError
        The file is damaged or was not written by georsr.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from error
    if METADATA_KEY not in metadata:
        raise ModelError(
            f"{path}: has no georsr model spec in its metadata; "
            "make one with 'georsr models convert' or 'georsr train'"
        )
    return ModelSpec.from_json(metadata[METADATA_KEY])


def list_models() -> list[ModelSpec]:
    """Contracts of all built-in models, bundled weights first."""
    specs = [read_spec(path) for path in bundled_weights().values()]
    return specs + [spec for name, spec in COMPUTED.items() if not name.endswith("-x1")]


def resolve_name(name: str | None, scale: int | None) -> str:
    """Complete a model name by its scale: (None, None) -> the default model at x4.

    Raises
    ------
    UsageError
        The name says one scale and ``scale`` another, or no network is the default at it.
    """
    if not name:
        name = DEFAULT.format(scale=scale or 4)
        if name not in bundled_weights():
            raise UsageError(
                f"no bundled network enlarges x{scale}, they enlarge x2 and x4; choose one of "
                "these, a model of your own, or --model bicubic, which goes up to x4"
            )
    if not NAME.fullmatch(name):
        return name
    match = re.search(r"-x(\d+)(?:-|$)", name)
    if match is None:
        return f"{name}-x{scale or 4}"
    if scale is not None and int(match[1]) != scale:
        raise UsageError(f"model {name} enlarges x{match[1]}, but x{scale} was asked for")
    return name

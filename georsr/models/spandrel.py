"""Networks of others: checkpoints that spandrel recognises by their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError
from georsr.models.spec import ModelSpec
from georsr.tiling.grid import ceil_to

TILE, HALO, OVERLAP = 128, 16, 16
"""In LR pixels. Nobody declares how far such a network looks: this is what most can do with, and
``--tile``, ``--halo`` and ``--overlap`` say otherwise."""


def load_with_spandrel(entries: Mapping[str, Tensor], path: Path) -> tuple[ModelSpec, nn.Module]:
    """The network that weights belong to, and the contract it can be run by.

    Parameters
    ----------
    entries
        Names and tensors, as they stand in the file.
    path
        The file, for its name and for errors.

    Returns
    -------
    spec, network
        RGB in and out, values 0..1; the network in evaluation mode with its weights.

    Raises
    ------
    ModelError
        spandrel is not installed or knows no such network, or it is not for the super-resolution
        of three bands.
    """
    try:
        import spandrel
    except ImportError as error:
        raise ModelError(
            f"{path}: not a SeG-SR checkpoint; networks of other kinds need spandrel: "
            "pip install 'georsr[spandrel]'"
        ) from error
    try:
        found: Any = spandrel.ModelLoader().load_from_state_dict(
            spandrel.canonicalize_state_dict(dict(entries))
        )
    except Exception as error:  # whatever an architecture stumbles over
        raise ModelError(
            f"{path}: neither a SeG-SR checkpoint nor a network that spandrel knows "
            f"({type(error).__name__}, {len(entries)} tensors)"
        ) from error
    kind = found.architecture.name
    bands = (found.input_channels, found.output_channels)
    if not isinstance(found, spandrel.ImageModelDescriptor) or bands != (3, 3):
        raise ModelError(f"{path}: {kind} with {bands[0]} bands in and {bands[1]} out, expected 3")
    if found.scale < 2:
        raise ModelError(f"{path}: {kind} keeps the size of an image; expected super-resolution")
    need = found.size_requirements
    spec = ModelSpec(
        name=_name_of(path),
        architecture="foreign",
        scale=found.scale,
        parameters={"kind": kind, "tags": list(found.tags)},
        tile=ceil_to(max(TILE, need.minimum), need.multiple_of),
        halo=HALO,
        overlap=OVERLAP,
        licence="unknown",
        trained_on="unknown: ask whoever gave you the file",
        notes=f"{kind}, recognised by spandrel; trained by others, not measured by georsr",
    )
    network = PadToRequirement(found.model.float(), found.scale, need)
    return spec, network.eval().requires_grad_(False)


class PadToRequirement(nn.Module):
    """A network that only takes some sizes, for images of any size.

    Parameters
    ----------
    network
        (N, 3, h, w) -> (N, 3, s * h, s * w).
    scale
        s.
    sizes
        spandrel's requirements: ``minimum``, ``multiple_of``, ``square``, in pixels.
    """

    def __init__(self, network: nn.Module, scale: int, sizes: Any) -> None:
        super().__init__()
        self.network, self.scale, self.sizes = network, scale, sizes

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) in 0..1 -> (N, 3, s * h, s * w), not clipped."""
        height, width = x.shape[2:]
        right, below = self.sizes.get_padding(width, height)
        if right or below:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        output: Tensor = self.network(x)
        return output[..., : self.scale * height, : self.scale * width]


def _name_of(path: Path) -> str:
    """A model name made of a file name: ``RealESRGAN_x4plus.pth`` -> ``realesrgan-x4plus``."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "foreign"

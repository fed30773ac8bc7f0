"""Third-party networks: checkpoints that spandrel recognises by their weights."""

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
"""In LR pixels. Third-party networks do not declare their receptive field: these are conservative
defaults, which ``--tile``, ``--halo`` and ``--overlap`` override."""


def load_with_spandrel(entries: Mapping[str, Tensor], path: Path) -> tuple[ModelSpec, nn.Module]:
    """Build the network of a checkpoint, with a specification to run it.

    Parameters
    ----------
    entries
        Tensors of the file by key.
    path
        Path of the file, for the model's name and for errors.

    Returns
    -------
    spec, network
        The network takes and gives RGB in 0..1; it is in evaluation mode.

    Raises
    ------
    ModelError
        spandrel is not installed, does not recognise the network, or the network does not
        super-resolve three bands.
    """
    try:
        import spandrel
    except ImportError as error:
        raise ModelError(
            f"{path}: not a SeG-SR checkpoint; networks of other kinds need spandrel: "
            "pip install spandrel"
        ) from error
    try:
        descriptor: Any = spandrel.ModelLoader().load_from_state_dict(
            spandrel.canonicalize_state_dict(dict(entries))
        )
    except Exception as error:  # architectures fail in any way on unknown weights
        raise ModelError(
            f"{path}: neither a SeG-SR checkpoint nor a network that spandrel knows "
            f"({type(error).__name__}, {len(entries)} tensors)"
        ) from error
    kind = descriptor.architecture.name
    bands = (descriptor.input_channels, descriptor.output_channels)
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or bands != (3, 3):
        raise ModelError(f"{path}: {kind} with {bands[0]} bands in and {bands[1]} out, expected 3")
    if descriptor.scale < 2:
        raise ModelError(f"{path}: {kind} keeps the size of an image; expected super-resolution")
    sizes = descriptor.size_requirements
    spec = ModelSpec(
        name=_name_of(path),
        architecture="foreign",
        scale=descriptor.scale,
        parameters={"kind": kind, "tags": list(descriptor.tags)},
        tile=ceil_to(max(TILE, sizes.minimum), sizes.multiple_of),
        halo=HALO,
        overlap=OVERLAP,
        licence="unknown",
        trained_on="unknown",
        notes=f"{kind}, recognised by spandrel; third-party weights, not measured by georsr",
    )
    network = PadToRequirement(descriptor.model.float(), descriptor.scale, sizes)
    return spec, network.eval().requires_grad_(False)


class PadToRequirement(nn.Module):
    """A network that takes only some sizes, padded to take images of any size.

    Parameters
    ----------
    network
        (N, 3, h, w) -> (N, 3, s * h, s * w).
    scale
        Output pixels per input pixel along each axis, s.
    sizes
        spandrel's size requirements: ``minimum``, ``multiple_of``, ``square``, in pixels.
    """

    def __init__(self, network: nn.Module, scale: int, sizes: Any) -> None:
        super().__init__()
        self.network, self.scale, self.sizes = network, scale, sizes

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) in 0..1 -> (N, 3, s * h, s * w), not clipped."""
        height, width = x.shape[2:]
        right, bottom = self.sizes.get_padding(width, height)
        if right or bottom:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        output: Tensor = self.network(x)
        return output[..., : self.scale * height, : self.scale * width]


def _name_of(path: Path) -> str:
    """Return a model name from a file name: ``RealESRGAN_x4plus.pth`` -> ``realesrgan-x4plus``."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "foreign"

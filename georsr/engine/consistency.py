"""Consistency: a tile that, degraded again, gives its source back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from georsr.config import SRConfig
from georsr.kernels import Kernel, parse_kernel
from georsr.models.linear import enlarge_linear
from georsr.models.projection import project
from georsr.models.spec import SCENE, SOFTLY, ModelSpec
from georsr.types import BoolArray, FloatArray

SOFT = 2.0
"""Damping of consistency by networks that know noise: real pairs lose 0.01 dB by what it adds, and
0.1 dB by what the usual damping does."""


@dataclass(frozen=True)
class Aim:
    """What a tile is to give back, beyond what the network saw of it.

    Attributes
    ----------
    remainder : float32 (C, h, w) or None
        What the clip to 0..1 took away.
    valid : bool (C, h, w) or None
        Where it matters; None: everywhere.
    """

    remainder: FloatArray | None = None
    valid: BoolArray | None = None


def asked_kernel(spec: ModelSpec, config: SRConfig) -> str | None:
    """The kernel a product is to be consistent with: its name, `SCENE`, or None for none.

    ``auto`` is consistent where the model declares a kernel, and, by a network that takes noise
    away, where noise does not dominate: see `yields_to_noise`.

    Raises
    ------
    UsageError
        No such kernel.
    """
    if config.consistency == "off":
        return None
    if config.consistency_kernel is not None:
        return config.consistency_kernel
    if spec.kernel == SOFTLY:
        return SCENE
    return spec.kernel or ("bicubic" if config.consistency == "on" else None)


def yields_to_noise(config: SRConfig) -> bool:
    """Whether a scene whose noise dominates need not be given back: nobody asked for it."""
    return config.consistency == "auto" and config.consistency_kernel is None


def softened(kernel: Kernel | None, spec: ModelSpec, config: SRConfig) -> Kernel | None:
    """A kernel as the model wants it, unless somebody asked for consistency."""
    if kernel is None or spec.kernel != SOFTLY or not yields_to_noise(config):
        return kernel
    return replace(kernel, damping=SOFT)


def known_kernel(asked: str | None) -> Kernel | None:
    """The kernel of a name; None where there is none, or the scene has to be looked at."""
    return None if asked is None or asked == SCENE else parse_kernel(asked)


def fulfil(
    output: Tensor, seen: Tensor, aims: Sequence[Aim], kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """Make the outputs of a network consistent.

    Parameters
    ----------
    output
        (N, C, s * h, s * w) around 0..1; its memory may become that of the result.
    seen
        (N, C, h, w) in 0..1: what the network saw.
    aims
        One for each of the N.
    kernel
        Shrinks an output to what was seen and the remainder.

    Returns
    -------
    output
        (N, C, s * h, s * w): with what went round the network, consistent.
    residual
        (N, C, h, w): by how much it was not, source less shrunk output.
    """
    made = [_fulfil(output[i : i + 1], seen[i : i + 1], aim, kernel) for i, aim in enumerate(aims)]
    if len(made) == 1:
        return made[0]
    outputs, residuals = zip(*made, strict=True)
    return torch.cat(outputs), torch.cat(residuals)


def _fulfil(output: Tensor, seen: Tensor, aim: Aim, kernel: Kernel) -> tuple[Tensor, Tensor]:
    device = output.device
    if aim.remainder is not None:
        rest = torch.from_numpy(aim.remainder).to(device)[None]
        seen = seen + rest
        output = output + enlarge_linear(rest, output.shape[-1] // seen.shape[-1])
    if aim.valid is None:
        return project(output, seen, kernel)
    if (size := _corner(aim.valid)) is not None:
        return _project_corner(output, seen, kernel, size)
    return project(output, seen, kernel, torch.from_numpy(aim.valid).to(device)[None])


def _corner(valid: BoolArray) -> tuple[int, int] | None:
    """Height and width of what is valid, if that is a rectangle at the top left: no holes, only
    padding at the raster's end."""
    height, width = (int(valid.any((0, axis)).sum()) for axis in (2, 1))
    whole = bool(valid[:, :height, :width].all())
    return (height, width) if whole and valid.sum() == len(valid) * height * width else None


def _project_corner(
    output: Tensor, seen: Tensor, kernel: Kernel, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """As if the padding were not there: exact in one pass, where a mask takes several."""
    height, width = size
    scale = output.shape[-1] // seen.shape[-1]
    residual = torch.zeros_like(seen)
    fine, coarse = output[..., : height * scale, : width * scale], seen[..., :height, :width]
    fine[:], residual[..., :height, :width] = project(fine, coarse, kernel)
    return output, residual

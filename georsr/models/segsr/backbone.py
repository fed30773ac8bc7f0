"""Base class of backbones: what a network must offer so that SeG-SR can guide it.

To add one, write a subclass with ``@register_backbone("name")`` (`georsr.models.registry`) in a
file of this folder, which is imported by itself; `PlainBackbone` in `georsr.models.segsr.lite` is
an example, and docs/development/add-a-backbone.md explains each step.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.interpolation import Bicubic


class Backbone(nn.Module):
    """Shallow features, then groups of blocks; the network modulates the features after each group.

    A subclass appends to ``groups`` modules that map (N, C, h, w) to (N, C, h, w), and may replace
    ``patch_norm``, ``conv_after_body``, `normalize` and `make_upsampler`.

    Parameters
    ----------
    bands
        Bands of the image.
    embed_dim
        C, channels of the features.
    """

    multiple_of: int = 1
    """Height and width of a tile are multiples of this (LR pixels)."""
    tile: ClassVar[int] = 128
    """Default height and width of a tile (LR pixels)."""
    halo: ClassVar[int] = 8
    """Default margin of a tile that is not used where a neighbour covers it (LR pixels)."""
    overlap: ClassVar[int] = 8
    """Default width over which neighbouring tiles are blended (LR pixels)."""
    training_options: ClassVar[dict[str, Any]] = {}
    """Constructor arguments that give the form in which it is trained."""

    def __init__(self, bands: int, embed_dim: int) -> None:
        super().__init__()
        self.bands, self.embed_dim = bands, embed_dim
        self.conv_first = nn.Conv2d(bands, embed_dim, 3, padding=1)
        self.patch_norm: nn.Module = nn.Identity()
        self.groups = nn.ModuleList()
        self.conv_after_body: nn.Module = nn.Identity()

    def normalize(self, x: Tensor) -> Tensor:
        """Map an image in 0..1 to the input of ``conv_first``.

        Zero-centred and stretched input trains several times faster than 0..1.
        """
        return (x - 0.45) * 4.0

    def make_upsampler(self, scale: int) -> nn.Module:
        """Return a module that maps features (N, C, h, w) and the image to the enlarged image."""
        return BicubicUpsampler(self.embed_dim, self.bands, scale)


class BicubicUpsampler(nn.Module):
    """One convolution to sub-pixels, added to the bicubic enlargement of the image."""

    def __init__(self, embed_dim: int, bands: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(embed_dim, bands * scale * scale, 3, padding=1)
        self.bicubic = Bicubic(scale)

    def start_near_bicubic(self) -> None:
        """Initialise the convolution so that an untrained network is close to bicubic."""
        nn.init.normal_(self.conv.weight, std=1e-3)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """(N, C, h, w) and (N, bands, h, w) in 0..1 -> (N, bands, s * h, s * w)."""
        detail = self.conv(features)
        # Only the detail may have half precision, not the image it is added to. Meta tensors, on
        # which complexity is counted, have no autocast.
        full = nullcontext() if image.is_meta else torch.autocast(image.device.type, enabled=False)
        with full:
            subpixels = self.bicubic.subpixels(image) + detail.to(image.dtype)
        return pixel_shuffle_to_planes(subpixels, self.scale)


def pixel_shuffle_to_planes(subpixels: Tensor, scale: int) -> Tensor:
    """Rearrange (N, C * s * s, h, w) to contiguous (N, C, s * h, s * w), as ``F.pixel_shuffle``.

    ``F.pixel_shuffle`` keeps channels_last. Images are used band by band, so this one writes bands
    at once, in half the time of both steps.
    """
    if not subpixels.is_contiguous(memory_format=torch.channels_last):
        return F.pixel_shuffle(subpixels, scale)
    n, c, h, w = subpixels.shape
    pixels = subpixels.permute(0, 2, 3, 1).view(n, h, w, c // scale**2, scale, scale)
    return pixels.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, h * scale, w * scale)

"""VGG-19 features for the perceptual loss, with torchvision's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from georsr.errors import ModelError, UsageError

DEPTH = 35
"""Layers of VGG-19 up to conv5_4, before its activation (ESRGAN, arXiv 1809.00219)."""
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """(N, 3, H, W) in 0..1 -> (N, 512, H / 16, W / 16); frozen.

    Raises
    ------
    UsageError
        torchvision is not installed.
    ModelError
        Its weights are not on this machine and cannot be fetched.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchvision.models import VGG19_Weights, vgg19
        except ImportError as error:
            raise UsageError(
                "the perceptual loss needs the package torchvision: pip install torchvision, "
                "or set 'perceptual: 0'"
            ) from error
        weights = VGG19_Weights.IMAGENET1K_V1
        try:
            layers = vgg19(weights=weights, progress=False).features
        except Exception as error:  # no network shows itself in many ways
            raise ModelError(
                f"VGG-19 weights are not on this machine and could not be fetched "
                f"({type(error).__name__}); download {weights.url} into "
                f"{torch.hub.get_dir()}/checkpoints, or set 'perceptual: 0'"
            ) from error
        self.layers = layers[:DEPTH].requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> VggFeatures:
        """It never leaves evaluation mode."""
        return self

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        features: Tensor = self.layers((image - self.mean) / self.std)
        return features

"""Losses: how far a super-resolved crop is from the truth, as a weighted sum of terms.

VGG-19 features for the perceptual loss, with torchvision's weights.
"""

from __future__ import annotations

import copy
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError, UsageError
from georsr.evaluation.metrics import LUMA
from georsr.training.recipe import LossSettings

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


MSE_WEIGHT = 10.0
"""Weight of the squared error: at typical errors its gradient is then about that of the absolute
error, so the learning rate need not change with the loss."""
REFERENCE_MSE = 3e-4
"""Mean squared error of a crop (35 dB) at which the gradient of `log_error` is that of the squared
error."""
FLOOR = 1 / 255**2
"""Of mean squared errors, in `log_error`: below a grey level of 8 bits, none is worth more."""


class Features(Protocol):
    """What the perceptual term needs of a feature network."""

    def __call__(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 -> features."""


def masked_mean(error: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of (N, C, H, W), over the pixels where ``valid`` (N, 1, H, W) is 1."""
    if valid is None:
        return error.mean()
    return (error * valid).sum() / (valid.sum() * error.shape[1]).clamp(min=1)


def log_error(error: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over crops (N, C, H, W) of the logarithm of their mean squared error, in units of it.

    Up to a constant this is minus their mean PSNR: quality figures are means of the PSNR of images,
    to which an easy image counts as much as a hard one, while their mean squared error is that of
    the hard ones.
    """
    crops = [
        masked_mean(crop, None if valid is None else valid[i : i + 1])
        for i, crop in enumerate(error.square().split(1))
    ]
    return REFERENCE_MSE * torch.log(torch.stack(crops) + FLOOR).mean()


def luma_error(error: Tensor) -> Tensor:
    """Error of the luma, in full range: (N, 3, H, W) of RGB -> (N, 1, H, W).

    Raises
    ------
    UsageError
        There are not three bands.
    """
    if error.shape[1] != len(LUMA):
        raise UsageError(
            f"recipe: loss: luma is of RGB images, these have {error.shape[1]} bands; set it to 0"
        )
    weights = error.new_tensor(LUMA / LUMA.sum())[:, None, None]
    return (error * weights).sum(1, keepdim=True)  # a product of matrices would be in bfloat16


def frequency_error(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference of orthonormal Fourier coefficients of (N, C, H, W), in float32."""
    difference = torch.fft.rfft2(sr.float() - hr.float(), norm="ortho")
    return difference.abs().mean()


class SemanticError(nn.Module):
    """One minus the cosine between the semantic tokens of two images.

    Parameters
    ----------
    encoder
        (N, 3, H, W) -> tokens (N, E, hc, wc) and scene; copied, and never trained on. An encoder
        that enlarges its input (CLIP in SeG-SR) sees HR images as they are.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.judge = copy.deepcopy(encoder).requires_grad_(False).eval()
        if hasattr(self.judge, "scale"):
            setattr(self.judge, "scale", 1)  # noqa: B010 (mypy takes attributes of modules for tensors)

    def train(self, mode: bool = True) -> SemanticError:
        """The judge never leaves evaluation mode."""
        return self

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1, twice -> scalar in 0..2."""
        ours, _ = self.judge(sr)
        with torch.no_grad():
            theirs, _ = self.judge(hr)
        return 1 - F.cosine_similarity(ours.float(), theirs.float(), dim=1).mean()


class ImageLoss(nn.Module):
    """The weighted terms of a recipe that compare two images.

    Parameters
    ----------
    settings
        Weights.
    semantic, features
        Needed where their weights are not zero.
    """

    def __init__(
        self,
        settings: LossSettings,
        semantic: SemanticError | None = None,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.semantic, self.features = settings, semantic, features

    def forward(self, sr: Tensor, hr: Tensor, valid: Tensor | None, progress: float) -> Tensor:
        """Compare.

        Parameters
        ----------
        sr, hr
            (N, C, H, W) in 0..1.
        valid
            (N, 1, H, W), 1 where the loss counts; None: everywhere. Outside, both images are
            made equal for the terms that look at neighbourhoods.
        progress
            Share of the run that is done, 0..1.
        """
        sr = sr.float()
        error = sr - hr
        if progress >= 1 - self.settings.psnr_share:
            loss = MSE_WEIGHT * self._psnr_error(error, valid)
        elif progress >= 1 - self.settings.squared_share:
            loss = MSE_WEIGHT * masked_mean(error.square(), valid)
        else:
            loss = self.settings.absolute * masked_mean(error.abs(), valid)
        if valid is not None:
            sr = torch.where(valid > 0, sr, hr)
        if self.settings.frequency > 0:
            loss = loss + self.settings.frequency * frequency_error(sr, hr)
        if self.semantic is not None:
            loss = loss + self.settings.semantic * self.semantic(sr, hr)
        if self.features is not None:
            with torch.no_grad():
                theirs = self.features(hr)
            loss = loss + self.settings.perceptual * (self.features(sr) - theirs).abs().mean()
        return loss

    def _psnr_error(self, error: Tensor, valid: Tensor | None) -> Tensor:
        """`log_error` of all bands and of the luma, as the recipe mixes them."""
        whole, share = log_error(error, valid), self.settings.luma
        return whole if share == 0 else whole.lerp(log_error(luma_error(error), valid), share)

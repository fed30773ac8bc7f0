"""Compute the loss of super-resolved crops as a weighted sum of terms.

`georsr.training.module` adds the losses of scene encoder and sensor estimator.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError, UsageError
from georsr.evaluation.metrics import LUMA
from georsr.training.recipe import LossSettings

VGG_LAYERS = 35
"""Layers of VGG-19 up to conv5_4, before its activation (ESRGAN, arXiv 1809.00219)."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """Features of VGG-19 with torchvision's weights, frozen.

    Raises
    ------
    UsageError
        torchvision is not installed.
    ModelError
        Its weights are not on this machine and cannot be downloaded.
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
        except Exception as error:  # a failed download raises many kinds of errors
            raise ModelError(
                f"VGG-19 weights are not on this machine and could not be downloaded "
                f"({type(error).__name__}); download {weights.url} into "
                f"{torch.hub.get_dir()}/checkpoints, or set 'perceptual: 0'"
            ) from error
        self.layers = layers[:VGG_LAYERS].requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> VggFeatures:
        """Stay in evaluation mode."""
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Compute features: (N, 3, H, W) in 0..1 -> (N, 512, H / 16, W / 16)."""
        features: Tensor = self.layers((image - self.mean) / self.std)
        return features


MSE_WEIGHT = 10.0
"""Weight of the squared error: at typical errors its gradient is then similar to that of the
absolute error, so the learning rate need not change with the loss."""
REFERENCE_MSE = 3e-4
"""Mean squared error of a crop (35 dB) at which the gradient of `log_error` is that of the squared
error."""
MSE_FLOOR = 1 / 255**2
"""Added to mean squared errors in `log_error`: errors below a grey level of 8 bits count alike."""


def masked_mean(error: Tensor, valid: Tensor | None) -> Tensor:
    """Average (N, C, H, W) over the pixels where ``valid`` (N, 1, H, W) is 1."""
    if valid is None:
        return error.mean()
    return (error * valid).sum() / (valid.sum() * error.shape[1]).clamp(min=1)


def log_error(error: Tensor, valid: Tensor | None) -> Tensor:
    """Average the logarithm of the mean squared error of each crop, (N, C, H, W).

    Up to a constant this is minus the mean PSNR of the crops. Published figures are means of the
    PSNR of images, in which easy and hard images have the same weight, while the mean squared
    error is dominated by hard ones.
    """
    crops = [
        masked_mean(crop, None if valid is None else valid[i : i + 1])
        for i, crop in enumerate(error.square().split(1))
    ]
    return REFERENCE_MSE * torch.log(torch.stack(crops) + MSE_FLOOR).mean()


def luma_error(error: Tensor) -> Tensor:
    """Compute the error of the luma, in full range: (N, 3, H, W) of RGB -> (N, 1, H, W).

    Raises
    ------
    UsageError
        There are not three bands.
    """
    if error.shape[1] != len(LUMA):
        raise UsageError(
            f"recipe: loss: luma needs RGB images, these have {error.shape[1]} bands; set it to 0"
        )
    weights = error.new_tensor(LUMA / LUMA.sum())[:, None, None]
    return (error * weights).sum(1, keepdim=True)  # a matrix product would be in bfloat16


def frequency_error(sr: Tensor, hr: Tensor) -> Tensor:
    """Average the absolute difference of orthonormal Fourier coefficients, in float32."""
    difference = torch.fft.rfft2(sr.float() - hr.float(), norm="ortho")
    return difference.abs().mean()


class SemanticError(nn.Module):
    """One minus the cosine between the semantic tokens of two images.

    Parameters
    ----------
    encoder
        (N, 3, H, W) -> tokens (N, E, hc, wc) and scene; it is copied, and the copy is frozen. An
        encoder that enlarges its input (CLIP in SeG-SR) gets HR images without enlargement.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        if hasattr(self.encoder, "scale"):
            setattr(self.encoder, "scale", 1)  # noqa: B010 (mypy takes attributes of modules for tensors)

    def train(self, mode: bool = True) -> SemanticError:
        """Stay in evaluation mode."""
        return self

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare (N, 3, H, W) in 0..1; returns a scalar in 0..2."""
        sr_tokens, _ = self.encoder(sr)
        with torch.no_grad():
            hr_tokens, _ = self.encoder(hr)
        return 1 - F.cosine_similarity(sr_tokens.float(), hr_tokens.float(), dim=1).mean()


class ImageLoss(nn.Module):
    """Weighted sum of the terms of a recipe that compare two images.

    Parameters
    ----------
    settings
        Weights of the terms.
    semantic, features
        Modules of the semantic and the perceptual term; None if their weights are zero.
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
        """Compute the loss of a batch.

        Parameters
        ----------
        sr, hr
            (N, C, H, W) in 0..1.
        valid
            (N, 1, H, W), 1 for pixels that count; None: all. For the terms that depend on
            neighbourhoods, SR is replaced by HR elsewhere.
        progress
            Fraction of the run that is done, 0..1.
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
                target = self.features(hr)
            loss = loss + self.settings.perceptual * (self.features(sr) - target).abs().mean()
        return loss

    def _psnr_error(self, error: Tensor, valid: Tensor | None) -> Tensor:
        """Mix the `log_error` of all bands and that of the luma."""
        all_bands, fraction = log_error(error, valid), self.settings.luma
        if fraction == 0:
            return all_bands
        return all_bands.lerp(log_error(luma_error(error), valid), fraction)

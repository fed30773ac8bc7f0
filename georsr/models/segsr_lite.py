"""segsr-lite: semantic guidance at the cost of a small convolutional network.

The backbone has plain 3x3 convolutions in residual groups. In training each convolution is a sum
of branches in the spirit of RepVGG (arXiv 2101.03697) and SPAN (arXiv 2311.12770); the branches are
summed as kernels, as in OREPA (arXiv 2204.00826), so that training pays for one convolution per
layer and the exported network has that one only.

The scene encoder does what CLIP does in SeG-SR at a thousandth of the cost. It is pre-trained on
scene classes with one learned vector per class in place of CLIP's embedding of the class's text
(arXiv 2103.00020), then trained with the network it guides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.segsr import SLM, Backbone, FiLM, LightLMM, SegSR
from georsr.radiometry.kernels import MAX_NORMALIZED, N_SENSOR_VALUES


class RepConv(nn.Module):
    """A 3x3 convolution whose kernel is 3x3 + 1x1 + scaled identity while it trains."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(embed_dim, embed_dim, 3, 3))
        self.pointwise = nn.Parameter(torch.zeros(embed_dim, embed_dim))
        self.identity = nn.Parameter(torch.zeros(embed_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        nn.init.kaiming_normal_(self.kernel, nonlinearity="relu")

    def fused_kernel(self) -> Tensor:
        """Return the (C, C, 3, 3) kernel that computes what the branches compute."""
        centre = self.pointwise + torch.diag(self.identity)
        return self.kernel + F.pad(centre[:, :, None, None], (1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return F.conv2d(x, self.fused_kernel(), self.bias, padding=1)

    def fuse(self) -> nn.Conv2d:
        """Return a plain convolution with the same output."""
        embed_dim = len(self.bias)
        conv = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        with torch.no_grad():
            conv.weight.copy_(self.fused_kernel())
            cast(Tensor, conv.bias).copy_(self.bias)
        return conv


def fuse_branches(module: nn.Module) -> None:
    """Replace every `RepConv` inside ``module`` by its plain convolution, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, RepConv):
            setattr(module, name, child.fuse())
        else:
            fuse_branches(child)


def _conv3x3(embed_dim: int, fused: bool) -> nn.Module:
    return nn.Conv2d(embed_dim, embed_dim, 3, padding=1) if fused else RepConv(embed_dim)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, embed_dim: int, fused: bool) -> None:
        super().__init__()
        self.conv1 = _conv3x3(embed_dim, fused)
        self.conv2 = _conv3x3(embed_dim, fused)
        if isinstance(self.conv2, RepConv):
            with torch.no_grad():  # a small residual keeps the signal's size from block to block
                self.conv2.kernel.mul_(0.1)

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w); ``film``: scale and shift (N, C, 1, 1) of the inside."""
        inner = self.conv1(x)
        if film is not None:
            scale, shift = film
            inner = torch.addcmul(shift, inner, 1 + scale)
        # In place, because no gradient needs what is overwritten: every pass over the features
        # that is saved is worth a percent of the time.
        return self.conv2(F.relu_(inner)).add_(x)


class ResidualGroup(nn.Sequential):
    """Residual blocks one after another."""

    def forward(self, x: Tensor, films: Sequence[tuple[Tensor, Tensor]] = ()) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w); ``films``: one scale and shift per block, or none."""
        for i, block in enumerate(self):
            x = block(x, films[i]) if films else block(x)
        return x


class PlainBackbone(Backbone):
    """Residual groups of plain 3x3 convolutions.

    Parameters
    ----------
    bands, embed_dim, num_groups, depth
        Bands, channels, groups, residual blocks per group.
    fused
        Plain convolutions, as exported; False gives the branches that are trained.
    """

    tile, halo, overlap = 192, 4, 8
    training_options: ClassVar[dict[str, Any]] = {"fused": False}

    def __init__(
        self, bands: int, embed_dim: int, num_groups: int, depth: int, *, fused: bool = True
    ) -> None:
        super().__init__(bands, embed_dim)
        for _ in range(num_groups):
            blocks = [ResidualBlock(embed_dim, fused) for _ in range(depth)]
            self.groups.append(ResidualGroup(*blocks))


class TokenMixer(nn.Module):
    """Depthwise 5x5 then pointwise convolution, with a residual."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(hidden_dim, hidden_dim, 5, padding=2, groups=hidden_dim)
        self.channel = nn.Conv2d(hidden_dim, hidden_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return x + self.channel(F.relu(self.spatial(x)))


class SceneEncoder(nn.Module):
    """Small convolutional SFEM: one token per 4 x 4 pixels and one vector for the tile.

    Parameters
    ----------
    scale
        The network's factor; the tokens do not depend on it.
    bands
        Bands of the tile.
    token_dim
        E, width of the tokens.
    hidden_dim
        Channels inside.
    num_mixers
        Context layers on the token grid.
    """

    def __init__(
        self,
        scale: int,
        bands: int,
        *,
        token_dim: int = 32,
        hidden_dim: int = 48,
        num_mixers: int = 4,
    ) -> None:
        super().__init__()
        self.token_dim = token_dim
        self.stem1 = nn.Conv2d(bands, hidden_dim // 2, 3, stride=2, padding=1)
        self.stem2 = nn.Conv2d(hidden_dim // 2, hidden_dim, 3, stride=2, padding=1)
        self.mixers = nn.Sequential(*(TokenMixer(hidden_dim) for _ in range(num_mixers)))
        self.local_head = nn.Conv2d(hidden_dim, token_dim, 1)
        self.scene_head = nn.Linear(2 * hidden_dim, token_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute tokens and scene vector of a tile.

        Parameters
        ----------
        x
            (N, bands, h, w) in 0..1.

        Returns
        -------
        tokens, scene
            (N, E, ceil(h / 4), ceil(w / 4)) and (N, E), L2-normalised over E.
        """
        x = (x - 0.45) * 4.0
        x = F.relu(self.stem2(F.relu(self.stem1(x))))
        x = self.mixers(x)
        mean = x.mean((2, 3))
        # Mean and spread: a field and a town differ more in how much varies than in the mean.
        spread = (x - mean[:, :, None, None]).square().mean((2, 3)).add(1e-6).sqrt()
        scene = self.scene_head(torch.cat([mean, spread], dim=1))
        tokens = self.local_head(x)
        return F.normalize(tokens.float(), dim=1), F.normalize(scene.float(), dim=1)


class SceneClassifier(nn.Module):
    """Scene encoder plus one learned prompt per class, for pre-training the encoder.

    Parameters
    ----------
    encoder
        The encoder to train.
    num_classes
        Number of scene classes.
    """

    def __init__(self, encoder: SceneEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.class_prompts = nn.Parameter(torch.randn(num_classes, encoder.token_dim))
        self.log_temperature = nn.Parameter(torch.tensor(2.3))

    def logits(self, scene: Tensor) -> Tensor:
        """Unit scene vectors (N, E) -> class logits (N, classes)."""
        return self.log_temperature.exp() * scene @ F.normalize(self.class_prompts, dim=1).T

    def forward(self, x: Tensor) -> Tensor:
        """(N, bands, h, w) in 0..1 -> class logits (N, classes)."""
        return self.logits(self.encoder(x)[1])


def segsr_lite(
    scale: int,
    bands: int = 3,
    *,
    embed_dim: int = 48,
    num_groups: int = 4,
    depth: int = 2,
    token_dim: int = 32,
    film_dim: int = 0,
    sensor_dim: int = 0,
    fused: bool = True,
) -> SegSR:
    """Build an untrained segsr-lite: scene encoder, plain backbone, light modulations.

    Parameters
    ----------
    scale
        2, 3 or 4.
    bands
        Bands in and out.
    embed_dim, num_groups, depth
        Channels, guided groups, and residual blocks per group of the backbone.
    token_dim
        Width of the semantic tokens; 0 builds the same backbone without guidance.
    film_dim
        Hidden width of the FiLM of every block by the scene vector; 0 for none.
    sensor_dim
        Hidden width of the FiLM of every block by the sensor description; 0 for a network that
        takes none.
    fused
        Plain convolutions, as exported; False gives the branches that are trained.
    """
    num_blocks = num_groups * depth
    backbone = PlainBackbone(bands, embed_dim, num_groups, depth, fused=fused)
    parts: dict[str, Any] = {"encoder": None, "localization": None, "modulations": []}
    parts["upsampler"] = backbone.make_upsampler(scale)
    if token_dim > 0:
        parts["encoder"] = SceneEncoder(scale, bands, token_dim=token_dim)
        parts["localization"] = SLM(token_dim, num_groups, num_heads=4, temperature=10.0)
        parts["modulations"] = [LightLMM(embed_dim) for _ in range(num_groups)]
    if token_dim > 0 and film_dim > 0:
        parts["scene_film"] = FiLM(token_dim, film_dim, embed_dim, num_blocks, gain=5.0)
    if sensor_dim > 0:
        parts["sensor_estimator"] = SensorEstimator(bands)
        parts["sensor_film"] = FiLM(
            N_SENSOR_VALUES, sensor_dim, embed_dim, num_blocks, num_layers=2
        )
    if not fused:
        parts["upsampler"].start_near_bicubic()
    return SegSR(backbone=backbone, **parts)


class SensorEstimator(nn.Module):
    """Estimates the normalised sensor description of an image, with its variance.

    It is applied to a few windows of a scene before the first tile, never to a tile.

    Parameters
    ----------
    bands
        Bands of the image.
    width
        Channels of the first layers.
    """

    def __init__(self, bands: int, width: int = 32) -> None:
        super().__init__()
        self.fine = nn.Conv2d(2 * bands, width, 3)
        self.middle = nn.Conv2d(width, width, 3, stride=2)
        self.coarse = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.hidden = nn.Linear(8 * width, 2 * width)
        self.head = nn.Linear(2 * width, 2 * N_SENSOR_VALUES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the sensor descriptions of images.

        Parameters
        ----------
        x
            (N, bands, h, w) in 0..1, float32, at least 16 x 16.

        Returns
        -------
        mean, variance
            Of the posterior distribution of the normalised values, both (N, N_SENSOR_VALUES).
        """
        detail = x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        # asinh keeps both noise of one grey level and edges of a hundred
        x = torch.cat([(x - 0.5) * 2, torch.asinh(detail * 200)], 1)
        x = F.relu(self.fine(x))
        x = F.relu(self.middle(x))
        mean1, std1 = _mean_and_std(x)
        x = F.relu(self.coarse(x))
        mean2, std2 = _mean_and_std(x)
        pooled = torch.cat([mean1, std1, mean2, std2, x.amin((2, 3))], 1)
        mean, log_variance = self.head(F.relu(self.hidden(pooled))).chunk(2, 1)
        return mean.clamp(-MAX_NORMALIZED, MAX_NORMALIZED), log_variance.clamp(-6, 0).exp()


def _mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of (N, C, h, w) over the pixels, both (N, C)."""
    mean = x.mean((2, 3))
    return mean, (x - mean[:, :, None, None]).square().mean((2, 3)).add(1e-6).sqrt()


def likelihood_error(mean: Tensor, variance: Tensor, truth: Tensor) -> Tensor:
    """Return the mean negative log-density of a gaussian, without its constant.

    All arguments are (N, N_SENSOR_VALUES).
    """
    return 0.5 * ((truth - mean).square() / variance + variance.log()).mean()

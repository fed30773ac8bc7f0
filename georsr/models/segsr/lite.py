"""segsr-lite: semantic guidance at the cost of a small convolutional network.

The convolutional backbone of segsr-lite: plain 3x3 convolutions in residual groups.

Branches in the spirit of RepVGG (arXiv 2101.03697) and SPAN (arXiv 2311.12770), but summed in the
space of kernels, as OREPA does (arXiv 2204.00826): training pays for one convolution per layer,
and export writes the sum.

A small scene encoder: what CLIP is to SeG-SR, at a thousandth of the cost.

It is pre-trained on scene classes with one learned vector per class standing where CLIP has the
embedding of a class's text (cosine similarity, temperature, cross-entropy: arXiv 2103.00020 with
the text tower replaced by a table), then trains on with the network it guides.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.interpolation import Bicubic
from georsr.models.segsr.sensor import SensorEstimator, SensorTuning
from georsr.models.segsr.slm import DeterministicLinear, SemanticLocalization
from georsr.radiometry.sensor import N_SENSOR_VALUES


class RepConv(nn.Module):
    """A 3x3 convolution whose kernel is 3x3 + 1x1 + scaled identity while it trains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(width, width, 3, 3))
        self.pointwise = nn.Parameter(torch.zeros(width, width))
        self.identity = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.kaiming_normal_(self.kernel, nonlinearity="relu")

    def fused_kernel(self) -> Tensor:
        """The single (width, width, 3, 3) kernel that computes what the branches compute."""
        centre = self.pointwise + torch.diag(self.identity)
        return self.kernel + F.pad(centre[:, :, None, None], (1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return F.conv2d(x, self.fused_kernel(), self.bias, padding=1)

    def fuse(self) -> nn.Conv2d:
        """A plain convolution with the same output."""
        width = self.bias.shape[0]
        conv = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            conv.weight.copy_(self.fused_kernel())
            cast(Tensor, conv.bias).copy_(self.bias)
        return conv


def conv3x3(width: int, fused: bool) -> nn.Module:
    """One layer of the backbone, in its training or in its exported form."""
    return nn.Conv2d(width, width, 3, padding=1) if fused else RepConv(width)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x))), the second convolution starting small so that signals stay tame."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(width, fused)
        self.conv2 = conv3x3(width, fused)
        if isinstance(self.conv2, RepConv):
            with torch.no_grad():
                self.conv2.kernel.mul_(0.1)

    def forward(self, x: Tensor, tuning: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w).

        ``tuning`` is a scale and a shift (N, C, 1, 1) of the inner features: what the scene says
        about which of them matter.
        """
        inner = self.conv1(x)
        if tuning is not None:
            scale, shift = tuning
            inner = torch.addcmul(shift, inner, 1 + scale)
        # in place, as no step of the gradient needs what is overwritten: every pass over the
        # features that is saved is worth a percent of the time
        return self.conv2(F.relu_(inner)).add_(x)


class Group(nn.Sequential):
    """Residual blocks one after another."""

    def forward(self, x: Tensor, tunings: Sequence[tuple[Tensor, Tensor]] = ()) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w), with one tuning per block or none at all."""
        for i, block in enumerate(self):
            x = block(x, tunings[i]) if tunings else block(x)
        return x


class Backbone(nn.Module):
    """Shallow features, groups of residual blocks, and the sub-pixel head.

    It exposes its groups, so that any guidance can act after each of them.
    """

    def __init__(self, bands: int, width: int, groups: int, blocks: int, fused: bool) -> None:
        super().__init__()
        self.head = nn.Conv2d(bands, width, 3, padding=1)
        self.groups = nn.ModuleList(
            Group(*(ResidualBlock(width, fused) for _ in range(blocks))) for _ in range(groups)
        )


def fuse_branches(module: nn.Module) -> None:
    """Replace every :class:`RepConv` inside ``module`` by its plain convolution, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, RepConv):
            setattr(module, name, child.fuse())
        else:
            fuse_branches(child)


STRIDE = 4
"""LR pixels per token along each axis."""


class TokenMixer(nn.Module):
    """Depthwise 5x5 then pointwise, with a residual: context without many parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.channel = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return x + self.channel(F.relu(self.spatial(x)))


class SceneEncoder(nn.Module):
    """RGB tile -> local tokens and one global vector, both of width E and unit length.

    Parameters
    ----------
    bands
        Bands of the tile.
    width
        E, width of the tokens.
    trunk
        Channels inside.
    mixers
        Number of context layers on the token grid.
    """

    def __init__(self, bands: int, width: int, trunk: int = 48, mixers: int = 4) -> None:
        super().__init__()
        self.stem1 = nn.Conv2d(bands, trunk // 2, 3, stride=2, padding=1)
        self.stem2 = nn.Conv2d(trunk // 2, trunk, 3, stride=2, padding=1)
        self.mixers = nn.Sequential(*(TokenMixer(trunk) for _ in range(mixers)))
        self.local_head = nn.Conv2d(trunk, width, 1)
        self.scene_head = DeterministicLinear(2 * trunk, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Describe a tile.

        Parameters
        ----------
        x
            (N, bands, h, w), zero-centred as the network feeds it.

        Returns
        -------
        tokens, scene
            (N, E, ceil(h / 4), ceil(w / 4)) and (N, E), L2-normalised over E.
        """
        x = F.relu(self.stem2(F.relu(self.stem1(x))))
        x = self.mixers(x)
        mean = x.mean((2, 3))
        # Mean and spread: a field and a town differ more in how much varies than in the mean.
        spread = (x - mean[:, :, None, None]).square().mean((2, 3)).add(1e-6).sqrt()
        scene = self.scene_head(torch.cat([mean, spread], dim=1))
        tokens = self.local_head(x)
        return F.normalize(tokens.float(), dim=1), F.normalize(scene.float(), dim=1)


class SceneClassifier(nn.Module):
    """Scene encoder plus one learned prompt per class: the pre-training task.

    Parameters
    ----------
    encoder
        The encoder to train.
    width
        E, the encoder's token width.
    classes
        Number of scene classes.
    """

    def __init__(self, encoder: SceneEncoder, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.class_prompts = nn.Parameter(torch.randn(classes, width))
        self.log_temperature = nn.Parameter(torch.tensor(2.3))

    def logits(self, scene: Tensor) -> Tensor:
        """Unit scene vectors (N, E) -> class logits (N, classes)."""
        return self.log_temperature.exp() * scene @ F.normalize(self.class_prompts, dim=1).T

    def forward(self, x: Tensor) -> Tensor:
        """(N, bands, h, w) -> class logits (N, classes)."""
        return self.logits(self.encoder(x)[1])


GAIN = 5.0


def bicubic_planes(subpixels: Tensor, scale: int) -> Tensor:
    """(N, C * s * s, h, w) -> (N, C, s * h, s * w), as ``F.pixel_shuffle``.

    That one leaves channels pixel by pixel where they lie so. Nobody wants an image like that: it
    is made of planes at once here, in half the time of both steps.
    """
    if not subpixels.is_contiguous(memory_format=torch.channels_last):
        return F.pixel_shuffle(subpixels, scale)
    n, c, h, w = subpixels.shape
    pixels = subpixels.permute(0, 2, 3, 1).view(n, h, w, c // scale**2, scale, scale)
    return pixels.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, h * scale, w * scale)


class LightLMM(nn.Module):
    """x * (1 + gamma(M)) + beta(M): a guidance map scales and shifts the features.

    The map comes at token resolution and is resized to the features' grid, so any scale works.
    The last layer starts at zero: an untrained guidance changes nothing.
    """

    def __init__(self, width: int, hidden: int = 8) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, hidden, 3, padding=1)
        self.gamma_beta = nn.Conv2d(hidden, 2 * width, 1)
        nn.init.zeros_(self.gamma_beta.weight)
        nn.init.zeros_(self.gamma_beta.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Features (N, C, h, w) and a map (N, 1, hc, wc) -> (N, C, h, w)."""
        guidance = F.interpolate(guidance, x.shape[2:], mode="bilinear", align_corners=False)
        gamma, beta = self.gamma_beta(F.relu(self.lift(guidance))).chunk(2, dim=1)
        return torch.addcmul(x, x, gamma).add_(beta)


class FiLM(nn.Module):
    """A scale and a shift of every block's inner features, from the scene vector alone.

    Maps tell a block where to act; this tells it what kind of scene it acts on. The last layers
    start at zero: an untrained tuning changes nothing.
    """

    def __init__(self, tokens: int, hidden: int, width: int, blocks: int) -> None:
        super().__init__()
        self.squeeze = DeterministicLinear(tokens, hidden)
        self.films = nn.ModuleList(DeterministicLinear(hidden, 2 * width) for _ in range(blocks))
        for film in self.films:
            nn.init.zeros_(film.weight)  # type: ignore[arg-type]
            nn.init.zeros_(film.bias)  # type: ignore[arg-type]

    def forward(self, scene: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Unit scene vectors (N, E) -> for each block, scale and shift, both (N, C, 1, 1)."""
        # a unit vector's entries are small: GAIN brings them to the size of other activations
        hidden = F.relu(self.squeeze(scene * GAIN))
        pairs = [film(hidden)[:, :, None, None].chunk(2, dim=1) for film in self.films]
        return [(scale, shift) for scale, shift in pairs]


def _added(
    tunings: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """What the scene and what the sensor says about each block, together."""
    if not tunings:
        return others
    return [(a + c, b + d) for (a, b), (c, d) in zip(tunings, others, strict=True)]


class SegSRLite(nn.Module):
    """Scene encoder -> localization -> modulation of a plain 3x3 backbone.

    Parameters
    ----------
    scale
        2, 3 or 4.
    bands
        Bands in and out.
    width, groups, blocks
        Features, guided groups, and residual blocks per group of the backbone.
    tokens
        Width of the semantic tokens; 0 builds the same backbone without guidance.
    tuning
        Hidden width of the scene's scale and shift of every block; 0: none.
    sensor
        Hidden width of the scale and shift that the sensor description gives every block; 0: the
        network is told nothing of the sensor.
    fused
        Plain convolutions (as exported) instead of branches (as trained).
    """

    mean: float = 0.45
    gain: float = 4.0
    """Zero-centred and stretched input trains several times faster than 0..1."""
    told: Tensor
    """The normalised sensor description (1, N_SENSOR_VALUES) of its input; zero if unknown."""

    def __init__(
        self,
        scale: int,
        bands: int = 3,
        width: int = 48,
        groups: int = 4,
        blocks: int = 2,
        tokens: int = 32,
        tuning: int = 0,
        sensor: int = 0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.scale, self.blocks = scale, blocks
        self.backbone = Backbone(bands, width, groups, blocks, fused)
        self.tail = nn.Conv2d(width, bands * scale * scale, 3, padding=1)
        self.skip = Bicubic(scale)
        self.guided = tokens > 0
        if self.guided:
            self.encoder = SceneEncoder(bands, tokens)
            self.localization = SemanticLocalization(tokens, groups, heads=4, temperature=10.0)
            self.modulations = nn.ModuleList(LightLMM(width) for _ in range(groups))
            count = groups * blocks
            self.tuning = FiLM(tokens, tuning, width, count) if tuning > 0 else None
        self.senses = sensor > 0
        if self.senses:
            self.estimator = SensorEstimator(bands)
            self.sensor_tuning = SensorTuning(sensor, width, groups * blocks)
            self.register_buffer("told", torch.zeros(1, N_SENSOR_VALUES), persistent=False)
        if not fused:
            nn.init.normal_(self.tail.weight, std=1e-3)

    def enlarge(self, x: Tensor, sensor: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Super-resolve and tell what the scene encoder saw.

        Parameters
        ----------
        x
            (N, bands, h, w) in 0..1.
        sensor
            (N, N_SENSOR_VALUES) or (1, N_SENSOR_VALUES), normalised; None: what it was told.

        Returns
        -------
        image, scene
            (N, bands, s * h, s * w) in 0..1, not clipped; and the unit scene vectors (N, E), or
            None without guidance.
        """
        centred = (x - self.mean) * self.gain
        features = shallow = self.backbone.head(centred)
        maps: list[Tensor] = []
        tunings: list[tuple[Tensor, Tensor]] = []
        scene = None
        if self.guided:
            tokens, scene = self.encoder(centred)
            maps = self.localization(tokens, scene)
            if self.tuning is not None:
                tunings = self.tuning(scene)
        if self.senses:
            tunings = _added(tunings, self.sensor_tuning(self.told if sensor is None else sensor))
        for i, group in enumerate(self.backbone.groups):
            features = group(features, tunings[i * self.blocks : (i + 1) * self.blocks])
            if self.guided:
                features = self.modulations[i](features, maps[i])
        detail = self.tail(features + shallow)
        # the image itself never passes through half precision, only what is added to it
        # (tensors without memory, on which cost is counted, know no autocast)
        exact = nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
        with exact:
            subpixels = self.skip.subpixels(x) + detail.to(x.dtype)
        return bicubic_planes(subpixels, self.scale), scene

    def forward(self, x: Tensor) -> Tensor:
        """(N, bands, h, w) in 0..1 -> (N, bands, s * h, s * w) in 0..1, not clipped."""
        return self.enlarge(x)[0]

    @property
    def guidance_count(self) -> int:
        """Number of guidance maps."""
        return len(self.modulations) if self.guided else 0

    def guidance_maps(self, x: Tensor) -> Tensor:
        """(N, bands, h, w) in 0..1 -> the maps that guide its groups (N, groups, h / 4, w / 4)."""
        return torch.cat(self.localization(*self.encoder((x - self.mean) * self.gain)), dim=1)

    def fuse(self) -> SegSRLite:
        """A copy with every layer's branches summed into one convolution."""
        fused = copy.deepcopy(self)
        fuse_branches(fused)
        return fused

"""segsr-lite: semantic guidance at the cost of a small convolutional network."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.bicubic import Bicubic
from georsr.models.lite.backbone import Backbone, fuse_branches
from georsr.models.lite.encoder import SceneEncoder
from georsr.models.lite.sensor import SensorEstimator, SensorTuning
from georsr.models.segsr.guidance import SemanticLocalization, SteadyLinear
from georsr.sensor import COUNT

GAIN = 5.0


def planes_of(subpixels: Tensor, scale: int) -> Tensor:
    """(N, C * s * s, h, w) -> (N, C, s * h, s * w), as ``F.pixel_shuffle``.

    That one leaves channels pixel by pixel where they lie so. Nobody wants an image like that: it
    is made of planes at once here, in half the time of both steps.
    """
    if not subpixels.is_contiguous(memory_format=torch.channels_last):
        return F.pixel_shuffle(subpixels, scale)
    n, c, h, w = subpixels.shape
    pixels = subpixels.permute(0, 2, 3, 1).view(n, h, w, c // scale**2, scale, scale)
    return pixels.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, h * scale, w * scale)


class MapModulation(nn.Module):
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


class SceneTuning(nn.Module):
    """A scale and a shift of every block's inner features, from the scene vector alone.

    Maps tell a block where to act; this tells it what kind of scene it acts on. The last layers
    start at zero: an untrained tuning changes nothing.
    """

    def __init__(self, tokens: int, hidden: int, width: int, blocks: int) -> None:
        super().__init__()
        self.squeeze = SteadyLinear(tokens, hidden)
        self.films = nn.ModuleList(SteadyLinear(hidden, 2 * width) for _ in range(blocks))
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
    """The normalised sensor description (1, COUNT) of what it enlarges; zero: nothing is known."""

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
            self.modulations = nn.ModuleList(MapModulation(width) for _ in range(groups))
            count = groups * blocks
            self.tuning = SceneTuning(tokens, tuning, width, count) if tuning > 0 else None
        self.senses = sensor > 0
        if self.senses:
            self.estimator = SensorEstimator(bands)
            self.sensor_tuning = SensorTuning(sensor, width, groups * blocks)
            self.register_buffer("told", torch.zeros(1, COUNT), persistent=False)
        if not fused:
            nn.init.normal_(self.tail.weight, std=1e-3)

    def enlarge(self, x: Tensor, sensor: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Super-resolve and tell what the scene encoder saw.

        Parameters
        ----------
        x
            (N, bands, h, w) in 0..1.
        sensor
            (N, COUNT) or (1, COUNT), normalised; None: what it was told.

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
        return planes_of(subpixels, self.scale), scene

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

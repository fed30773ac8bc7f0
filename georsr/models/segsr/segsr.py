"""SeG-SR: a backbone whose groups are guided by what a semantic encoder sees in the image.

*SeG-SR: Integrating Semantic Knowledge into Remote Sensing Image Super-Resolution via
Vision-Language Model*, arXiv 2505.23010. The parts are in files of their own: SFEM (``sfem.py``),
SLM (``slm.py``), LMM (``lmm.py``), the backbone HAT (``hat.py``), the light encoder and backbone
(``lite.py``) and the published network (``pretrained.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from georsr.errors import ModelError
from georsr.models.registry import find_backbone, find_encoder, register_architecture
from georsr.models.segsr.backbone import Backbone, BicubicUpsampler
from georsr.models.segsr.film import Films, add_films
from georsr.models.segsr.lmm import LMM
from georsr.models.segsr.slm import SLM
from georsr.radiometry.sensor import N_SENSOR_VALUES


class Prediction(NamedTuple):
    """An enlarged image, and what guided it."""

    image: Tensor
    """(N, bands, s * h, s * w) around 0..1, not clipped."""
    maps: list[Tensor]
    """One guidance map (N, 1, hc, wc) per group; empty without guidance."""
    scene: Tensor | None
    """Unit scene vectors (N, E) of the encoder; None without guidance."""


class SegSR(nn.Module):
    """SeG-SR with any encoder and backbone.

    Parameters
    ----------
    encoder
        SFEM: (N, bands, h, w) in 0..1 -> tokens (N, E, hc, wc) and scene vector (N, E). None
        builds the backbone without guidance.
    localization
        SLM: tokens and scene vector -> one guidance map per group; None without guidance.
    backbone
        Shallow features and groups of blocks.
    modulations
        LMM, one per group: features and guidance map -> features; empty without guidance.
    upsampler
        Features and image -> enlarged image.
    scene_film
        Scale and shift of every block's features from the scene vector; None for none.
    sensor_estimator, sensor_film
        Estimator of the sensor description of an image; scale and shift of every block's features
        from that description; None for a network that takes no sensor description.
    """

    sensor: Tensor
    """Normalised sensor description (1, N_SENSOR_VALUES) that `forward` uses; zero if unknown."""

    def __init__(
        self,
        encoder: nn.Module | None,
        localization: SLM | None,
        backbone: Backbone,
        modulations: Sequence[nn.Module],
        upsampler: nn.Module,
        *,
        scene_film: nn.Module | None = None,
        sensor_estimator: nn.Module | None = None,
        sensor_film: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.localization = localization
        self.backbone = backbone
        self.modulations = nn.ModuleList(modulations)
        self.upsampler = upsampler
        self.scene_film = scene_film
        self.sensor_estimator = sensor_estimator
        self.sensor_film = sensor_film
        self.multiple_of = math.lcm(backbone.multiple_of, getattr(encoder, "multiple_of", 1))
        if sensor_film is not None:
            self.register_buffer("sensor", torch.zeros(1, N_SENSOR_VALUES), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, bands, h, w) in 0..1 -> (N, bands, s * h, s * w) around 0..1, not clipped."""
        return self.predict(x).image

    def predict(self, x: Tensor, sensor: Tensor | None = None) -> Prediction:
        """Enlarge images and return what guided them.

        Parameters
        ----------
        x
            (N, bands, h, w) in 0..1; h and w multiples of ``multiple_of``.
        sensor
            Normalised sensor description, (N, N_SENSOR_VALUES) or (1, N_SENSOR_VALUES); None takes
            ``self.sensor``.

        Raises
        ------
        ModelError
            The number of bands or the size does not fit.
        """
        self._check(x)
        maps: list[Tensor] = []
        scene = None
        if self.encoder is not None and self.localization is not None:
            tokens, scene = self.encoder(x)  # SFEM
            maps = self.localization(tokens, scene)  # SLM
        films = self._films(scene, sensor)
        shallow = self.backbone.conv_first(self.backbone.normalize(x))
        features = self.backbone.patch_norm(shallow)
        depth = len(films) // len(self.backbone.groups)
        for i, group in enumerate(self.backbone.groups):
            if films:
                features = group(features, films[i * depth : (i + 1) * depth])
            else:
                features = group(features)
            if maps:
                features = self.modulations[i](features, maps[i])  # LMM
        features = self.backbone.conv_after_body(features) + shallow
        return Prediction(self.upsampler(features, x), maps, scene)

    def _films(self, scene: Tensor | None, sensor: Tensor | None) -> Films:
        """Return a scale and a shift for every block of the backbone; empty without any."""
        films: Films = []
        if self.scene_film is not None:
            films = self.scene_film(scene)
        if self.sensor_film is not None:
            films = add_films(films, self.sensor_film(self.sensor if sensor is None else sensor))
        return films

    def _check(self, x: Tensor) -> None:
        bands, multiple = self.backbone.bands, self.multiple_of
        uneven = multiple > 1 and any(size % multiple for size in x.shape[2:])
        if x.dim() != 4 or x.shape[1] != bands or uneven:
            raise ModelError(
                f"the network takes tiles (N, {bands}, h, w) with h and w multiples of {multiple}, "
                f"got {tuple(x.shape)}"
            )

    @property
    def uses_sensor(self) -> bool:
        """Whether the network estimates and uses a sensor description."""
        return self.sensor_film is not None

    @property
    def guidance_count(self) -> int:
        """Number of guidance maps."""
        return len(self.modulations)

    def guidance_maps(self, x: Tensor) -> Tensor:
        """(N, bands, h, w) in 0..1 -> guidance maps (N, groups, hc, wc) on the grid of tokens."""
        if self.encoder is None or self.localization is None:
            raise ModelError("the network has no guidance")
        return torch.cat(self.localization(*self.encoder(x)), dim=1)


@register_architecture("segsr")
def segsr(
    scale: int,
    bands: int = 3,
    *,
    encoder: str = "clip",
    backbone: str = "hat",
    embed_dim: int = 180,
    num_groups: int = 6,
    depth: int = 6,
    encoder_options: dict[str, Any] | None = None,
    backbone_options: dict[str, Any] | None = None,
    fused: bool = True,
) -> SegSR:
    """Build an untrained SeG-SR from registered parts.

    Parameters
    ----------
    scale
        Output pixels per input pixel along each axis.
    bands
        Bands in and out.
    encoder, backbone
        Names given to `register_encoder` and `register_backbone`.
    embed_dim, num_groups, depth
        Channels, groups, and blocks per group of the backbone.
    encoder_options, backbone_options
        More arguments of the encoder's and the backbone's constructor.
    fused
        True: the parallel branches of training are merged into one convolution. False: they are
        separate, for training.

    Raises
    ------
    ModelError
        A name is unknown, or the sizes do not fit.
    """
    if num_groups < 1 or depth < 1:
        raise ModelError(f"segsr: num_groups {num_groups}, depth {depth}, expected at least 1")
    sfem: Any = find_encoder(encoder)(scale, bands, **(encoder_options or {}))
    token_dim = int(sfem.token_dim)
    # heads of 64 channels, as in the paper; a small encoder has one head
    slm = SLM(token_dim, num_groups, num_heads=max(1, token_dim // 64))
    lmms = [LMM(embed_dim) for _ in range(num_groups)]
    kind = find_backbone(backbone)
    options = {**({} if fused else kind.training_options), **(backbone_options or {})}
    body = kind(bands, embed_dim, num_groups, depth, **options)  # type: ignore[call-arg]
    upsampler = body.make_upsampler(scale)
    if not fused and isinstance(upsampler, BicubicUpsampler):
        upsampler.start_near_bicubic()
    return SegSR(sfem, slm, body, lmms, upsampler)

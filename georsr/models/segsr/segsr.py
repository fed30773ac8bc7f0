"""SeG-SR: semantic encoder -> localization -> modulation of a backbone's groups -> pixels.

*SeG-SR: Integrating Semantic Knowledge into Remote Sensing Image Super-Resolution via
Vision-Language Model*, arXiv 2505.23010. Encoder and backbone are exchangeable: an encoder gives
tokens and a scene vector, a backbone has a ``head`` and ``groups``, a tail makes pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from georsr.errors import ModelError
from georsr.models.segsr.hat import HatBackbone, PlainUpsampler, Upsampler
from georsr.models.segsr.lite import Backbone, SceneEncoder
from georsr.models.segsr.lmm import LMM, Interpolate, LearnedResize
from georsr.models.segsr.sfem import DIV2K_MEAN, ClipEncoder
from georsr.models.segsr.slm import SemanticLocalization
from georsr.models.spec import ModelSpec

MULTIPLE = 16
"""Tiles are multiples of this: the attention window of HAT."""


class NormalizedInput(nn.Module):
    """Gives an encoder that expects zero-centred input its (x - mean) * gain."""

    def __init__(self, encoder: nn.Module, mean: float = 0.45, gain: float = 4.0) -> None:
        super().__init__()
        self.inner = encoder
        self.mean, self.gain = mean, gain

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, h, w) in 0..1 -> tokens (N, E, hc, wc) and scene (N, E)."""
        return self.inner((x - self.mean) * self.gain)


class SegSR(nn.Module):
    """A backbone whose groups are guided by what a semantic encoder saw.

    Parameters
    ----------
    encoder
        (N, 3, h, w) in 0..1 -> tokens (N, E, hc, wc) and scene (N, E), L2-normalised.
    localization
        Tokens and scene -> one map per group.
    backbone
        Has ``head``, (N, 3, h, w) -> (N, C, h, w), and ``groups`` of the same shape in and out.
    modulations
        One per group: features and map -> features.
    tail
        Features and shallow features -> (N, 3, s * h, s * w).
    """

    mean: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        localization: SemanticLocalization,
        backbone: HatBackbone | Backbone,
        modulations: list[LMM],
        tail: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.localization = localization
        self.backbone = backbone
        self.modulations = nn.ModuleList(modulations)
        self.tail = tail
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)

    def enlarge(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Super-resolve, and show where the prompts pointed.

        Parameters
        ----------
        x
            (N, 3, h, w) in 0..1, h and w multiples of 16.

        Returns
        -------
        image, maps
            (N, 3, s * h, s * w) in 0..1, not clipped; one map (N, 1, hc, wc) per group.

        Raises
        ------
        ModelError
            Wrong number of bands, or a side that is not a multiple of 16.
        """
        if x.dim() != 4 or x.shape[1] != 3 or x.shape[2] % MULTIPLE or x.shape[3] % MULTIPLE:
            raise ModelError(
                f"segsr takes tiles (N, 3, h, w) with h and w multiples of {MULTIPLE}, "
                f"got {tuple(x.shape)}"
            )
        maps = self.localization(*self.encoder(x))
        centred = (x - self.mean).contiguous(memory_format=torch.channels_last)
        features = shallow = self.backbone.head(centred)
        for group, modulation, guidance in zip(
            self.backbone.groups, self.modulations, maps, strict=True
        ):
            features = modulation(group(features), guidance)
        return self.tail(features, shallow) + self.mean, maps

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) in 0..1 -> (N, 3, s * h, s * w) in 0..1, not clipped."""
        return self.enlarge(x)[0]

    @property
    def guidance_count(self) -> int:
        """Number of guidance maps."""
        return len(self.modulations)

    def guidance_maps(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) in 0..1 -> the maps that guide its groups, on the grid of tokens."""
        return torch.cat(self.localization(*self.encoder(x)), dim=1)


def segsr(
    scale: int,
    *,
    published: bool = False,
    groups: int = 6,
    blocks: int = 6,
    width: int = 180,
    heads: int = 6,
    backbone: str = "hat",
    encoder: str = "clip",
    clip: dict[str, Any] | None = None,
) -> SegSR:
    """Build an untrained network.

    Parameters
    ----------
    scale
        2, 3 or 4 (published: 2 or 4).
    published
        Compute exactly what the published network does (see :class:`ClipEncoder`), and enlarge
        guidance maps by learned steps instead of interpolation.
    groups, blocks, width, heads
        Of the backbone (``heads`` only for ``hat``).
    backbone
        ``hat``, or ``plain`` for the 3x3 convolutions of segsr-lite.
    encoder
        ``clip``, or ``scene`` for the small encoder of segsr-lite.
    clip
        Keyword arguments of :class:`ClipEncoder` where they differ from ViT-B/16; for ``scene``
        only ``tokens``.
    """
    options = dict(clip or {})
    if scale not in ((2, 4) if published else (2, 3, 4)):
        raise ModelError(f"segsr enlarges by 2, 3 or 4 (published: 2 or 4), not by {scale}")
    if backbone not in ("hat", "plain") or encoder not in ("clip", "scene"):
        raise ModelError(
            f"segsr: backbone {backbone!r} and encoder {encoder!r}, expected hat or plain, "
            "and clip or scene"
        )
    if width % heads or groups < 1 or blocks < 1:
        raise ModelError(
            f"segsr: width {width}, heads {heads}, groups {groups}, blocks {blocks} do not fit"
        )
    eyes: nn.Module
    if encoder == "clip":
        options.setdefault("heads", 16 if published else 12)
        eyes = ClipEncoder(scale, published=published, **options)
    else:
        eyes = NormalizedInput(SceneEncoder(3, options.get("tokens", 32)))
    tokens = int(options.get("tokens", 512 if encoder == "clip" else 32))
    # Prompt attention has heads of 64 (of 8 in a small test tower), the published factor is 100.
    point = SemanticLocalization(tokens, groups, heads=max(1, tokens // 64))
    steps = {2: 3, 4: 2}.get(scale, 0)
    modulations = [
        LMM(width, LearnedResize(steps) if published else Interpolate()) for _ in range(groups)
    ]
    if backbone == "hat":
        body: HatBackbone | Backbone = HatBackbone(3, width, heads, groups, blocks)
        tail: nn.Module = Upsampler(width, 3, scale)
    else:
        body = Backbone(3, width, groups, blocks, fused=True)
        tail = PlainUpsampler(width, 3, scale)
    network = SegSR(eyes, point, body, modulations, tail)
    # Convolutions and token layers then share one memory layout: no transposes between them.
    return network.to(memory_format=torch.channels_last)


def build(spec: ModelSpec) -> SegSR:
    """Builder of the architecture ``segsr`` for :mod:`georsr.models.registry`."""
    if spec.bands != 3:
        raise ModelError(f"model {spec.name}: segsr takes 3 bands, not {spec.bands}")
    return segsr(spec.scale, **spec.parameters)

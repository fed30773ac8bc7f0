"""SeG-SR: a backbone whose groups are guided by what a semantic encoder sees in the image.

*SeG-SR: Integrating Semantic Knowledge into Remote Sensing Image Super-Resolution via
Vision-Language Model*, arXiv 2505.23010. This file holds `SLM`, the semantic localization
module, `LMM`, the learnable modulation module, `Backbone`, the base class of backbones, and
`SegSR`, the network. SFEM (``sfem.py``), the backbone HAT (``hat.py``), the light encoder and
backbone (``segsr_lite.py``) and the published network (``segsr_published.py``) have files of their
own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError
from georsr.models.interpolation import Bicubic
from georsr.models.registry import find_backbone, find_encoder
from georsr.radiometry.kernels import N_SENSOR_VALUES


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
        if embed_dim < 1:
            raise ModelError(f"embed_dim is {embed_dim}, expected at least 1")
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


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (N, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BilinearResize(nn.Module):
    """Bilinear interpolation of a map to any grid; the outer corners of the grids coincide."""

    def forward(self, guidance: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, hc, wc) -> (N, 1, *size)."""
        return F.interpolate(guidance, size, mode="bilinear", align_corners=False)


class LMM(nn.Module):
    """norm(x) * (1 + gamma(M)) + beta(M), for features x and a guidance map M.

    Parameters
    ----------
    embed_dim
        C, channels of the features.
    resize
        Module that brings the map to the features' grid; None for `BilinearResize`.
    hidden_dim
        Channels between the map and gamma, beta.
    """

    def __init__(
        self, embed_dim: int, resize: nn.Module | None = None, hidden_dim: int = 128
    ) -> None:
        super().__init__()
        self.resize = resize or BilinearResize()
        self.norm = ChannelNorm(embed_dim)
        self.shared = nn.Conv2d(1, hidden_dim, 3, padding=1)
        self.gamma_beta = nn.Conv2d(hidden_dim, 2 * embed_dim, 3, padding=1)
        with torch.no_grad():  # an untrained guidance must not drown the features
            self.gamma_beta.weight.mul_(0.05)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Features (N, C, h, w) and a map (N, 1, hc, wc) -> (N, C, h, w)."""
        guidance = self.resize(guidance, (x.shape[2], x.shape[3]))
        gamma, beta = self.gamma_beta(F.relu(self.shared(guidance))).chunk(2, dim=1)
        x = self.norm(x)
        return torch.addcmul(x + beta, x, gamma)


class LightLMM(nn.Module):
    """x * (1 + gamma(M)) + beta(M) with few channels and no normalisation, for segsr-lite.

    The last layer starts at zero, so an untrained guidance changes nothing.

    Parameters
    ----------
    embed_dim
        C, channels of the features.
    hidden_dim
        Channels between the map and gamma, beta.
    """

    def __init__(self, embed_dim: int, hidden_dim: int = 8) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, hidden_dim, 3, padding=1)
        self.gamma_beta = nn.Conv2d(hidden_dim, 2 * embed_dim, 1)
        for parameter in self.gamma_beta.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Features (N, C, h, w) and a map (N, 1, hc, wc) -> (N, C, h, w)."""
        guidance = F.interpolate(guidance, x.shape[2:], mode="bilinear", align_corners=False)
        gamma, beta = self.gamma_beta(F.relu(self.lift(guidance))).chunk(2, dim=1)
        return torch.addcmul(x, x, gamma).add_(beta)


Films = list[tuple[Tensor, Tensor]]
"""Scale and shift of each block's features, both (N, C, 1, 1): x -> x * (1 + scale) + shift."""


class FiLM(nn.Module):
    """A small MLP and one linear layer per block that gives its scale and shift.

    The last layers start at zero, so an untrained FiLM changes nothing.

    Parameters
    ----------
    in_dim
        Length of the vector.
    hidden_dim
        Width of the MLP.
    embed_dim
        C, channels of a block's inner features.
    num_blocks
        Blocks of the backbone.
    num_layers
        Layers of the MLP.
    gain
        Factor on the vector. The entries of a unit vector are small: 5 brings them to the size of
        other activations.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        embed_dim: int,
        num_blocks: int,
        *,
        num_layers: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.gain = gain
        sizes = [in_dim] + [hidden_dim] * num_layers
        self.mlp = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.films = nn.ModuleList(nn.Linear(hidden_dim, 2 * embed_dim) for _ in range(num_blocks))
        for parameter in self.films.parameters():
            nn.init.zeros_(parameter)

    def forward(self, vector: Tensor) -> Films:
        """(N, in_dim) -> scale and shift (N, C, 1, 1) of each block."""
        hidden = vector * self.gain
        for layer in self.mlp:
            hidden = F.relu(layer(hidden))
        pairs = [film(hidden)[:, :, None, None].chunk(2, dim=1) for film in self.films]
        return [(scale, shift) for scale, shift in pairs]


def add_films(first: Films, second: Films) -> Films:
    """Return the sums of two lists of scales and shifts; either may be empty."""
    if not first or not second:
        return first or second
    return [(a + c, b + d) for (a, b), (c, d) in zip(first, second, strict=True)]


class MetaNet(nn.Module):
    """Bottleneck of two linear layers that summarises the scene vector."""

    def __init__(self, token_dim: int, hidden_dim: int = 32) -> None:
        super().__init__()
        self.linear1 = nn.Linear(token_dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, token_dim)

    def forward(self, scene: Tensor) -> Tensor:
        """(N, E) -> (N, E)."""
        return self.linear2(F.relu(self.linear1(scene)))


class GlobalPrompt(nn.Module):
    """Learned prompt, FiLM-conditioned by the scene vector."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(token_dim) * 0.02)
        self.meta = MetaNet(token_dim)
        self.film = nn.Linear(token_dim, 2 * token_dim)
        self.out = nn.Linear(token_dim, token_dim)

    def forward(self, scene: Tensor) -> Tensor:
        """Scene vectors (N, E) -> conditioned global prompts (N, E)."""
        gamma, beta = self.film(self.meta(scene)).chunk(2, dim=-1)
        return self.out(gamma * self.prompt + beta)


class PromptAttention(nn.Module):
    """Self-attention over the prompts: no residual, no norm, q, k and v without bias."""

    def __init__(self, token_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(token_dim, 3 * token_dim, bias=False)
        self.out = nn.Linear(token_dim, token_dim)

    def forward(self, prompts: Tensor) -> Tensor:
        """(N, P, E) -> (N, P, E)."""
        n, p, e = prompts.shape
        # (N, P, 3E) -> 3 x (N, heads, P, E / heads)
        q, k, v = self.qkv(prompts).view(n, p, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).reshape(n, p, e))


class GatedFusion(nn.Module):
    """Gate of a local prompt on the global prompt."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(token_dim, token_dim)
        self.value = nn.Linear(token_dim, token_dim)
        self.out = nn.Linear(token_dim, token_dim)

    def forward(self, local_prompt: Tensor, global_prompt: Tensor) -> Tensor:
        """Local and global prompts, both (N, E) -> queries (N, E)."""
        return self.out(torch.sigmoid(self.gate(local_prompt)) * self.value(global_prompt))


class SLM(nn.Module):
    """One global and several local prompts -> one guidance map per backbone group.

    Parameters
    ----------
    token_dim
        E, width of the tokens.
    num_groups
        Groups of the backbone: one local prompt and one map for each.
    num_heads
        Attention heads; must divide ``token_dim``.
    temperature
        Factor on the inner product of token and query (100 in the paper).
    """

    def __init__(
        self, token_dim: int, num_groups: int, num_heads: int = 8, temperature: float = 100.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.global_prompt = GlobalPrompt(token_dim)
        self.local_prompts = nn.Parameter(torch.randn(num_groups, token_dim) * 0.02)
        self.attention = PromptAttention(token_dim, num_heads)
        self.fusions = nn.ModuleList(GatedFusion(token_dim) for _ in range(num_groups))

    def forward(self, tokens: Tensor, scene: Tensor) -> list[Tensor]:
        """Compute the guidance map of every group.

        Parameters
        ----------
        tokens
            (N, E, hc, wc), each token L2-normalised.
        scene
            (N, E), L2-normalised.

        Returns
        -------
        list of Tensor
            One map (N, 1, hc, wc) per group.
        """
        local_prompts = self.local_prompts.expand(len(scene), -1, -1)
        prompts = torch.cat([self.global_prompt(scene)[:, None], local_prompts], dim=1)
        prompts = self.attention(prompts)
        queries = torch.stack(
            [fusion(prompts[:, i + 1], prompts[:, 0]) for i, fusion in enumerate(self.fusions)],
            dim=1,
        )
        maps = self.temperature * torch.einsum("nehw,nge->nghw", tokens, queries)
        return list(maps.split(1, dim=1))


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
        if len(backbone.groups) == 0:
            raise ModelError("the backbone has no groups of blocks, expected at least one")
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
    kind: Any = find_backbone(backbone)
    options = {**({} if fused else kind.training_options), **(backbone_options or {})}
    body: Backbone = kind(bands, embed_dim, num_groups, depth, **options)
    upsampler = body.make_upsampler(scale)
    if not fused and isinstance(upsampler, BicubicUpsampler):
        upsampler.start_near_bicubic()
    return SegSR(sfem, slm, body, lmms, upsampler)

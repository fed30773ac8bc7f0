"""SFEM, the semantic feature extraction module: CLIP's image tower, read at every patch.

SeG-SR, arXiv 2505.23010, section III (semantic feature extraction); CLIP, arXiv 2103.00020. The
tower is open_clip's; only its attention is replaced, so that fused kernels run it and LoRA can
reach the joint q, k, v layer. open_clip is imported when an encoder is built, never before.

CLIP weights: from an open_clip name or a local file to an encoder.

Reads open_clip state dicts of the ViT family, so OpenAI's, LAION's, RemoteCLIP's (arXiv
2306.11029) and GeoRSCLIP's (arXiv 2306.11300). Nothing is fetched unless a name is asked for that
is not on this machine.

LoRA for CLIP: a few trainable directions beside its frozen weights (arXiv 2106.09685).

Needs PEFT, part of the ``train`` extra; running a trained network does not.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError, UsageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""What the published network subtracts from its input, CLIP's included."""


class ClipAttention(nn.Module):
    """Self-attention with a joint q, k, v layer, called the way open_clip's blocks call theirs."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """(N, L, W) -> (N, L, W), and None in place of attention weights."""
        n, length, width = x.shape
        # (N, L, 3W) -> 3 x (N, heads, L, W / heads)
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(n, length, width)), None


class ClipEncoder(nn.Module):
    """RGB tile -> one unit vector per CLIP patch, and one for the whole tile.

    It owns its preprocessing: enlarging by ``scale`` (so that a patch is small on the ground) and
    normalisation. Weights are random until loaded.

    Parameters
    ----------
    scale
        The network's factor.
    width, layers, heads, patch
        The tower: 768, 12, 12 and 16 in ViT-B/16.
    tokens
        E, width of the vectors (512).
    grid
        Patches along each side of CLIP's training images (14).
    quick_gelu
        x * sigmoid(1.702 x) instead of GELU, as in OpenAI's weights.
    published
        As the published SeG-SR runs it: 16 heads, mean-subtracted un-normalised input, positions
        interpolated along the flattened sequence, and the first patch in the place of the class
        token as scene vector. Otherwise as CLIP was trained, with positions interpolated on the
        patch grid.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        scale: int,
        *,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        patch: int = 16,
        tokens: int = 512,
        grid: int = 14,
        quick_gelu: bool = True,
        published: bool = False,
    ) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, VisionTransformer

        if width % heads:
            raise ModelError(f"CLIP width {width} is not a multiple of its {heads} heads")
        self.scale, self.patch, self.published = scale, patch, published
        self.options = {
            "width": width,
            "layers": layers,
            "heads": heads,
            "patch": patch,
            "tokens": tokens,
            "grid": grid,
            "quick_gelu": quick_gelu,
        }
        self.width = tokens
        trunk = VisionTransformer(
            image_size=grid * patch,
            patch_size=patch,
            width=width,
            layers=layers,
            heads=heads,
            mlp_ratio=4.0,
            output_dim=tokens,
            act_layer=QuickGELU if quick_gelu else nn.GELU,
        )
        self.class_embedding = trunk.class_embedding
        self.positional_embedding = trunk.positional_embedding
        self.proj = trunk.proj
        self.conv1 = trunk.conv1
        self.ln_pre = trunk.ln_pre
        self.blocks = trunk.transformer.resblocks
        for block in self.blocks:
            block.attn = ClipAttention(width, heads)
        self.ln_post = trunk.ln_post
        mean, std = (DIV2K_MEAN, (1.0, 1.0, 1.0)) if published else (CLIP_MEAN, CLIP_STD)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) in 0..1 -> enlarged and normalised, each side a multiple of the patch."""
        step = self.patch
        size = [math.ceil(n * self.scale / step) * step for n in x.shape[2:]]
        x = (x - self.mean) / self.std
        return F.interpolate(x, size, mode="bilinear", align_corners=False)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Positional embedding (1 + rows * columns, W) for a patch grid of that size."""
        known = self.positional_embedding
        if self.published:
            sequence = known.t()[None].float()
            length = 1 + rows * columns
            line = F.interpolate(sequence, length, mode="linear", align_corners=False)
            return line[0].t().to(known.dtype)
        side = math.isqrt(len(known) - 1)
        plane = known[1:].t().reshape(1, -1, side, side).float()
        plane = F.interpolate(plane, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([known[:1], plane[0].flatten(1).t().to(known.dtype)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Describe a tile.

        Parameters
        ----------
        x
            (N, 3, h, w) in 0..1.

        Returns
        -------
        tokens, scene
            (N, E, hc, wc) with hc = ceil(s * h / patch), and (N, E), L2-normalised over E.
        """
        patches = self.conv1(self.preprocess(x))
        n, _, rows, columns = patches.shape
        sequence = patches.flatten(2).transpose(1, 2)
        first = self.class_embedding.to(sequence.dtype).expand(n, 1, -1)
        sequence = torch.cat([first, sequence], dim=1)
        sequence = self.ln_pre(sequence + self.positions(rows, columns).to(sequence.dtype))
        for block in self.blocks:
            sequence = block(sequence)
        described = self.ln_post(sequence)
        # The published code drops the class token, then pools what it takes for it: its scene
        # vector is the first patch, normalised by ln_post a second time.
        scene = self.ln_post(described[:, 1]) if self.published else described[:, 0]
        tokens = self._unit(described[:, 1:] @ self.proj)
        return tokens.transpose(1, 2).unflatten(2, (rows, columns)), self._unit(scene @ self.proj)

    def _unit(self, x: Tensor) -> Tensor:
        """L2-normalise over the last axis, in no less than float32, in the weights' precision."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.normalize(wide, dim=-1).to(self.proj.dtype)


HEAD = 64
"""Channels per attention head in every CLIP of the ViT family."""
CACHE = Path("~/.cache/clip")
"""Where open_clip and OpenAI's own package keep downloaded weights."""


def load_clip(source: str | Path, scale: int, quick_gelu: bool | None = None) -> ClipEncoder:
    """Build an encoder with CLIP's own heads and normalisation, and fill it.

    Parameters
    ----------
    source
        ``MODEL/TAG`` as open_clip names it (``ViT-B-16/openai``), or a file: an open_clip state
        dict (``.safetensors``, or ``.pt``/``.bin``/``.pth`` without code inside).
    scale
        The network's factor.
    quick_gelu
        Activation of the tower; None takes open_clip's for a name and QuickGELU for a file
        (files carry no note of it; OpenAI's weights and those trained on from them have it).

    Raises
    ------
    UsageError
        Neither a file nor a name that open_clip knows.
    ModelError
        The file is damaged or not a CLIP image tower of the ViT family; or the weights are not
        here and cannot be fetched (the message says what to download and where to put it).
    """
    path = Path(source)
    if not path.is_file():
        path, named = _fetch(str(source))
        quick_gelu = named if quick_gelu is None else quick_gelu
    weights = tower_weights(_read(path), path)
    geometry = tower_geometry(weights, path)
    options: dict[str, Any] = {**geometry, "quick_gelu": quick_gelu is not False}
    encoder = ClipEncoder(scale, **options)
    expected = encoder.state_dict()
    wrong = sorted(expected.keys() ^ weights.keys())
    wrong += [k for k in expected if k in weights and expected[k].shape != weights[k].shape]
    if wrong:
        raise ModelError(
            f"{path}: {len(wrong)} tensors do not fit a CLIP image tower: {', '.join(wrong[:5])}"
        )
    encoder.load_state_dict(weights)
    return encoder


def tower_weights(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Entries of the image tower under this package's names, from an open_clip state dict."""
    state = {k.removeprefix("module."): v for k, v in state.items()}
    if any(k.startswith("visual.") for k in state):
        state = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    if "conv1.weight" not in state or "transformer.resblocks.0.ln_1.weight" not in state:
        raise ModelError(
            f"{path}: not a CLIP of the ViT family (ResNet towers and text-only files do not fit)"
        )
    renames = (
        ("transformer.resblocks.", "blocks."),
        ("attn.in_proj_weight", "attn.qkv.weight"),
        ("attn.in_proj_bias", "attn.qkv.bias"),
        ("attn.out_proj.", "attn.proj."),
    )
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for old, new in renames:
            name = name.replace(old, new)
        renamed[name] = value.float()
    return renamed


def tower_geometry(weights: dict[str, Tensor], path: Path) -> dict[str, int]:
    """Keyword arguments of :class:`ClipEncoder`, read from shapes."""
    try:
        width, _, patch, _ = weights["conv1.weight"].shape
        grid = math.isqrt(len(weights["positional_embedding"]) - 1)
        tokens = weights["proj"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(f"{path}: not a complete CLIP image tower ({error})") from error
    layers = len({k.split(".")[1] for k in weights if k.startswith("blocks.")})
    return {
        "width": width,
        "layers": layers,
        "heads": max(1, width // HEAD),
        "patch": patch,
        "tokens": tokens,
        "grid": grid,
    }


def _read(path: Path) -> dict[str, Tensor]:
    """State dict of a file; code inside is never run."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail in any way
        raise ModelError(
            f"{path}: not a readable CLIP state dict ({type(error).__name__}); TorchScript "
            "archives and pickled code are not read, take the .safetensors of the same model"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise ModelError(f"{path}: holds a {type(loaded).__name__}, expected a state dict")
    return {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _fetch(name: str) -> tuple[Path, bool]:
    """File of a named CLIP, fetched if need be, and whether it has QuickGELU."""
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    model, _, tag = name.partition("/")
    config = get_pretrained_cfg(model, tag) if tag else {}
    if not config:
        raise UsageError(
            f"CLIP {name!r} is neither a file nor a name open_clip knows, "
            "expected for example ViT-B-16/openai"
        )
    quick_gelu = bool(config.get("quick_gelu", False)) or model.endswith("quickgelu")
    hub = str(config.get("hf_hub", "")).rstrip("/")
    file = "open_clip_model.safetensors"
    here = CACHE.expanduser() / f"{model}-{tag}.safetensors"
    if here.is_file():
        return here, quick_gelu
    try:
        return Path(download_pretrained(config, prefer_hf_hub=True)), quick_gelu
    except Exception as error:  # no network shows itself in many ways
        address = f"https://huggingface.co/{hub}/resolve/main/{file}" if hub else config["url"]
        raise ModelError(
            f"CLIP {name} is not on this machine and could not be fetched "
            f"({type(error).__name__}); download {address} and save it as {here}, "
            "or pass the path of the file instead of the name"
        ) from error


TARGETS = ("qkv", "c_fc", "c_proj")
"""The linear layers SeG-SR adapts."""


def add_lora(
    encoder: ClipEncoder, rank: int = 32, alpha: int = 32, dropout: float = 0.05
) -> ClipEncoder:
    """Freeze an encoder and put LoRA beside its linear layers, in place.

    Parameters
    ----------
    encoder
        Encoder to adapt; it starts out computing exactly what it did.
    rank, alpha, dropout
        LoRA's; the update is weighted by alpha / rank.

    Returns
    -------
    ClipEncoder
        The same object; only LoRA's parameters want gradients.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError("LoRA needs the package peft: pip install 'georsr[train]'") from error
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(TARGETS),
        bias="none",
    )
    encoder.requires_grad_(False)
    inject_adapter_in_model(config, encoder)
    return encoder


def merge_lora(encoder: ClipEncoder) -> ClipEncoder:
    """Add LoRA's updates to the weights and remove it, in place: for inference and for saving."""
    from peft.tuners.lora import LoraLayer

    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())
    return encoder

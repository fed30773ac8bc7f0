"""SFEM, the semantic feature extraction module: CLIP's image tower, with a token per patch.

SeG-SR, arXiv 2505.23010, section III (semantic feature extraction); CLIP, arXiv 2103.00020; LoRA,
arXiv 2106.09685. The tower is open_clip's. Its attention is replaced by one with a joint q, k, v
layer, for fused kernels and for LoRA. open_clip is imported when an encoder is built, and PEFT (of
the extra ``train``) when LoRA is added or merged.

Weights come from an open_clip state dict of the ViT family: OpenAI's, LAION's, RemoteCLIP's (arXiv
2306.11029), GeoRSCLIP's (arXiv 2306.11300). Nothing is downloaded unless a name is given whose
weights are not on this machine.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError, UsageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipAttention(nn.Module):
    """Self-attention with a joint q, k, v layer and the signature of open_clip's blocks."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """(N, L, W) -> (N, L, W), and None in place of attention weights."""
        n, length, width = x.shape
        # (N, L, 3W) -> 3 x (N, heads, L, W / heads)
        q, k, v = self.qkv(x).view(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(n, length, width)), None


class ClipEncoder(nn.Module):
    """CLIP's image tower: a unit vector per patch, and one for the tile.

    It enlarges its input by ``scale``, so that a patch is small on the ground, and normalises it.
    Weights are random until loaded.

    Parameters
    ----------
    scale
        The network's factor.
    bands
        3; CLIP takes RGB.
    width, layers, num_heads, patch_size
        The tower: 768, 12, 12 and 16 in ViT-B/16.
    token_dim
        E, width of the vectors (512).
    grid_size
        Patches along each axis of CLIP's training images (14).
    quick_gelu
        x * sigmoid(1.702 x) instead of GELU, as in OpenAI's weights.
    """

    mean: Tensor
    std: Tensor
    input_statistics = (CLIP_MEAN, CLIP_STD)
    """RGB mean and standard deviation by which the input is normalised."""

    def __init__(
        self,
        scale: int,
        bands: int = 3,
        *,
        width: int = 768,
        layers: int = 12,
        num_heads: int = 12,
        patch_size: int = 16,
        token_dim: int = 512,
        grid_size: int = 14,
        quick_gelu: bool = True,
    ) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, VisionTransformer

        if bands != 3:
            raise ModelError(f"the encoder clip takes 3 bands, not {bands}")
        if width % num_heads:
            raise ModelError(f"CLIP width {width} is not a multiple of its {num_heads} heads")
        self.scale, self.patch_size, self.token_dim = scale, patch_size, token_dim
        self.options = {
            "width": width,
            "layers": layers,
            "num_heads": num_heads,
            "patch_size": patch_size,
            "token_dim": token_dim,
            "grid_size": grid_size,
            "quick_gelu": quick_gelu,
        }
        trunk = VisionTransformer(
            image_size=grid_size * patch_size,
            patch_size=patch_size,
            width=width,
            layers=layers,
            heads=num_heads,
            mlp_ratio=4.0,
            output_dim=token_dim,
            act_layer=QuickGELU if quick_gelu else nn.GELU,
        )
        self.class_embedding = trunk.class_embedding
        self.positional_embedding = trunk.positional_embedding
        self.proj = trunk.proj
        self.conv1 = trunk.conv1
        self.ln_pre = trunk.ln_pre
        self.blocks = trunk.transformer.resblocks
        for block in self.blocks:
            block.attn = ClipAttention(width, num_heads)
        self.ln_post = trunk.ln_post
        mean, std = self.input_statistics
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) in 0..1 -> enlarged and normalised; sizes are multiples of the patch."""
        step = self.patch_size
        size = [math.ceil(n * self.scale / step) * step for n in x.shape[2:]]
        x = (x - self.mean) / self.std
        return F.interpolate(x, size, mode="bilinear", align_corners=False)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the positional embedding (1 + rows * columns, W) for a grid of patches.

        CLIP's own grid is interpolated bicubically; the class token keeps its position.
        """
        embedding = self.positional_embedding
        size = math.isqrt(len(embedding) - 1)
        grid = embedding[1:].t().reshape(1, -1, size, size).float()
        grid = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([embedding[:1], grid[0].flatten(1).t().to(embedding.dtype)])

    def scene_token(self, tokens: Tensor) -> Tensor:
        """Return the class token (N, W) of normalised tokens (N, 1 + L, W)."""
        return tokens[:, 0]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute tokens and scene vector of a tile.

        Parameters
        ----------
        x
            (N, 3, h, w) in 0..1.

        Returns
        -------
        tokens, scene
            (N, E, hc, wc) with hc = ceil(s * h / patch_size), and (N, E), L2-normalised over E.
        """
        patches = self.conv1(self.preprocess(x))
        n, _, rows, columns = patches.shape
        sequence = patches.flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(sequence.dtype).expand(n, 1, -1)
        sequence = torch.cat([class_token, sequence], dim=1)
        sequence = self.ln_pre(sequence + self.positions(rows, columns).to(sequence.dtype))
        for block in self.blocks:
            sequence = block(sequence)
        normed = self.ln_post(sequence)
        scene = self._normalize(self.scene_token(normed) @ self.proj)
        tokens = self._normalize(normed[:, 1:] @ self.proj)
        return tokens.transpose(1, 2).unflatten(2, (rows, columns)), scene

    def _normalize(self, x: Tensor) -> Tensor:
        """L2-normalise over the last axis in at least float32, in the weights' precision."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.normalize(wide, dim=-1).to(self.proj.dtype)


HEAD_DIM = 64
"""Channels per attention head in every CLIP of the ViT family."""
CACHE = Path("~/.cache/clip")
"""Folder in which open_clip and OpenAI's own package keep downloaded weights."""


def load_clip(source: str | Path, scale: int, quick_gelu: bool | None = None) -> ClipEncoder:
    """Build an encoder and load CLIP's weights into it.

    Parameters
    ----------
    source
        ``MODEL/TAG`` as open_clip names it (``ViT-B-16/openai``), or a file: an open_clip state
        dict (``.safetensors``, or ``.pt``/``.bin``/``.pth`` without code inside).
    scale
        The network's factor.
    quick_gelu
        Activation of the tower; None takes open_clip's for a name and QuickGELU for a file. A
        file does not record it; OpenAI's weights and those fine-tuned from them have QuickGELU.

    Raises
    ------
    UsageError
        Neither a file nor a name that open_clip knows.
    ModelError
        The file is damaged or not a CLIP image tower of the ViT family; or the weights are not
        on this machine and cannot be downloaded (the message names the file to download).
    """
    path = Path(source)
    if not path.is_file():
        path, declared = _download(str(source))
        quick_gelu = declared if quick_gelu is None else quick_gelu
    weights = tower_weights(_read(path), path)
    sizes = tower_sizes(weights, path)
    encoder = ClipEncoder(scale, **sizes, quick_gelu=quick_gelu is not False)
    expected = encoder.state_dict()
    misfits = sorted(expected.keys() ^ weights.keys())
    misfits += [k for k in expected if k in weights and expected[k].shape != weights[k].shape]
    if misfits:
        raise ModelError(
            f"{path}: {len(misfits)} tensors do not fit a CLIP image tower: "
            f"{', '.join(misfits[:5])}"
        )
    encoder.load_state_dict(weights)
    return encoder


def tower_weights(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors of the image tower by their names in `ClipEncoder`."""
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


def tower_sizes(weights: dict[str, Tensor], path: Path) -> dict[str, int]:
    """Return the keyword arguments of `ClipEncoder`, read from shapes."""
    try:
        width, _, patch_size, _ = weights["conv1.weight"].shape
        grid_size = math.isqrt(len(weights["positional_embedding"]) - 1)
        token_dim = weights["proj"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(f"{path}: not a complete CLIP image tower ({error})") from error
    layers = len({k.split(".")[1] for k in weights if k.startswith("blocks.")})
    return {
        "width": width,
        "layers": layers,
        "num_heads": max(1, width // HEAD_DIM),
        "patch_size": patch_size,
        "token_dim": token_dim,
        "grid_size": grid_size,
    }


def _read(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file; code inside is never run."""
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


def _download(name: str) -> tuple[Path, bool]:
    """Return the file of a named CLIP, downloaded if necessary, and whether it has QuickGELU."""
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
    saved = CACHE.expanduser() / f"{model}-{tag}.safetensors"
    if saved.is_file():
        return saved, quick_gelu
    # the client logs every attempt; georsr reports the outcome in one line
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return Path(download_pretrained(config, prefer_hf_hub=True)), quick_gelu
    except Exception as error:  # a missing network raises many kinds of errors
        url = f"https://huggingface.co/{hub}/resolve/main/{file}" if hub else config["url"]
        raise ModelError(
            f"CLIP {name} is not on this machine and could not be downloaded "
            f"({type(error).__name__}); download {url} and save it as {saved}, "
            "or pass the path of the file instead of the name"
        ) from error


LORA_LAYERS = ("qkv", "c_fc", "c_proj")
"""Linear layers of CLIP that SeG-SR adapts."""


def add_lora(
    encoder: ClipEncoder, rank: int = 32, alpha: int = 32, dropout: float = 0.05
) -> ClipEncoder:
    """Freeze an encoder and add trainable LoRA to its linear layers, in place.

    Parameters
    ----------
    encoder
        Encoder to adapt; its output does not change until LoRA is trained.
    rank, alpha, dropout
        LoRA's settings; the update is weighted by alpha / rank.

    Returns
    -------
    ClipEncoder
        The same object; only LoRA's parameters require gradients.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError("LoRA needs the package peft: pip install peft") from error
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(LORA_LAYERS),
        bias="none",
    )
    encoder.requires_grad_(False)
    inject_adapter_in_model(config, encoder)
    return encoder


def merge_lora(encoder: ClipEncoder) -> ClipEncoder:
    """Add LoRA's updates to the weights and remove LoRA, in place."""
    from peft.tuners.lora import LoraLayer

    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())
    return encoder

"""CLIP weights: from an open_clip name or a local file to an encoder.

Reads open_clip state dicts of the ViT family, so OpenAI's, LAION's, RemoteCLIP's (arXiv
2306.11029) and GeoRSCLIP's (arXiv 2306.11300). Nothing is fetched unless a name is asked for that
is not on this machine.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from georsr.errors import ModelError, UsageError
from georsr.models.segsr.encoder import ClipEncoder

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

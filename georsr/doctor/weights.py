"""Weights: those that come with georsr, and CLIP's where they are on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from georsr.doctor.finding import Finding, State

CLIP = ("ViT-B-16", "openai")
"""The CLIP that SeG-SR is built on."""


def findings() -> Iterator[Finding]:
    """Bundled models, then CLIP."""
    from georsr.models.load import open_model
    from georsr.models.zoo import DEFAULT, bundled

    names = bundled()
    expected = DEFAULT.format(scale=4)
    if expected not in names:
        text = f"{expected}, the default model, is missing"
        yield Finding("models", State.PROBLEM, text, "pip install --force-reinstall georsr")
    else:
        open_model(expected)
        yield Finding("models", State.OK, ", ".join(names))
    yield clip_finding(find_clip())


def clip_finding(found: Path | None) -> Finding:
    """Say where CLIP's weights are, or how to get them."""
    name = "/".join(CLIP)
    if found is not None:
        return Finding("CLIP weights", State.OK, f"{name} in {found}")
    from georsr.models.segsr.clip_weights import CACHE

    place = CACHE.expanduser() / f"{'-'.join(CLIP)}.safetensors"
    return Finding(
        "CLIP weights",
        State.NOTE,
        f"{name} is not on this machine; the bundled models do not need it",
        f"to train or run SeG-SR with CLIP: it is fetched at first use, or save it as {place}",
    )


def find_clip() -> Path | None:
    """File of CLIP's weights on this machine; nothing is fetched."""
    from open_clip.pretrained import get_pretrained_cfg

    from georsr.models.segsr.clip_weights import CACHE

    model, tag = CLIP
    folder = CACHE.expanduser()
    for path in (folder / f"{model}-{tag}.safetensors", folder / f"{model}.pt"):
        if path.is_file():
            return path
    hub = str(get_pretrained_cfg(model, tag).get("hf_hub", "")).rstrip("/")
    return _in_hub_cache(hub) if hub else None


def _in_hub_cache(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None

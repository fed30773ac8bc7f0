"""Loading: from a name or a file to a network in evaluation mode, and back to a file."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from georsr.errors import ModelError, UsageError
from georsr.models.hub import SCHEME, download
from georsr.models.spec import METADATA_KEY, ModelSpec
from georsr.models.zoo import (
    BUILDERS,
    COMPUTED,
    NAME,
    bundled,
    full_name,
    listing,
    read_spec,
)


@dataclass(frozen=True)
class Model:
    """A network ready to run, with its contract and where it came from."""

    spec: ModelSpec
    network: nn.Module
    """In evaluation mode, float32, on the CPU, parameters without gradient."""
    sha256: str
    """Of the weights file; of the spec for models without weights."""
    source: str
    """Name or path it was opened by."""


def open_model(name: str | None = None, scale: int | None = None) -> Model:
    """Open a model.

    Parameters
    ----------
    name
        Built-in name (``georsr models list``; the ``-x4`` may be left to ``scale``), a
        ``.safetensors`` file or a folder holding one, a published SeG-SR ``.pth``, a ``.pth`` of
        another network that spandrel knows, an ``.onnx`` file that ``georsr export`` made, or
        ``hf://OWNER/REPO[@REVISION][/FILE][#sha256=...]``.
    scale
        Wanted factor; None takes the model's own (4 where a name leaves it open).

    Raises
    ------
    UsageError
        No such model, or its scale is not the wanted one.
    ModelError
        The file is damaged or does not fit its own contract.
    """
    complete = full_name(name, scale)
    if complete in COMPUTED:
        spec = COMPUTED[complete]
        digest = hashlib.sha256(spec.to_json().encode()).hexdigest()
        return Model(spec, build(spec), digest, complete)
    path = bundled().get(complete) or _file_of(complete)
    with torch.random.fork_rng(devices=[]):  # networks draw weights before theirs are loaded
        model = _OPENERS.get(path.suffix.lower(), _open_safetensors)(path)
    if complete.startswith(SCHEME):
        model = replace(model, source=complete)
    if scale is not None and model.spec.scale != scale:
        raise UsageError(
            f"model {model.spec.name} enlarges x{model.spec.scale}, but x{scale} was asked for"
        )
    return model


def _file_of(name: str) -> Path:
    """The weights file a path names."""
    path = download(name) if name.startswith(SCHEME) else Path(name)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise UsageError(f"{path}: holds {len(files)} safetensors files, expected one")
        return files[0]
    if path.is_file():
        return path
    known = ", ".join(spec.name for spec in listing())
    if NAME.fullmatch(name):
        raise UsageError(f"unknown model {name!r}; built-in models: {known}")
    raise UsageError(f"model file {name} does not exist; built-in models: {known}")


def build(spec: ModelSpec) -> nn.Module:
    """Build the untrained network a spec describes, in evaluation mode."""
    if spec.architecture not in BUILDERS:
        raise ModelError(
            f"model {spec.name}: unknown architecture {spec.architecture!r}; "
            f"this georsr knows {', '.join(BUILDERS)}"
        )
    try:
        network = BUILDERS[spec.architecture](spec)
    except TypeError as error:
        raise ModelError(f"model {spec.name}: bad parameters ({error})") from error
    return network.eval().requires_grad_(False)


def sha256_of(path: Path) -> str:
    """Checksum of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fill(network: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load weights, all of them and nothing else.

    Raises
    ------
    ModelError
        Names or shapes differ; the message names the first five and counts them.
    """
    expected = network.state_dict()
    missing = [f"missing {k}" for k in expected if k not in weights]
    extra = [f"unexpected {k}" for k in weights if k not in expected]
    shapes = [
        f"{k} has shape {tuple(weights[k].shape)}, expected {tuple(v.shape)}"
        for k, v in expected.items()
        if k in weights and weights[k].shape != v.shape
    ]
    if problems := missing + extra + shapes:
        raise ModelError(f"{where}: {len(problems)} tensors do not fit: {'; '.join(problems[:5])}")
    network.load_state_dict({k: v.to(expected[k].dtype) for k, v in weights.items()})


def _open_safetensors(path: Path) -> Model:
    spec = read_spec(path)
    network = build(spec)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from error
    fill(network, weights, str(path))
    return Model(spec, network, sha256_of(path), str(path))


def _open_checkpoint(path: Path) -> Model:
    """A published SeG-SR, or what spandrel recognises."""
    from georsr.models.checkpoint import read_checkpoint
    from georsr.models.segsr.published import is_published, read_published

    entries = read_checkpoint(path)
    if is_published(entries):
        spec, weights = read_published(path, entries)
        network = build(spec)
        fill(network, weights, str(path))
    else:
        from georsr.models.foreign import recognise

        spec, network = recognise(entries, path)
    return Model(spec, network, sha256_of(path), str(path))


def _open_exported(path: Path) -> Model:
    from georsr.models.onnx.session import open_onnx

    spec, network, sha256 = open_onnx(path)
    return Model(spec, network, sha256, str(path))


_OPENERS: dict[str, Callable[[Path], Model]] = {
    ".pth": _open_checkpoint,
    ".pt": _open_checkpoint,
    ".onnx": _open_exported,
}
"""Suffix -> what opens such files."""


def save_model(
    path: Path, spec: ModelSpec, network: nn.Module, dtype: torch.dtype = torch.float16
) -> None:
    """Write a self-describing safetensors file, atomically.

    Parameters
    ----------
    path
        Target; replaced if it exists.
    spec
        Stored in the metadata.
    network
        Its ``state_dict`` is stored; floating-point tensors as ``dtype``.
    dtype
        float16 halves the file and costs less than 0.001 dB.
    """
    tensors = {
        k: (v.to(dtype) if v.is_floating_point() else v).cpu().contiguous()
        for k, v in network.state_dict().items()
    }
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        save_file(tensors, part, metadata={METADATA_KEY: spec.to_json()})
        part.chmod(0o644)  # safetensors makes files that only their owner may read
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

"""Loading: from a name or a file to a network in evaluation mode, and back to a file.

Models on the Hugging Face hub: ``hf://OWNER/REPO[@REVISION][/FILE][#sha256=HEX]``.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from georsr._files import atomic_write, sha256
from georsr.errors import ModelError, UsageError
from georsr.models.registry import (
    ARCHITECTURES,
    COMPUTED,
    NAME,
    bundled_weights,
    list_models,
    read_spec,
    resolve_name,
)
from georsr.models.spec import METADATA_KEY, ModelSpec

log = logging.getLogger(__name__)

SCHEME = "hf://"
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+?))?"
    r"(?:/(?P<file>[^#@]+\.\w+))?(?:#sha256=(?P<sha256>[0-9a-f]{64}))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """Where a model lies on the hub."""

    repository: str
    """``OWNER/REPO``."""
    revision: str
    """Branch, tag or commit; a branch may change under your feet."""
    file: str | None
    """Path inside the repository; None: its only .safetensors file."""
    sha256: str | None
    """What the file's bytes have to be."""

    @classmethod
    def parse(cls, text: str) -> HubFile:
        """Read ``hf://...``; raises UsageError."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise UsageError(
                f"model {text}: expected hf://OWNER/REPO, with @REVISION, /FILE and #sha256=HEX "
                "as you like"
            )
        return cls(found["repository"], found["revision"] or "main", found["file"], found["sha256"])

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{SCHEME}{self.repository}@{self.revision}{file}"


def download(text: str, endpoint: str | None = None) -> Path:
    """The file that an address names, from the hub or from its cache on this machine.

    Parameters
    ----------
    text
        ``hf://OWNER/REPO[@REVISION][/FILE][#sha256=HEX]``.
    endpoint
        Address of the hub; None takes the public one, or that of ``HF_ENDPOINT``.

    Raises
    ------
    UsageError
        Not such an address.
    ModelError
        No such repository, revision or file; several files and none named; the hub cannot be
        reached and the cache does not have it; or the bytes are not those that were asked for.
    """
    from huggingface_hub import hf_hub_download

    address = HubFile.parse(text)
    # its client tells of every attempt; georsr says in one line what came of them
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        file = address.file or _single_weights_file(address, endpoint)
        path = Path(
            hf_hub_download(address.repository, file, revision=address.revision, endpoint=endpoint)
        )
    except ModelError:
        raise
    except Exception as error:  # what the hub's client and its HTTP library raise
        raise ModelError(_error_message(address, error)) from error
    _check(address, path)
    return path


def _single_weights_file(address: HubFile, endpoint: str | None) -> str:
    """The one weights file of a repository."""
    files = _listing(address, endpoint)
    weights = [name for name in files if name.endswith(".safetensors")]
    if len(weights) != 1:
        raise ModelError(
            f"{address}: holds {len(weights)} safetensors files, expected one; name the file: "
            f"{address}/FILE (there are {', '.join(sorted(files)[:5]) or 'none'})"
        )
    return weights[0]


def _listing(address: HubFile, endpoint: str | None) -> list[str]:
    """Names of the files of a repository: the hub's, or those in the cache."""
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=endpoint)
        return list(api.list_repo_files(address.repository, revision=address.revision))
    except Exception as error:
        cached = None if _status_code(error) else _cached(address)
        if cached is None:
            raise
        return cached


def _cached(address: HubFile) -> list[str] | None:
    """Names of the files of a repository that this machine has; None: it has none of them."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return None
    for repository in repositories:
        if repository.repo_id == address.repository:
            for revision in repository.revisions:
                if address.revision in (revision.commit_hash, *revision.refs):
                    return [file.file_name for file in revision.files]
    return None


def _status_code(error: BaseException) -> int | None:
    """The status code with which the hub answered, None if it did not."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return None if status is None else int(status)


def _error_message(address: HubFile, error: Exception) -> str:
    if status := _status_code(error):
        return (
            f"{address}: the hub answers {status} ({type(error).__name__}); check owner, name, "
            "revision and file, and log in ('hf auth login') if it is not public"
        )
    return (
        f"{address}: not in the cache of this machine, and the hub cannot be reached "
        f"({type(error).__name__}); fetch it where there is a network (hf download "
        f"{address.repository} --revision {address.revision}), or give the file itself"
    )


def _check(address: HubFile, path: Path) -> None:
    """Compare the bytes with what was asked for, and say how to ask for the very same again."""
    digest = sha256(path)
    if address.sha256 not in (None, digest):
        raise ModelError(
            f"{address}: its sha256 is {digest}, expected {address.sha256}; the file on the hub "
            "was changed, or the address is wrong"
        )
    # the cache keeps files as .../snapshots/COMMIT/FILE
    _, found, place = path.as_posix().rpartition("/snapshots/")
    if found and address.sha256 is None and not _COMMIT.fullmatch(address.revision):
        commit, _, name = place.partition("/")
        log.warning(
            "%s may change; this very file is %s#sha256=%s",
            address,
            HubFile(address.repository, commit, name, None),
            digest,
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
    file: str | None = field(default=None, compare=False)
    """Path of its weights file; None for models without weights."""


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
    complete = resolve_name(name, scale)
    if complete in COMPUTED:
        spec = COMPUTED[complete]
        digest = hashlib.sha256(spec.to_json().encode()).hexdigest()
        return Model(spec, build(spec), digest, complete)
    path = bundled_weights().get(complete) or _file_of(complete)
    with torch.random.fork_rng(devices=[]):  # networks draw weights before theirs are loaded
        model = _OPENERS.get(path.suffix.lower(), _open_safetensors)(path)
    source = complete if complete.startswith(SCHEME) else model.source
    model = replace(model, source=source, file=str(path))
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
    known = ", ".join(spec.name for spec in list_models())
    if NAME.fullmatch(name):
        raise UsageError(f"unknown model {name!r}; built-in models: {known}")
    raise UsageError(f"model file {name} does not exist; built-in models: {known}")


def build(spec: ModelSpec) -> nn.Module:
    """Build the untrained network a spec describes, in evaluation mode."""
    if spec.architecture not in ARCHITECTURES:
        raise ModelError(
            f"model {spec.name}: unknown architecture {spec.architecture!r}; "
            f"this georsr knows {', '.join(ARCHITECTURES)}"
        )
    try:
        network = ARCHITECTURES[spec.architecture](spec)
    except TypeError as error:
        raise ModelError(f"model {spec.name}: bad parameters ({error})") from error
    return network.eval().requires_grad_(False)


def load_weights(network: nn.Module, weights: dict[str, Tensor], where: str) -> None:
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
    load_weights(network, weights, str(path))
    return Model(spec, network, sha256(path), str(path))


def _open_checkpoint(path: Path) -> Model:
    """A published SeG-SR, or what spandrel recognises."""
    from georsr.models.checkpoint import read_checkpoint
    from georsr.models.segsr.pretrained import is_published, read_published

    entries = read_checkpoint(path)
    if is_published(entries):
        spec, weights = read_published(path, entries)
        network = build(spec)
        load_weights(network, weights, str(path))
    else:
        from georsr.models.spandrel import load_with_spandrel

        spec, network = load_with_spandrel(entries, path)
    return Model(spec, network, sha256(path), str(path))


def _open_exported(path: Path) -> Model:
    from georsr.models.onnx.runtime import open_onnx

    spec, network, digest = open_onnx(path)
    return Model(spec, network, digest, str(path))


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
    with atomic_write(path) as fresh:
        save_file(tensors, fresh, metadata={METADATA_KEY: spec.to_json()})
        fresh.chmod(0o644)  # safetensors makes files that only their owner may read

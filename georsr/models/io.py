"""Open models by name, file or address, create new ones, and save them.

An address of the Hugging Face hub is ``hf://OWNER/REPO[@REVISION][/FILE][#sha256=HEX]``.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from georsr._files import atomic_write, sha256
from georsr.device import DeviceConfig, import_torch
from georsr.errors import ModelError, OutputError, UsageError
from georsr.models.arrays import enlarge_bicubic, enlarge_nearest
from georsr.models.registry import (
    COMPUTED,
    COMPUTED_ARCHITECTURES,
    NAME,
    bundled_weights,
    check_bundled,
    find_architecture,
    list_models,
    read_spec,
    resolve_name,
)
from georsr.models.spec import (
    MAX_NAME,
    METADATA_KEY,
    ModelSpec,
    refuse_old_plain_backbone,
    upgrade_state_dict,
)
from georsr.tiling.grid import ceil_to
from georsr.tiling.stitch import pad_to
from georsr.window import FloatArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from georsr.models.multiband import MultiBand
    from georsr.models.onnx.runtime import OnnxNetwork

log = logging.getLogger(__name__)

SCHEME = "hf://"
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+?))?"
    r"(?:/(?P<file>[^#@]+\.\w+))?(?:#sha256=(?P<sha256>[0-9a-f]{64}))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """Address of a model on the hub."""

    repository: str
    """``OWNER/REPO``."""
    revision: str
    """Branch, tag or commit; a branch may change at any time."""
    file: str | None
    """Path inside the repository; None: its only .safetensors file."""
    sha256: str | None
    """Expected SHA-256 of the file; None accepts any."""

    @classmethod
    def parse(cls, text: str) -> HubFile:
        """Parse ``hf://...``; raises `UsageError`."""
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise UsageError(
                f"model {text}: not a hub address; expected hf://OWNER/REPO, optionally followed "
                "by @REVISION, /FILE and #sha256=HEX"
            )
        return cls(match["repository"], match["revision"] or "main", match["file"], match["sha256"])

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{SCHEME}{self.repository}@{self.revision}{file}"


def download(text: str, endpoint: str | None = None) -> Path:
    """Download a model from the hub, or take it from the hub's cache on this machine.

    Parameters
    ----------
    text
        ``hf://OWNER/REPO[@REVISION][/FILE][#sha256=HEX]``.
    endpoint
        URL of the hub; None takes the public one, or that of ``HF_ENDPOINT``.

    Raises
    ------
    UsageError
        The address is malformed.
    ModelError
        The repository, revision or file does not exist; the repository has several weights files
        and the address names none; the hub cannot be reached and the file is not in the cache; or
        the file has another SHA-256.
    """
    from huggingface_hub import hf_hub_download

    address = HubFile.parse(text)
    # the client logs every attempt; georsr reports the outcome in one line
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
    """Return the only weights file of a repository."""
    files = _list_files(address, endpoint)
    weights = [name for name in files if name.endswith(".safetensors")]
    if len(weights) != 1:
        raise ModelError(
            f"{address}: holds {len(weights)} safetensors files, expected one; name the file: "
            f"{address}/FILE (there are {', '.join(sorted(files)[:5]) or 'none'})"
        )
    return weights[0]


def _list_files(address: HubFile, endpoint: str | None) -> list[str]:
    """Return the paths of a repository's files: those on the hub, or else those in the cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        api = HfApi(endpoint=endpoint)
        return list(api.list_repo_files(address.repository, revision=address.revision))
    except Exception as error:
        if _status_code(error):
            raise
        try:
            cached = snapshot_download(
                address.repository, revision=address.revision, local_files_only=True
            )
        except LocalEntryNotFoundError:
            raise error from None
    folder = Path(cached)
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _status_code(error: BaseException) -> int | None:
    """Return the HTTP status of the hub's answer; None if there was none."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return None if status is None else int(status)


def _error_message(address: HubFile, error: Exception) -> str:
    if status := _status_code(error):
        return (
            f"{address}: the hub answers {status} ({type(error).__name__}); check owner, name, "
            "revision and file, and log in with 'hf auth login' if it is not public"
        )
    return (
        f"{address}: not in the cache of this machine, and the hub cannot be reached "
        f"({type(error).__name__}); download it on a machine with network access (`hf download "
        f"{address.repository} --revision {address.revision}`), or pass the path of the file"
    )


def _check(address: HubFile, path: Path) -> None:
    """Check the SHA-256 of a file, and log the address that names exactly this file."""
    digest = sha256(path)
    if address.sha256 not in (None, digest):
        raise ModelError(
            f"{address}: its sha256 is {digest}, expected {address.sha256}; the file on the hub "
            "has changed, or the address is wrong"
        )
    # the cache keeps files as .../snapshots/COMMIT/FILE
    _, separator, tail = path.as_posix().rpartition("/snapshots/")
    if separator and address.sha256 is None and not _COMMIT.fullmatch(address.revision):
        commit, _, name = tail.partition("/")
        log.warning(
            "%s may change; exactly this file is %s#sha256=%s",
            address,
            HubFile(address.repository, commit, name, None),
            digest,
        )


_BUILDING = threading.RLock()


@contextmanager
def _random_weights() -> Iterator[None]:
    """Keep the state of torch's random numbers, from which networks draw their first weights.

    One thread at a time: the state belongs to the process.
    """
    with _BUILDING, import_torch().random.fork_rng(devices=[]):
        yield


class StoredNetwork:
    """A network that torch builds when it is first asked for.

    Parameters
    ----------
    name
        Name of the model, or path, for errors.
    build
        Builds the network, in evaluation mode, float32, without gradients; can be pickled.
    """

    def __init__(self, name: str, build: Callable[[], nn.Module]) -> None:
        self.name = name
        self._build = build
        self._network: nn.Module | None = None

    def load(self) -> nn.Module:
        """Return the network, which is built at the first call.

        Raises
        ------
        UsageError
            torch is not installed.
        """
        if self._network is None:
            import_torch(f"model {self.name}")
            with _random_weights():
                if self._network is None:
                    self._network = self._build()
        return self._network

    def __reduce__(self) -> tuple[type[StoredNetwork], tuple[str, Callable[[], nn.Module]]]:
        return StoredNetwork, (self.name, self._build)


class ArrayNetwork(Protocol):
    """A network that takes and returns NumPy arrays, without torch."""

    @property
    def guidance_count(self) -> int:
        """Number of guidance maps."""

    def __call__(self, x: FloatArray, sensor: FloatArray | None = None) -> FloatArray:
        """(N, C, h, w) -> (N, C, s * h, s * w), float32; ``sensor``: (1, N_SENSOR_VALUES)."""

    def guidance_maps(self, x: FloatArray) -> FloatArray:
        """(N, C, h, w) -> guidance maps (N, groups, hc, wc)."""


@dataclass(frozen=True)
class Interpolation:
    """A model without weights, as a function of NumPy arrays."""

    architecture: str
    scale: int
    guidance_count: int = 0

    def __call__(self, x: FloatArray, sensor: FloatArray | None = None) -> FloatArray:
        """(N, C, h, w) -> (N, C, s * h, s * w), float32."""
        enlarge = enlarge_bicubic if self.architecture == "bicubic" else enlarge_nearest
        enlarged: FloatArray = enlarge(x, self.scale)
        return enlarged

    def guidance_maps(self, x: FloatArray) -> FloatArray:
        """Raise: there are none."""
        raise ModelError("the network has no guidance")


@dataclass(frozen=True)
class Model:
    """A network ready to run, with its specification.

    Called with an array, it enlarges images in memory; `georsr.super_resolve` and
    `georsr.super_resolve_array` cut rasters of any size into tiles and convert their values.
    """

    spec: ModelSpec
    weights: nn.Module | OnnxNetwork | StoredNetwork | None
    """The network; of the models that ship with georsr, what loads it for torch. None in a copy
    that only describes the model."""
    sha256: str
    """Of the weights file; of the specification for models without weights."""
    source: str
    """Name or path by which it was opened."""
    file: str | None = field(default=None, compare=False)
    """Path of its weights file; None for models without weights."""
    multiband: MultiBand | None = None
    """How it is applied to a raster of other bands; None: to its own bands."""
    sensor: tuple[float, ...] | None = None
    """Normalised sensor description that the network is given; None for that of its weights."""

    @property
    def network(self) -> Any:
        """Network of torch, in evaluation mode, float32, parameters without gradient.

        Of a model from an ONNX file, the `OnnxNetwork`.

        Raises
        ------
        UsageError
            torch is not installed.
        """
        network: Any = self.weights
        if isinstance(network, StoredNetwork):
            network = network.load()
        if self.sensor is None or not hasattr(network, "sensor"):
            return network
        copied = copy.copy(network)
        copied._buffers = {**network._buffers, "sensor": network.sensor.new_tensor([self.sensor])}
        return copied

    def array_network(self, precision: str = "fp32") -> ArrayNetwork | None:
        """Return the network as a function of NumPy arrays; None if it takes torch to run it.

        Parameters
        ----------
        precision
            ``fp32``, or ``int8`` for a model that ships in 8 bits.
        """
        if self.spec.name in COMPUTED and isinstance(self.weights, StoredNetwork):
            return Interpolation(self.spec.architecture, self.spec.scale)
        from georsr.models.onnx.runtime import OnnxNetwork, open_bundled

        if isinstance(self.weights, OnnxNetwork):
            return self.weights
        path = self.int8_graph if precision == "int8" else self.graph
        return open_bundled(path) if path else None

    @property
    def spec_of_network(self) -> ModelSpec:
        """Specification of the network itself, whatever bands the raster has."""
        return self.spec if self.multiband is None else self.multiband.spec

    @property
    def runs_without_torch(self) -> bool:
        """Whether `array_network` has an answer: it ships with georsr, or is an ONNX file."""
        if self.spec.name in COMPUTED and isinstance(self.weights, StoredNetwork):
            return True
        from georsr.models.onnx.runtime import has_onnxruntime

        return self.is_exported or (self.graph is not None and has_onnxruntime())

    @property
    def interpolates(self) -> bool:
        """Whether it only interpolates: bicubic or nearest."""
        computed = self.spec.architecture in COMPUTED_ARCHITECTURES
        known = isinstance(self.weights, StoredNetwork) or hasattr(self.weights, "interpolates")
        return computed and known

    @property
    def graph(self) -> Path | None:
        """Path of the ONNX file of a model that ships with georsr; None for other models."""
        if self.file is None or not isinstance(self.weights, StoredNetwork):
            return None
        path = Path(self.file).with_suffix(".onnx")
        return path if path.is_file() else None

    @property
    def int8_graph(self) -> Path | None:
        """Path of the ONNX file in 8 bits of a model that ships with georsr; None without one."""
        path = None if self.graph is None else self.graph.with_suffix(".int8.onnx")
        return path if path is not None and path.is_file() else None

    def digest(self, placement: DeviceConfig) -> str:
        """Return the SHA-256 of the file that runs: of the ONNX file, if ONNX Runtime runs it."""
        path = self.int8_graph if placement.precision == "int8" else self.graph
        return self.sha256 if placement.backend == "torch" or path is None else sha256(path)

    def __call__(self, image: FloatArray) -> FloatArray:
        """Enlarge an image or a batch of images of one size, each as one tile.

        Parameters
        ----------
        image
            (bands, h, w) or (N, bands, h, w), floating-point, in ``spec.value_range`` (0..1).

        Returns
        -------
        ndarray
            (..., bands, s * h, s * w) float32 on the same scale, not clipped.

        Raises
        ------
        UsageError
            The array has another number of axes or bands, integer values, or masked pixels.
        """
        if np.ma.is_masked(image):
            raise UsageError(
                f"model {self.spec.name}: got an array with masked pixels, which it would mix with "
                "the others; use georsr.super_resolve_array"
            )
        pixels = np.asarray(image)
        bands = self.spec.bands
        if pixels.ndim not in (3, 4) or (bands and pixels.shape[-3] != bands):
            raise UsageError(
                f"model {self.spec.name}: got an array of shape {pixels.shape}, expected "
                f"({bands or 'bands'}, h, w) or (N, {bands or 'bands'}, h, w)"
            )
        if not np.issubdtype(pixels.dtype, np.floating):
            raise UsageError(
                f"model {self.spec.name}: got values of type {pixels.dtype}, expected floats in "
                f"{self.spec.value_range}; georsr.super_resolve_array takes integers"
            )
        height, width = pixels.shape[-2:]
        batch = pixels.astype(np.float32).reshape(-1, *pixels.shape[-3:])
        padded = pad_to(batch, *(ceil_to(n, self.spec.multiple_of) for n in (height, width)))
        enlarged = self._enlarge(padded)
        scale = self.spec.scale
        enlarged = enlarged[..., : scale * height, : scale * width]
        return enlarged.reshape(*pixels.shape[:-2], *enlarged.shape[-2:])

    def _enlarge(self, batch: FloatArray) -> FloatArray:
        """(N, C, h, w) -> (N, C, s * h, s * w), by torch where it is installed."""
        network = None if find_spec("torch") and not self.is_exported else self.array_network()
        if network is not None:
            return network(batch)
        torch = import_torch(f"model {self.spec.name}")
        # channels_last is the fast layout of convolutions
        x = torch.from_numpy(batch).to(self.device, memory_format=torch.channels_last)
        with torch.inference_mode():
            enlarged: FloatArray = self.network(x).float().cpu().numpy()
        return enlarged

    @property
    def is_exported(self) -> bool:
        """Whether it was read from an ONNX file."""
        from georsr.models.onnx.runtime import OnnxNetwork

        return isinstance(self.weights, OnnxNetwork)

    @property
    def device(self) -> torch.device:
        """Device of the network's parameters; the CPU for a network without any."""
        torch, network = import_torch("a device"), self.network
        if self.is_exported:
            return torch.device("cpu")
        tensors = chain(network.parameters(), network.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def to(self, device: str | torch.device) -> Model:
        """Return the model on a device: itself if it is there, otherwise a copy."""
        if import_torch("a device").device(device) == self.device:
            return self
        return replace(self, weights=copy.deepcopy(self.network).to(device))


def open_model(name: str | None = None, scale: int | None = None) -> Model:
    """Open a model.

    Parameters
    ----------
    name
        Built-in name (``georsr models list``; ``-x4`` may be left to ``scale``), a
        ``.safetensors`` file or a folder with one, a published SeG-SR ``.pth``, a ``.pth`` of
        another network that spandrel knows, an ``.onnx`` file written by ``georsr export``, or
        ``hf://OWNER/REPO[@REVISION][/FILE][#sha256=...]``.
    scale
        Required factor; None takes the model's own (4 where a name leaves it open).

    Raises
    ------
    UsageError
        The model does not exist, or has another scale.
    ModelError
        The file is damaged or does not fit its own specification.
    """
    complete = resolve_name(name, scale)
    if complete in COMPUTED:
        spec = COMPUTED[complete]
        digest = hashlib.sha256(spec.to_json().encode()).hexdigest()
        return Model(spec, StoredNetwork(complete, partial(build, spec)), digest, complete)
    bundled = bundled_weights().get(complete)
    path = bundled or _file_of(complete)
    model = _OPENERS.get(path.suffix.lower(), _open_safetensors)(path)
    if bundled is not None:
        check_bundled(path, model.sha256)
    elif not model.is_exported:
        model = replace(model, weights=model.network)  # a damaged file is reported at once
    source = complete if complete.startswith(SCHEME) else model.source
    model = replace(model, source=source, file=str(path))
    if scale is not None and model.spec.scale != scale:
        raise UsageError(
            f"model {model.spec.name} enlarges x{model.spec.scale}, but x{scale} was asked for"
        )
    return model


def _file_of(name: str) -> Path:
    """Return the weights file of a path or hub address."""
    path = download(name) if name.startswith(SCHEME) else Path(name)
    if os.path.isdir(path):  # noqa: PTH112  also False for a name that is too long for a file
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise UsageError(f"{path}: holds {len(files)} safetensors files, expected one")
        return files[0]
    if os.path.isfile(path):  # noqa: PTH113
        return path
    known = ", ".join(spec.name for spec in list_models())
    shown = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."
    if NAME.fullmatch(name):
        family = re.sub(r"-x\d+", "", name)
        scales = [spec.scale for spec in list_models() if re.sub(r"-x\d+", "", spec.name) == family]
        if scales:
            raise UsageError(
                f"no model {name}: {family} enlarges x{' and x'.join(map(str, sorted(scales)))}"
            )
        raise UsageError(f"unknown model {shown!r}; built-in models: {known}")
    raise UsageError(f"model file {shown} does not exist; built-in models: {known}")


def create_model(
    architecture: str = "segsr",
    scale: int = 4,
    *,
    bands: int = 3,
    name: str = "",
    **parameters: Any,
) -> Model:
    """Create a model with random weights, for training elsewhere, for tests and benchmarks.

    Parameters
    ----------
    architecture
        ``segsr``, ``segsr-lite`` or another registered architecture.
    scale
        Output pixels per input pixel along each axis.
    bands
        Bands in and out.
    name
        Name of the model; empty for ``ARCHITECTURE-xSCALE``.
    **parameters
        Arguments of the architecture, such as ``encoder`` and ``backbone`` of ``segsr``.

    Raises
    ------
    ModelError
        The architecture or one of its parts is unknown, or the parameters do not fit.

    Examples
    --------
    >>> model = georsr.create_model("segsr", scale=2, encoder="scene", backbone="plain")
    """
    name = name or f"{architecture}-x{scale}"
    network = build(ModelSpec(name, architecture, scale, parameters, bands=bands))
    spec = make_spec(name, architecture, scale, network, {"bands": bands, **parameters})
    return Model(spec, network, hashlib.sha256(spec.to_json().encode()).hexdigest(), name)


def make_spec(
    name: str, architecture: str, scale: int, network: nn.Module, parameters: Mapping[str, Any]
) -> ModelSpec:
    """Return the specification that rebuilds a network.

    Parameters are written out with their defaults, so that a later change of a default does not
    break weights files.

    Parameters
    ----------
    name, architecture, scale
        Fields of the specification.
    network
        The network; its backbone defines how rasters are cut into tiles.
    parameters
        Arguments of the architecture's builder, among them ``bands``.
    """
    signature = inspect.signature(find_architecture(architecture)).parameters
    complete = {
        key: parameter.default
        for key, parameter in signature.items()
        if parameter.default is not parameter.empty
    }
    complete |= parameters
    bands = int(complete.pop("bands", 3))
    complete.pop("fused", None)
    spec = ModelSpec(
        name=name,
        architecture=architecture,
        scale=scale,
        parameters=complete,
        bands=bands,
        band_names=("red", "green", "blue") if bands == 3 else (),
    )
    backbone: Any = getattr(network, "backbone", None)
    if backbone is None:
        return spec
    multiple: Any = network.multiple_of
    return replace(
        spec,
        multiple_of=multiple,
        tile=ceil_to(backbone.tile, multiple),
        halo=backbone.halo,
        overlap=backbone.overlap,
    )


def build(spec: ModelSpec, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build the untrained network of a specification, optimized and in evaluation mode.

    Parameters
    ----------
    spec
        Specification of the network.
    weights
        Its state dict, if it has been read: a specification that asks for a far larger network is
        refused before its memory is used.

    Raises
    ------
    ModelError
        The architecture is unknown, or the parameters do not fit.
    """
    try:
        builder = find_architecture(spec.architecture)
        create = partial(builder, spec.scale, spec.bands, **spec.parameters)
        if weights is not None:
            n_values = sum(tensor.numel() for tensor in weights.values())
            with _limited_size(1000 + 8 * len(weights), 10**6 + 8 * n_values):
                network = create()
        else:
            if spec.architecture not in COMPUTED_ARCHITECTURES:
                check_size(create)
            network = create()
    except ModelError as error:
        raise ModelError(f"model {spec.name}: {error}") from error
    except Exception as error:  # wrong parameters fail in any way
        reason = f"{error}".partition("\n")[0]
        raise ModelError(f"model {spec.name}: bad parameters ({reason:.200})") from error
    from georsr.models.optimize import optimize_for_inference

    return optimize_for_inference(network.eval().requires_grad_(False))


MAX_PARTS, MAX_VALUES = 20_000, 400_000_000
"""Largest network without weights: modules and tensors, and values in them."""


def check_size(create: Callable[[], object]) -> None:
    """Raise ModelError if a function would create a network of more than `MAX_VALUES` weights.

    It is called on torch's meta device, where tensors have a size but no memory.
    """
    with import_torch().device("meta"), _limited_size(MAX_PARTS, MAX_VALUES):
        try:
            create()
        except ModelError:
            raise
        except Exception as error:  # some networks ask for values of tensors, which have none there
            log.debug("the size of a network cannot be checked: %s", error)


def _limited_size(max_parts: int, max_values: float) -> AbstractContextManager[Any]:
    """Return a context that stops this thread from building a network that is too large.

    Tensors are counted when they are created; torch reserves memory then, and fills it afterwards.
    Entering it raises nothing; creating tensors in it may raise ModelError.
    """
    torch = import_torch()
    from torch.overrides import TorchFunctionMode

    factories = {
        getattr(torch, name)
        for name in ("arange", "empty", "full", "linspace", "ones", "rand", "randn", "zeros")
    }

    class LimitedSize(TorchFunctionMode):
        """Counts the tensors that are created; other threads do not notice it."""

        n_tensors, n_values = 0, 0

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if func in factories:
                self.n_tensors += 1
                self.n_values += result.numel()
                if self.n_tensors > max_parts or self.n_values > max_values:
                    raise ModelError(
                        f"its parameters ask for a far larger network, expected at most "
                        f"{max_parts} tensors and {max_values:.2g} weights"
                    )
            return result

    return LimitedSize()


def load_weights(network: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load a complete state dict, of the present or an older version.

    Parameters
    ----------
    network
        Network whose weights are replaced.
    weights
        Its state dict.
    where
        Name of the source, for errors.

    Raises
    ------
    ModelError
        Keys or shapes differ; the message counts them and names the first five.
    """
    weights = upgrade_state_dict(weights)
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
    stored = StoredNetwork(str(path), partial(_load_safetensors, path))
    return Model(spec, stored, sha256(path), str(path))


def _load_safetensors(path: Path) -> nn.Module:
    """Build the network of a safetensors file, with its weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    spec = read_spec(path)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from error
    refuse_old_plain_backbone(spec, weights, str(path))
    network = build(spec, weights)
    load_weights(network, weights, str(path))
    return network


def _open_checkpoint(path: Path) -> Model:
    """Open a published SeG-SR, or a checkpoint that spandrel recognises."""
    import_torch(f"model {path}")
    from georsr.models.segsr_published import is_published, read_checkpoint, read_published

    entries = read_checkpoint(path)
    with _random_weights():
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
"""Suffix -> function that opens such files."""


def save_model(
    path: Path, spec: ModelSpec, network: nn.Module, dtype: torch.dtype | None = None
) -> None:
    """Write a self-describing safetensors file, atomically.

    Parameters
    ----------
    path
        Target; replaced if it exists.
    spec
        Specification, stored in the metadata.
    network
        Network whose ``state_dict`` is stored.
    dtype
        Type of the stored floating-point tensors; None for float16, which costs less than 0.001 dB.

    Raises
    ------
    OutputError
        The file cannot be written; an existing one is unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    dtype = dtype or import_torch("a network").float16
    tensors = {
        k: (v.to(dtype) if v.is_floating_point() else v).cpu().contiguous()
        for k, v in network.state_dict().items()
    }
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={METADATA_KEY: spec.to_json()})
            temporary.chmod(0o644)  # safetensors creates files that only their owner may read
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path}: cannot be written: {error}") from error

"""Convert networks of torch to ONNX, and run ONNX files by ONNX Runtime on the CPU."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from georsr.errors import ModelError, UsageError
from georsr.models.spec import METADATA_KEY, ModelSpec
from georsr.tiling.stitch import pad_to
from georsr.window import FloatArray

INPUT, OUTPUT = "image", "enlarged"
"""Names of the graph's input (N, C, h, w) and output (N, C, s * h, s * w)."""

_exporter_lock = threading.Lock()
"""Torch's exporter changes settings of the process while it runs."""


def to_onnx(
    network: nn.Module,
    spec: ModelSpec,
    shape: tuple[int, ...],
    *,
    dynamic: bool = False,
    tags: dict[str, str] | None = None,
) -> bytes:
    """Convert a network to an ONNX file in memory.

    Parameters
    ----------
    network, spec
        Network to convert, and its specification, which is stored in the metadata.
    shape
        Shape (N, C, h, w) of the input.
    dynamic
        Let N, h and w vary.
    tags
        Further entries of the metadata.

    Returns
    -------
    bytes
        Content of the file, weights included.

    Raises
    ------
    UsageError
        A package is missing.
    ModelError
        The network cannot be converted.
    """
    onnx = _import_onnx()
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    example = torch.zeros((2, *shape[1:]) if dynamic else shape)
    with _exporter_lock, preserve_mkldnn(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        try:
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(any_size,) if dynamic else None,
            )
        except Exception as error:  # the exporter raises many kinds of errors
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(
                f"model {spec.name}: cannot be converted to ONNX: {reason[0]}"
            ) from error
    assert program is not None, "torch's exporter by way of torch.export returns a program"
    proto = program.model_proto
    for name, text in {METADATA_KEY: spec.to_json(), **(tags or {})}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, text
    buffer = BytesIO()
    onnx.save_model(proto, buffer)
    return buffer.getvalue()


@contextmanager
def preserve_mkldnn() -> Iterator[None]:
    """Restore the oneDNN setting: without oneDNN, convolutions round differently."""
    before = torch.backends.mkldnn.enabled
    try:
        yield
    finally:
        if torch.backends.mkldnn.enabled != before:
            torch.backends.mkldnn.set_flags(before)


def _import_onnx() -> Any:
    """Import the packages that conversion needs."""
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise UsageError(
            "converting to ONNX needs the packages onnx and onnxscript: pip install 'georsr[onnx]'"
        ) from error
    return onnx


_EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""Option of ONNX Runtime: the folder of files that hold weights."""


class OnnxNetwork(nn.Module):
    """A network that ONNX Runtime runs from an ONNX file written by georsr.

    Parameters
    ----------
    data
        Content of the file.
    name
        Name of the file in messages.

    Raises
    ------
    UsageError
        ONNX Runtime is not installed.
    ModelError
        It is not an ONNX file, or was not written by georsr.
    """

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__()
        self._data, self._name = data, name
        self._sessions: dict[int, Any] = {}
        self._lock = threading.Lock()
        session = self._session()
        tags = session.get_modelmeta().custom_metadata_map
        try:
            self.spec = ModelSpec.from_json(tags[METADATA_KEY])
        except KeyError as error:
            raise ModelError(
                f"{name}: has no georsr model spec in its metadata; make one with 'georsr export'"
            ) from error
        size = session.get_inputs()[0].shape[2]
        self.tile: int | None = size if isinstance(size, int) else None
        """Height and width of its tiles, to which smaller ones are padded; None for any size."""

    def _session(self) -> Any:
        """Return a session with torch's number of threads, which a session cannot change."""
        threads = torch.get_num_threads()
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = self._open(threads)
            return self._sessions[threads]

    def _open(self, threads: int) -> Any:
        """Open a session with that number of threads."""
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # weights in other files would be looked for in the current folder: nowhere is one
        options.add_session_config_entry(_EXTERNAL_DATA_FOLDER, os.devnull)
        try:
            return runtime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            reason = str(error).splitlines()[0]
            raise ModelError(f"{self._name}: not a readable ONNX file ({reason})") from error

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, s * h, s * w), float32."""
        pixels = x.detach().to("cpu", torch.float32).contiguous().numpy()
        if self.tile is not None:  # a scene may be smaller than a tile
            pixels = pad_to(pixels, self.tile, self.tile)
        enlarged = self._run(pixels)
        height, width = (size * self.spec.scale for size in x.shape[2:])
        return torch.from_numpy(enlarged).to(x.device)[..., :height, :width]

    def _run(self, pixels: FloatArray) -> FloatArray:
        """Run the network in a thread of its own: the calling one hears signals while it waits."""
        session, options = self._session(), onnxruntime().RunOptions()
        result = Future[FloatArray]()

        def run() -> None:
            try:
                result.set_result(session.run(None, {INPUT: pixels}, options)[0])
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=run, name="georsr-onnx", daemon=True).start()
        try:
            return result.result()
        except BaseException:
            options.terminate = True  # the caller was interrupted, and nobody waits for the rest
            raise


class ConvertedNetwork(nn.Module):
    """A torch network that is converted to ONNX at its first call.

    Parameters
    ----------
    network, spec
        Network, and its specification.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        onnxruntime()  # a missing package is reported before the first tile is read
        self._network, self._spec = network, spec
        self._converted: OnnxNetwork | None = None
        self._lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, s * h, s * w), float32."""
        with self._lock:
            if self._converted is None:
                shape = (1, x.shape[1], self._spec.tile, self._spec.tile)
                data = to_onnx(self._network, self._spec, shape, dynamic=True)
                self._converted = OnnxNetwork(data, self._spec.name)
        return self._converted(x)


def as_onnx(network: nn.Module, spec: ModelSpec) -> nn.Module:
    """Return the network as one that ONNX Runtime runs."""
    return network if isinstance(network, OnnxNetwork) else ConvertedNetwork(network, spec)


def open_onnx(path: Path) -> tuple[ModelSpec, OnnxNetwork, str]:
    """Open a file written by ``georsr export``: specification, network, SHA-256.

    Raises
    ------
    UsageError
        ONNX Runtime is not installed.
    ModelError
        The file cannot be read, or was not written by georsr.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    network = OnnxNetwork(data, str(path))
    return network.spec, network, hashlib.sha256(data).hexdigest()


def onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "ONNX Runtime is not installed: pip install 'georsr[onnx]', or use --backend torch"
        ) from error
    return onnxruntime


def runtime_version() -> str:
    """Return the version of ONNX Runtime, for run keys and reports."""
    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return str(getattr(onnxruntime(), "__version__", "unknown"))

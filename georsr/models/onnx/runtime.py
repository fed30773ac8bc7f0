"""Session: a network that ONNX Runtime runs on the CPU, in the place of one of torch."""

from __future__ import annotations

import hashlib
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from georsr.errors import ModelError, UsageError
from georsr.models.onnx.convert import INPUT, to_onnx
from georsr.models.spec import METADATA_KEY, ModelSpec
from georsr.tiling.stitch import pad_to


class OnnxNetwork(nn.Module):
    """Answers like the torch network that an ONNX file was made of.

    Parameters
    ----------
    data
        The file's bytes.
    name
        What to call it in messages.

    Raises
    ------
    UsageError
        ONNX Runtime is not installed.
    ModelError
        Not an ONNX file, or one that georsr did not make.
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
        sides = session.get_inputs()[0].shape[2:]
        self.tile: int | None = sides[0] if isinstance(sides[0], int) else None
        """Height and width of the largest tiles it takes, smaller ones are padded; None: any."""

    def _session(self) -> Any:
        """A session has its threads for life: one for each number of them that was asked for."""
        threads = torch.get_num_threads()
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = self._opened(threads)
            return self._sessions[threads]

    def _opened(self, threads: int) -> Any:
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            return runtime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            why = str(error).splitlines()[0]
            raise ModelError(f"{self._name}: not a readable ONNX file ({why})") from error

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, s * h, s * w), float32."""
        pixels = x.detach().to("cpu", torch.float32).contiguous().numpy()
        if self.tile is not None:  # a scene may be smaller than that
            pixels = pad_to(pixels, self.tile, self.tile)
        (enlarged,) = self._session().run(None, {INPUT: pixels})
        height, width = (side * self.spec.scale for side in x.shape[2:])
        return torch.from_numpy(enlarged).to(x.device)[..., :height, :width]


class ConvertedNetwork(nn.Module):
    """A torch network that is converted when the first tile comes.

    Parameters
    ----------
    network, spec
        The network, and its contract.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        onnxruntime()  # better now than after the first tile has been read
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
    """The network, to be run by ONNX Runtime."""
    return network if isinstance(network, OnnxNetwork) else ConvertedNetwork(network, spec)


def open_onnx(path: Path) -> tuple[ModelSpec, OnnxNetwork, str]:
    """Contract, network and checksum of a file that ``georsr export`` made.

    Raises
    ------
    UsageError
        ONNX Runtime is not installed.
    ModelError
        Another kind of file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    network = OnnxNetwork(data, str(path))
    return network.spec, network, hashlib.sha256(data).hexdigest()


def onnxruntime() -> Any:
    """The package.

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
    """Version of ONNX Runtime, for fingerprints and reports."""
    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return str(getattr(onnxruntime(), "__version__", "unknown"))

"""Run a network on batches of tiles: by torch on any device, or without torch on the CPU.

Both backends take and return NumPy arrays; what lies between is theirs. `ArrayBackend` runs ONNX
files by ONNX Runtime, and interpolation by NumPy. Within one backend, an output pixel does not
depend on the number of threads. The outputs of a network differ in the last digits by backend.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from georsr.device import PRECISIONS, DeviceConfig, import_torch
from georsr.errors import ModelError, first_line
from georsr.models.arrays import Array, enlarge_bicubic
from georsr.models.io import Model
from georsr.window import BoolArray, FloatArray


@dataclass(frozen=True)
class PendingBatch:
    """A batch of tiles that the device is computing.

    ``values``, ``finite`` and ``residual`` are not to be read before ``done``.
    """

    values: FloatArray
    """(N, C, s * h, s * w)."""
    finite: BoolArray
    """(N,): whether the sum of a tile is finite."""
    names: Sequence[str]
    model: str
    done: Any = None
    """CUDA event; None if the batch is computed."""
    residual: FloatArray | None = None
    """(N, C, h, w): how inconsistent the network's outputs were; None: not looked at."""

    def result(self) -> list[FloatArray]:
        """Wait, and return the super-resolved tiles, each (C, s * h, s * w).

        Raises
        ------
        ModelError
            A value is not finite, or the device failed.
        """
        if self.done is not None:
            try:
                self.done.synchronize()
            except RuntimeError as error:  # of what was started, this is the first to be heard
                raise ModelError(
                    f"the network failed on {self.names[0]} or soon after: {first_line(error)}"
                ) from error
        # a sum may overflow although its values do not
        failed = (
            name
            for name, values, finite in zip(self.names, self.values, self.finite, strict=True)
            if not finite and not np.isfinite(values).all()
        )
        bad = next(failed, None)
        if bad is not None:
            raise ModelError(
                f"model {self.model} made values that are not finite at {bad}; try --precision fp32"
            )
        return list(self.values)

    def residuals(self) -> list[FloatArray | None]:
        """Return the residual (C, h, w) of each tile, after `result`; None if not computed."""
        if self.residual is None:
            return [None] * len(self.names)
        return list(self.residual)


def bicubic_on_cpu(image: FloatArray, scale: int, backend: str) -> FloatArray:
    """Enlarge (C, h, w) by bicubic interpolation on the CPU: (C, s * h, s * w) float32."""
    if backend == "onnx":
        enlarged: FloatArray = enlarge_bicubic(image[None], scale)[0]
        return enlarged
    torch = import_torch()
    with torch.inference_mode():
        enlarged = enlarge_bicubic(torch.from_numpy(image)[None], scale)[0].numpy()
    return enlarged


class Backend(Protocol):
    """Runs the network of a model.

    Attributes
    ----------
    network
        Network of torch, or function of NumPy arrays.
    guidance_count
        Number of its guidance maps.
    """

    network: Any
    guidance_count: int

    def computing(self) -> AbstractContextManager[Any]:
        """Return the context in which everything below is called."""

    def to_device(self, tiles: Sequence[FloatArray], count: int) -> Array:
        """Return tiles (C, h, w) as a batch (N, C, h, w), filled up to ``count`` if need be."""

    def ordered(self, x: Array) -> Array:
        """Return a batch in the order in memory that the network takes."""

    def forward(self, x: Array) -> Array:
        """(N, C, h, w) in the network's value range -> (N, C, s * h, s * w), float32."""

    def guidance_maps(self, x: Array) -> Array:
        """(N, C, h, w) in 0..1 -> guidance maps (N, groups, hc, wc), float32."""

    def fetch(
        self, y: Array, residual: Array | None, names: Sequence[str], model: str
    ) -> PendingBatch:
        """Start to copy a batch to host memory."""

    def free_memory(self) -> None:
        """Return memory that the device has cached."""


class ArrayBackend:
    """Runs ONNX files by ONNX Runtime, and interpolation by NumPy, on the CPU.

    Parameters
    ----------
    model
        Model to run.
    precision
        ``fp32`` or ``int8``.

    Raises
    ------
    UsageError
        ONNX Runtime is missing.
    ModelError
        The model's file cannot be read.
    """

    def __init__(self, model: Model, precision: str = "fp32") -> None:
        network = model.array_network(precision)
        if network is None:
            from georsr.models.onnx.export import ConvertedNetwork

            network = ConvertedNetwork(model.network, model.spec)
        self.network = network
        self.guidance_count = network.guidance_count
        self._sensor = None if model.sensor is None else np.array([model.sensor], np.float32)

    def computing(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return nullcontext()

    def to_device(self, tiles: Sequence[FloatArray], count: int) -> FloatArray:
        """Return tiles (C, h, w) as a batch."""
        return np.stack(tiles)

    def ordered(self, x: FloatArray) -> FloatArray:
        """Return the batch as it is."""
        return x

    def forward(self, x: FloatArray) -> FloatArray:
        """(N, C, h, w) in the network's value range -> (N, C, s * h, s * w), float32."""
        return self.network(x, self._sensor)

    def guidance_maps(self, x: FloatArray) -> FloatArray:
        """(N, C, h, w) in 0..1 -> guidance maps (N, groups, hc, wc), float32."""
        return self.network.guidance_maps(x)

    def fetch(
        self, y: FloatArray, residual: FloatArray | None, names: Sequence[str], model: str
    ) -> PendingBatch:
        """Return the batch, which is computed."""
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(y.sum((1, 2, 3)))
        return PendingBatch(y, finite, names, model, residual=residual)

    def free_memory(self) -> None:
        """Do nothing: nothing is cached."""


class TorchBackend:
    """Runs a network by torch.

    Parameters
    ----------
    model
        Model to run; on another device than the CPU a copy of its network runs.
    placement
        Device and precision.
    compiled
        Let ``torch.compile`` build the network for the shape of a full batch.
    """

    def __init__(self, model: Model, placement: DeviceConfig, *, compiled: bool = False) -> None:
        self.torch = torch = import_torch(f"model {model.spec.name}")
        self.device = torch.device(placement.device)
        self.dtype = getattr(torch, PRECISIONS[placement.precision])
        self.model_name, self.compiled = model.spec.name, compiled
        # The model stays where and what it is: its owner may use it again, elsewhere.
        network = model.network
        if placement.type != "cpu":
            network = copy.deepcopy(network)
        # channels_last is what makes plain convolutions fast, on CPU and on tensor cores.
        self.network = network.to(device=self.device, memory_format=torch.channels_last)
        self.guidance_count = int(getattr(self.network, "guidance_count", 0))
        self._run = torch.compile(self.network, dynamic=False) if compiled else self.network

    def computing(self) -> AbstractContextManager[Any]:
        """Return the context in which no gradients are computed."""
        context: AbstractContextManager[Any] = self.torch.inference_mode()
        return context

    def to_device(self, tiles: Sequence[FloatArray], count: int) -> Array:
        """Return tiles (C, h, w) as a batch (count, C, h, w) on the device, the last one repeated.

        Batches are filled up only for a compiled network: one shape is one compilation.
        """
        x = self.torch.from_numpy(np.stack(tiles))
        if self.compiled and len(tiles) < count:
            x = self.torch.cat([x, x[-1:].expand(count - len(tiles), -1, -1, -1)])
        cuda = self.device.type == "cuda"
        if cuda:
            # only a copy from pinned memory runs beside the work of the device
            x = x.pin_memory()
        return x.to(self.device, non_blocking=cuda)

    def ordered(self, x: Array) -> Array:
        """Return a batch with the channels of each pixel side by side."""
        return x.contiguous(memory_format=self.torch.channels_last)

    def forward(self, x: Array) -> Array:
        """(N, C, h, w) in the network's value range -> (N, C, s * h, s * w), float32."""
        x = self.ordered(x)
        # autocast keeps weights, norms and the network's own skip connections in float32
        enabled = self.dtype != self.torch.float32
        with self.torch.autocast(x.device.type, self.dtype, enabled=enabled):
            y = self._run(x)
        if not y.is_floating_point():
            raise ModelError(
                f"model {self.model_name} made values of type "
                f"{str(y.dtype).removeprefix('torch.')}, expected floating-point numbers"
            )
        return y.float()

    def guidance_maps(self, x: Array) -> Array:
        """(N, C, h, w) in 0..1 -> guidance maps (N, groups, hc, wc), float32."""
        return self.network.guidance_maps(x).float()

    def fetch(
        self, y: Array, residual: Array | None, names: Sequence[str], model: str
    ) -> PendingBatch:
        """Start to copy a batch to host memory; on CUDA it is there once the stream is done."""
        finite = self.torch.isfinite(y.sum((1, 2, 3)))
        done = None
        if self.device.type == "cuda":
            y, finite = self._to_pinned(y), self._to_pinned(finite)
            residual = None if residual is None else self._to_pinned(residual)
            done = self.torch.cuda.Event()
            done.record(self.torch.cuda.current_stream(self.device))
        else:
            y, finite = y.cpu().contiguous(), finite.cpu()
            residual = None if residual is None else residual.cpu()
        arrays = y.numpy(), finite.numpy(), None if residual is None else residual.numpy()
        return PendingBatch(arrays[0], arrays[1], names, model, done, arrays[2])

    def _to_pinned(self, tensor: Array) -> Array:
        """Queue a copy to pinned host memory, in row order."""
        host = self.torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor.contiguous(), non_blocking=True)

    def free_memory(self) -> None:
        """Return memory that torch has cached on a GPU."""
        if self.device.type == "cuda":
            self.torch.cuda.empty_cache()

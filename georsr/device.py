"""Choose the device and the precision of a network, and recognize errors of the device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from georsr.errors import GeorsrError, ModelError, ResourceError, UsageError

_NO_MEMORY = (
    "not enough memory",  # torch on Windows
    "can't allocate memory",  # torch on Linux and macOS
    "cannot allocate memory",  # the system
    "out of memory",  # CUDA and MPS
    "_alloc_failed",  # cuBLAS, cuDNN and their like
    "failed to allocate memory",  # ONNX Runtime
    "bad allocation",  # C++ on Windows
    "bad_alloc",  # C++ elsewhere
)
"""Messages, in lower case, of libraries that have no exception class for a lack of memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    library = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return library and any(message in str(error).lower() for message in _NO_MEMORY)


def is_device_failure(error: BaseException | None) -> bool:
    """Return whether an error means that the device failed, rather than the network."""
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )


def add_location(error: ModelError | ResourceError, location: str) -> GeorsrError:
    """Return the error with a location; if a device failed, as a ResourceError."""
    kind = ResourceError if is_device_failure(error.__cause__) else type(error)
    return kind(f"{location}: {error}")


log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class DeviceConfig:
    """A device, and the precision of a network on it."""

    device: torch.device
    dtype: torch.dtype
    backend: str = "torch"
    """``torch``, or ``onnx`` for ONNX Runtime on the CPU."""

    @property
    def precision(self) -> str:
        """Return ``fp32``, ``bf16`` or ``fp16``."""
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    def describe(self) -> str:
        """Describe device, its name, precision and threads for the log."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)}), {self.precision}"
        if self.device.type == "cpu":
            runtime = "" if self.backend == "torch" else f", {self.backend}"
            return f"cpu ({torch.get_num_threads()} threads), {self.precision}{runtime}"
        return f"{self.device}, {self.precision}"


def select_device(
    device: str = "auto", precision: str = "auto", backend: str = "torch"
) -> DeviceConfig:
    """Choose a device and a precision.

    Parameters
    ----------
    device
        ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: CUDA, else Apple's MPS, else the CPU.
    precision
        ``fp32``, ``bf16``, ``fp16``, or ``auto``: float32 on CPU and MPS, bfloat16 (float16 before
        Ampere) on CUDA.
    backend
        ``torch``, or ``onnx``, which computes in float32 on the CPU.

    Raises
    ------
    UsageError
        The device is unknown or missing, or the backend does not support it.
    """
    if backend == "onnx":
        if device not in ("auto", "cpu") or precision not in ("auto", "fp32"):
            raise UsageError(
                f"backend onnx computes in fp32 on the cpu, not in {precision} on {device}; "
                "omit --device and --precision, or use --backend torch"
            )
        return DeviceConfig(torch.device("cpu"), torch.float32, backend)
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: expected auto, cpu, cuda, cuda:N or mps") from error
    _check_present(chosen)
    if precision == "auto":
        if chosen.type != "cuda":
            return DeviceConfig(chosen, torch.float32)
        bf16 = torch.cuda.get_device_capability(chosen) >= (8, 0)
        return DeviceConfig(chosen, torch.bfloat16 if bf16 else torch.float16)
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: expected auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and chosen.type == "cpu":
        log.warning("fp16 on a CPU is slower than fp32, and less exact: omit --precision")
    return DeviceConfig(chosen, PRECISIONS[precision])


def _check_present(device: torch.device) -> None:
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            raise UsageError(f"device {device}: torch sees {count} CUDA devices; use --device cpu")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError("device mps: not available here; use --device cpu")
    elif device.type != "cpu":
        raise UsageError(f"device {device}: expected auto, cpu, cuda, cuda:N or mps")


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Set the number of CPU threads of torch inside the block, and restore it afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

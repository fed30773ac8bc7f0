"""Choose the device and the precision of a network, and recognize errors of the device.

torch is imported only when it is to compute, or to look for a GPU.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from georsr.errors import GeorsrError, ModelError, ResourceError, UsageError, worded
from georsr.system import available_cpus

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
    torch = sys.modules.get("torch")
    if isinstance(error, (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))):
        return True
    library = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return library and any(message in str(error).lower() for message in _NO_MEMORY)


def is_device_failure(error: BaseException | None) -> bool:
    """Return whether an error means that the device failed, rather than the network."""
    torch = sys.modules.get("torch")
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )


def add_location(error: ModelError | ResourceError, location: str) -> GeorsrError:
    """Return the error with a location; if a device failed, as a ResourceError."""
    kind = ResourceError if is_device_failure(error.__cause__) else type(error)
    return kind(f"{location}: {error}")


log = logging.getLogger(__name__)

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Precision -> torch's name of the data type."""
_INSTRUCTIONS = {
    "int8": {"avx512_vnni", "avx_vnni", "avx512_icl", "asimddp"},
    "bf16": {"avx512_bf16", "amx_bf16", "avx512_spr"},
}
"""Precision -> instruction sets of CPUs, one of which computes it fast and without overflow, by the
names of Linux and of NumPy."""
INSTALL_TORCH = "run 'pip install .' in the folder of the copy of georsr"
"""Command that installs torch beside the light set of packages."""

_state = threading.local()
"""``threads``: number of threads set by `set_num_threads` in the calling thread."""


torch_import_context: Callable[[], AbstractContextManager[None]] = nullcontext
"""Context in which torch is imported; the command line keeps the garbage collector off in it."""


def import_torch(purpose: str = "this") -> Any:
    """Import torch, and give it the number of threads that `set_num_threads` set.

    Parameters
    ----------
    purpose
        What needs torch, for the error.

    Raises
    ------
    UsageError
        torch is not installed.
    """
    loaded = hasattr(sys.modules.get("torch"), "get_num_threads")  # not by another thread just now
    try:
        with torch_import_context():
            import torch
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs torch, which is not installed: {INSTALL_TORCH}"
        ) from error
    threads = getattr(_state, "threads", None)
    if not loaded and threads is not None:
        _state.torch_threads = torch.get_num_threads()
        torch.set_num_threads(threads)
    return torch


def loaded_torch() -> Any:
    """Return torch if it is imported, else None; waits while another thread imports it."""
    return None if sys.modules.get("torch") is None else import_module("torch")


@cache
def installed_version(package: str) -> str:
    """Return the version of an installed package; ``none`` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def num_threads() -> int:
    """Return the number of CPU threads that the calling thread may use."""
    threads = getattr(_state, "threads", None)
    if threads is not None:
        return int(threads)
    torch = loaded_torch()
    if torch is not None:
        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else available_cpus()


def set_num_threads(count: int) -> None:
    """Set the number of CPU threads of the calling thread, also of torch if it is loaded."""
    _state.threads = count
    torch = loaded_torch()
    if torch is not None:
        torch.set_num_threads(count)


@dataclass(frozen=True)
class DeviceConfig:
    """A device, the precision of a network on it, and the library that computes."""

    device: str
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    precision: str = "fp32"
    """``fp32``, ``bf16`` or ``fp16``; by ONNX Runtime ``fp32`` or ``int8``."""
    backend: str = "torch"
    """``torch``, or ``onnx`` for ONNX Runtime (and NumPy) on the CPU."""

    @property
    def type(self) -> str:
        """Return the device without its number."""
        return self.device.partition(":")[0]

    @property
    def library(self) -> str:
        """Return the libraries that compute, with their versions, for the key of a run."""
        if self.backend == "torch":
            return f"torch {import_torch().__version__}"
        return (
            f"ONNX Runtime {installed_version('onnxruntime')}, NumPy {installed_version('numpy')}"
        )

    def describe(self) -> str:
        """Describe device, its name, precision and threads for the log."""
        if self.type == "cuda":
            name = import_torch().cuda.get_device_name(self.device)
            return f"{self.device} ({name}), {self.precision}"
        if self.type == "cpu":
            runtime = "" if self.backend == "torch" else f", {self.backend}"
            return f"cpu ({num_threads()} threads), {self.precision}{runtime}"
        return f"{self.device}, {self.precision}"


def may_have_accelerator() -> bool:
    """Return whether torch may find a GPU here, without importing it."""
    if find_spec("torch") is None:
        return False
    torch = loaded_torch()
    if torch is not None:
        return bool(torch.cuda.is_available() or torch.backends.mps.is_available())
    if sys.platform == "linux":
        return any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
    return sys.platform == "win32" or (sys.platform, platform.machine()) == ("darwin", "arm64")


@cache
def _cpu_features() -> frozenset[str]:
    """Return the instruction sets of this machine's CPU, in lower case."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:  # not Linux
        pass
    import numpy as np  # needed on other systems than Linux only

    names = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return frozenset(name.lower() for name in names)


def cpu_supports(precision: str) -> bool:
    """Return whether this CPU has instructions for ``int8`` or ``bf16``."""
    return not _INSTRUCTIONS[precision].isdisjoint(_cpu_features())


def select_device(
    device: str = "auto", precision: str = "auto", backend: str = "torch"
) -> DeviceConfig:
    """Choose a device and a precision.

    Parameters
    ----------
    device
        ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: CUDA, else Apple's MPS, else the CPU.
    precision
        ``fp32``, ``bf16``, ``fp16``, ``int8`` by ONNX Runtime, or ``auto``: float32 on CPU and MPS,
        bfloat16 (float16 before Ampere) on CUDA.
    backend
        ``torch``; ``onnx``, which computes in ``fp32`` or ``int8`` on the CPU; or ``auto``: torch
        if it is installed, except for ``int8``.

    Raises
    ------
    UsageError
        The device is unknown or missing, the backend does not support it, or torch is missing.
    """
    if backend == "auto":
        backend = "onnx" if precision == "int8" or not find_spec("torch") else "torch"
    if backend == "onnx":
        if device not in ("auto", "cpu") or precision not in ("auto", "fp32", "int8"):
            raise UsageError(
                f"backend onnx computes in fp32 or int8 on the cpu, not in {precision} on "
                f"{device}; omit --device and --precision, or use --backend torch"
            )
        if precision == "int8" and not cpu_supports("int8"):
            raise UsageError(
                "precision int8: this CPU lacks the instructions (AVX-VNNI, or dot products of "
                "ARM), without which sums overflow; omit --precision"
            )
        return DeviceConfig("cpu", "int8" if precision == "int8" else "fp32", backend)
    options = {f"--device {device}": device, f"--precision {precision}": precision}
    torch = import_torch(
        next((o for o, word in options.items() if word != "auto"), "--backend torch or --compile")
    )
    try:
        chosen = torch.device(_best_device() if device == "auto" else device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: expected auto, cpu, cuda, cuda:N or mps") from error
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(
            f"precision {precision!r} on {chosen} by torch: expected auto, {', '.join(PRECISIONS)}"
        )
    _check_present(chosen)
    if precision == "auto":
        if chosen.type != "cuda":
            return DeviceConfig(str(chosen))
        bf16 = torch.cuda.get_device_capability(chosen) >= (8, 0)
        return DeviceConfig(str(chosen), "bf16" if bf16 else "fp16")
    if precision == "fp16" and chosen.type == "cpu":
        log.warning(worded("fp16 on a CPU is slower than fp32, and less exact: omit --precision"))
    return DeviceConfig(str(chosen), precision)


def _best_device() -> str:
    torch = import_torch()
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_present(device: Any) -> None:
    torch = import_torch()
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
    """Set the number of CPU threads of the calling thread inside the block, and restore it."""
    before, torch = getattr(_state, "threads", None), loaded_torch()
    of_torch = None if torch is None else torch.get_num_threads()
    if count is not None:
        set_num_threads(count)
    try:
        yield
    finally:
        _state.threads = before
        torch = loaded_torch()
        of_torch = of_torch or getattr(_state, "torch_threads", None)
        if torch is not None and of_torch is not None:
            torch.set_num_threads(of_torch)

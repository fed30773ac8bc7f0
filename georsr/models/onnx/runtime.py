"""Run ONNX files by ONNX Runtime on the CPU, with NumPy arrays and without torch."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from georsr._files import sha256
from georsr.device import is_out_of_memory, num_threads
from georsr.errors import ModelError, ResourceError, UsageError, first_line
from georsr.models.registry import check_bundled
from georsr.models.spec import METADATA_KEY, ModelSpec
from georsr.tiling.stitch import pad_to
from georsr.window import FloatArray

INPUT, SENSOR = "image", "sensor"
"""Names of the graph's inputs: (N, C, h, w), and of some networks (1, N_SENSOR_VALUES), which is
all zeros unless it is given."""
OUTPUT, GUIDANCE = "enlarged", "guidance"
"""Names of its outputs: (N, C, s * h, s * w), and of some files (N, groups, hc, wc)."""
ESTIMATOR_SUFFIX = ".sensor.onnx"
"""NAME.sensor.onnx beside NAME.onnx estimates the sensor description: (N, C, h, w) -> mean and
variance, (N, N_SENSOR_VALUES) each."""
OLDEST = (1, 18)
"""Oldest version of ONNX Runtime, as in ``requirements/light.txt``."""
_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""Option of ONNX Runtime: the folder of files that hold weights."""


LOG_FATAL = 4
"""Severity of what ONNX Runtime prints on stderr: errors are raised, and georsr prints them."""


class Graph:
    """A graph that ONNX Runtime runs, with as many threads as the caller has.

    Parameters
    ----------
    data
        Content of the ONNX file.
    name
        Name of the file in messages.

    Raises
    ------
    UsageError
        ONNX Runtime is not installed.
    ModelError
        It is not an ONNX file.
    ResourceError
        Memory is too small.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name
        self._sessions: dict[int, Any] = {}
        self._lock = threading.Lock()

    def session(self) -> Any:
        """Return a session with the caller's number of threads, which a session cannot change."""
        threads = num_threads()
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = self._open(threads)
            return self._sessions[threads]

    def _open(self, threads: int) -> Any:
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_FATAL
        # threads that wait for work would keep cores busy, which others can use
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # weights in other files would be looked for in the current folder: nowhere is one
        options.add_session_config_entry(_EXTERNAL_DATA_FOLDER, os.devnull)
        try:
            return runtime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            reason = first_line(error)
            if is_out_of_memory(error):
                raise ResourceError(
                    f"{self._name}: memory is too small to load the network ({reason}); end other "
                    "programs"
                ) from error
            raise ModelError(f"{self._name}: not a readable ONNX file ({reason})") from error

    def run(self, outputs: list[str] | None, inputs: dict[str, FloatArray]) -> list[FloatArray]:
        """Return the outputs of these names; None for all.

        The graph runs in a thread of its own: the calling one hears signals while it waits.
        """
        session, options = self.session(), onnxruntime().RunOptions()
        options.log_severity_level = LOG_FATAL
        result = Future[list[FloatArray]]()

        def run() -> None:
            try:
                result.set_result(session.run(outputs, inputs, options))
            except BaseException as error:
                result.set_exception(error)

        thread = threading.Thread(target=run, name="georsr-onnx", daemon=True)
        try:
            thread.start()
            return result.result()
        except BaseException:
            # the layer in hand is the last; Python aborts if it ends while a thread is in a session
            options.terminate = True
            if thread in threading.enumerate():
                wait([result])
            raise


class OnnxNetwork:
    """A network that ONNX Runtime runs from an ONNX file written by georsr.

    Parameters
    ----------
    data
        Content of the file.
    name
        Name of the file in messages.
    estimator
        Content of the file that estimates the sensor description; None if there is none.

    Raises
    ------
    UsageError
        ONNX Runtime is not installed.
    ModelError
        It is not an ONNX file, or was not written by georsr.
    """

    def __init__(self, data: bytes, name: str, estimator: bytes | None = None) -> None:
        self._graph = Graph(data, name)
        self._estimator = None if estimator is None else Graph(estimator, f"{name}, sensor")
        session = self._graph.session()
        tags = session.get_modelmeta().custom_metadata_map
        try:
            self.spec = ModelSpec.from_json(tags[METADATA_KEY])
        except KeyError as error:
            raise ModelError(
                f"{name}: has no georsr model spec in its metadata; make one with 'georsr export'"
            ) from error
        self.sensor_estimator = None if estimator is None else self._estimate_sensor
        """(1, C, h, w) -> mean and variance of the sensor description; None without one."""
        size = session.get_inputs()[0].shape[2]
        self.tile: int | None = size if isinstance(size, int) else None
        self._takes_batches = session.get_inputs()[0].shape[0] != 1
        """Height and width of its tiles, to which smaller ones are padded; None for any size."""
        maps = [output.shape[1] for output in session.get_outputs() if output.name == GUIDANCE]
        self.guidance_count: int = maps[0] if maps else 0
        """Number of guidance maps; 0 if the file does not return them."""
        self.takes_sensor: bool = any(
            tensor.name == SENSOR for tensor in session.get_overridable_initializers()
        )
        """Whether it has an input for the sensor description."""

    def __call__(self, x: FloatArray, sensor: FloatArray | None = None) -> FloatArray:
        """(N, C, h, w) -> (N, C, s * h, s * w), float32; ``sensor``: (1, N_SENSOR_VALUES)."""
        if len(x) > 1 and not self._takes_batches:
            return np.concatenate([self(tile[None], sensor) for tile in x])
        pixels = np.ascontiguousarray(x, np.float32)
        if self.tile is not None:  # a scene may be smaller than a tile
            pixels = pad_to(pixels, self.tile, self.tile)
        inputs = {INPUT: pixels}
        if sensor is not None and self.takes_sensor:
            inputs[SENSOR] = sensor
        (enlarged,) = self._graph.run([OUTPUT], inputs)
        height, width = (size * self.spec.scale for size in x.shape[2:])
        return enlarged[..., :height, :width]

    def guidance_maps(self, x: FloatArray) -> FloatArray:
        """(N, C, h, w) -> guidance maps (N, groups, hc, wc); the sensor has no influence."""
        (maps,) = self._graph.run([GUIDANCE], {INPUT: np.ascontiguousarray(x, np.float32)})
        return maps

    def _estimate_sensor(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        assert self._estimator is not None, "checked by who sets `sensor_estimator`"
        mean, variance = self._estimator.run(None, {INPUT: np.ascontiguousarray(x, np.float32)})
        return mean, variance


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
    estimator = path.with_suffix(ESTIMATOR_SUFFIX)
    network = OnnxNetwork(data, str(path), estimator.read_bytes() if estimator.is_file() else None)
    return network.spec, network, hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=4)
def open_bundled(path: Path) -> OnnxNetwork:
    """Open the ONNX file of a model that ships with georsr, once in a process.

    Raises
    ------
    ModelError
        It is not the file that was shipped.
    """
    for file in (path, path.with_suffix(ESTIMATOR_SUFFIX)):
        if file.is_file():
            check_bundled(file, sha256(file))
    return open_onnx(path)[1]


def has_onnxruntime() -> bool:
    """Return whether ONNX Runtime is installed, without importing it."""
    return find_spec("onnxruntime") is not None


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Set ``ORT_DISABLE_TELEMETRY``, unless it is set, while ONNX Runtime is imported.

    Otherwise ONNX Runtime 1.32 reports its use to its makers, and writes files into the user's
    cache folder.
    """
    if _TELEMETRY in os.environ:
        yield
        return
    os.environ[_TELEMETRY] = "1"
    try:
        yield
    finally:
        os.environ.pop(_TELEMETRY, None)


def onnxruntime() -> Any:
    """Import ONNX Runtime, without its telemetry.

    Raises
    ------
    UsageError
        It is not installed, too old, or cannot be loaded, as on a CPU that lacks instructions.
    """
    try:
        with _no_telemetry():
            import onnxruntime
        version = str(onnxruntime.__version__)
    except ModuleNotFoundError as error:
        raise UsageError(
            "ONNX Runtime is not installed: pip install onnxruntime, or use --backend torch"
        ) from error
    except (AttributeError, ImportError, OSError) as error:  # an empty folder has no attributes
        raise UsageError(
            f"ONNX Runtime is installed, but cannot be loaded ({first_line(error)}); use --backend "
            "torch"
        ) from error
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        raise UsageError(
            f"ONNX Runtime {version} is too old, expected {'.'.join(map(str, OLDEST))} or newer: "
            "`pip install --upgrade onnxruntime`, or use --backend torch"
        )
    return onnxruntime

"""Predict tiles with a network, in batches that fit into memory.

A batch that does not fit is halved and tried again; a single tile that does not fit raises
`TileTooLargeError`, on which `georsr.jobs.run.with_smaller_tiles` starts the run again. A tile with
values that are not finite is an error.

With ``tta``, a network predicts a tile in all eight orientations of the square, and the mean of the
eight predictions, turned back, is taken ("geometric self-ensemble": Lim et al., "Enhanced deep
residual networks for single image super-resolution", CVPRW 2017).

On a CPU several tiles are computed in parallel, each by one thread: a network that has all threads
waits after every layer for the slowest of them. A tile computed by one thread is also the same
whatever the number of threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Self

from georsr.config import Precision, SRConfig
from georsr.device import (
    DeviceConfig,
    cpu_supports,
    import_torch,
    is_out_of_memory,
    may_have_accelerator,
    num_threads,
    select_device,
    set_num_threads,
)
from georsr.errors import ModelError, ResourceError, UsageError, first_line
from georsr.inference.backends import (
    ArrayBackend,
    Backend,
    PendingBatch,
    TorchBackend,
)
from georsr.inference.consistency import ConsistencyTarget, enforce_consistency
from georsr.models.arrays import Array, enlarge_nearest, interpolate_bicubic, namespace
from georsr.models.io import Model
from georsr.models.registry import is_architecture
from georsr.models.spec import ModelSpec
from georsr.radiometry.kernels import Kernel
from georsr.window import FloatArray

Forward = Callable[[Array], Array]
"""One pass of a network: (N, C, h, w) in 0..1 -> (N, C, s * h, s * w) around 0..1, float32."""

INTERPOLATIONS: dict[str, Callable[[Array, int], Array]] = {
    "bicubic": interpolate_bicubic,
    "nearest": enlarge_nearest,
}
"""Functions that compute the models without weights: image (N, C, h, w), scale -> image."""
MEMBERS = 8
"""Orientations of a square: four rotations, each as it is and mirrored."""


def tta_predictions(forward: Forward, x: Array) -> Iterator[Array]:
    """Yield the predictions of the eight orientations, each rotated back to that of ``x``.

    The first one is that of ``x`` as it is.
    """
    xp = namespace(x)
    for turns in range(4):
        turned = xp.rot90(x, turns, (2, 3))
        yield xp.rot90(forward(turned), -turns, (2, 3))
        yield xp.rot90(xp.flip(forward(xp.flip(turned, (3,))), (3,)), -turns, (2, 3))


def tta_mean(forward: Forward, x: Array) -> Array:
    """Return the mean prediction of the eight orientations, at eight times the cost."""
    predictions = tta_predictions(forward, x)
    total = next(predictions)
    for prediction in predictions:
        total = total + prediction
    return total / MEMBERS


def n_forward_passes(tta: bool) -> int:
    """Return the number of passes of the network for one tile."""
    return MEMBERS if tta else 1


MAX_LANES = 4
"""Lanes: each holds the features of one more tile."""


@dataclass(frozen=True)
class ParallelTiles:
    """How many threads call a network at the same time."""

    count: int = 1
    """Number of threads that call the network; 1 for the caller alone."""
    threads: int = 1
    """Threads for each."""

    def enter(self) -> None:
        """Set the number of threads of the calling thread."""
        set_num_threads(self.threads)


def plan_parallelism(
    placement: DeviceConfig,
    spec: ModelSpec,
    compiled: bool,
    tiles: int,
    threads: int | None = None,
) -> ParallelTiles:
    """Choose how many tiles are predicted at the same time, and with how many threads each.

    Parameters
    ----------
    placement, spec
        Where it runs, and its contract. Networks of others may keep what they need from one layer
        to the next, and answer one caller at a time.
    compiled
        Whether ``torch.compile`` builds it, which is not made for several callers.
    tiles
        That there are to compute: a lane without one would be threads without work.
    threads
        For all together; by default those of the calling thread.
    """
    threads = threads or num_threads()
    alone = placement.type != "cpu" or compiled or not is_architecture(spec.architecture)
    if alone:
        return ParallelTiles(1, threads)
    each = -(-threads // max(1, min(MAX_LANES, tiles)))
    return ParallelTiles(threads // each, each)


def n_concurrent_tiles(
    placement: DeviceConfig, spec: ModelSpec, config: SRConfig, tiles: int, batch: int
) -> int:
    """Return the number of tiles whose features are in memory at the same time.

    ``tiles`` are those of the run, ``batch`` those of one call of the network.
    """
    lanes = plan_parallelism(placement, spec, config.compile, tiles, config.num_threads)
    return batch * lanes.count


log = logging.getLogger(__name__)

GPU_BATCH = 16
"""Tiles per call on an accelerator, unless memory or the user requires another number."""


def choose_batch(placement: DeviceConfig, wanted: int | None) -> int:
    """Return the number of tiles per call of the network.

    On the CPU always one: more gain nothing there, and convolution libraries choose their
    algorithm by the size of the batch, so that the last digits of a tile would depend on its
    neighbours.
    """
    if placement.type == "cpu":
        return 1
    return wanted or GPU_BATCH


def with_own_gpu(config: SRConfig, worker_name: object) -> SRConfig:
    """Return the options of a worker: numbered ones take the GPUs of their machine in turn."""
    if config.device != "cuda" or not isinstance(worker_name, int):
        return config
    count = import_torch("--device cuda").cuda.device_count()
    return replace(config, device=f"cuda:{worker_name % max(1, count)}")


def with_precision(model: Model, config: SRConfig) -> SRConfig:
    """Return the options with the precision that ``fast`` chooses for a model on this machine.

    On a CPU that is int8 if the model ships in 8 bits, else bfloat16 by torch, if the CPU has
    instructions for it. On a GPU ``auto`` is half precision already.

    Raises
    ------
    UsageError
        int8 is asked for, and the model does not ship in 8 bits.
    """
    if config.precision == "int8" and not (model.interpolates or model.int8_graph):
        raise UsageError(
            f"model {model.source}: does not ship in 8 bits; omit --precision int8, or make a file "
            "in 8 bits with `georsr export --int8`"
        )
    if not config.fast:
        return config
    precision: Precision = "auto"
    on_cpu = config.device == "cpu" or (config.device == "auto" and not may_have_accelerator())
    if on_cpu and not model.interpolates:
        runtime = config.backend != "torch" and not config.compile and model.runs_without_torch
        if runtime and model.int8_graph and cpu_supports("int8"):
            precision = "int8"
        elif _has_torch(model, config) and cpu_supports("bf16"):
            precision = "bf16"
    return replace(config, fast=False, precision=precision)


def _has_torch(model: Model, config: SRConfig) -> bool:
    """Return whether torch may run a model."""
    return config.backend != "onnx" and not model.is_exported and find_spec("torch") is not None


def place_model(model: Model, config: SRConfig) -> DeviceConfig:
    """Choose device, precision and backend of a model.

    On a CPU, ``auto`` takes ONNX Runtime (or NumPy) for the models that ship with georsr, and torch
    for others.

    Raises
    ------
    UsageError
        The options contradict each other, or the model; or torch is needed and not installed.
    """
    config = with_precision(model, config)
    backend = choose_backend(model, config)
    if backend == "onnx" and config.compile:
        raise UsageError("backend onnx: torch.compile is not for it; leave --compile away")
    if model.is_exported:
        if backend == "torch":
            raise UsageError(f"model {model.source}: is an ONNX file; leave --backend torch away")
        tile = model.network.tile
        if tile is not None and config.tile_size not in (None, tile):
            raise UsageError(
                f"model {model.source}: was exported for tiles of {tile}, not "
                f"{config.tile_size}; leave --tile away, or export with --dynamic"
            )
    placement = select_device(config.device, config.precision, backend)
    if model.interpolates:
        # an interpolation keeps every digit, which Apple's devices, without float64, cannot
        device = "cpu" if placement.type == "mps" else placement.device
        placement = replace(placement, device=device, precision="fp32")
    return placement


def choose_backend(model: Model, config: SRConfig) -> str:
    """Return the backend that the options, or ``auto``, choose for a model."""
    if config.backend != "auto":
        return config.backend
    return "onnx" if model.is_exported or _prefers_arrays(model, config) else "torch"


def _prefers_arrays(model: Model, config: SRConfig) -> bool:
    """Return whether ``--backend auto`` runs a model without torch."""
    if config.device not in ("auto", "cpu") or config.precision not in ("auto", "fp32", "int8"):
        return False
    if config.compile or not model.runs_without_torch:
        return False
    return config.device == "cpu" or not may_have_accelerator()


class TileTooLargeError(ResourceError):
    """A single tile does not fit into memory."""


class TilePredictor:
    """Predicts tiles with a model on one device.

    Parameters
    ----------
    model
        The model; on another device than the CPU a copy of its network runs.
    placement
        Device and precision.
    batch
        Tiles per call.
    compiled
        Let ``torch.compile`` build the network for the shape of a full batch.
    tta
        Test-time augmentation: return the mean prediction of eight orientations.
    """

    def __init__(
        self,
        model: Model,
        placement: DeviceConfig,
        batch: int,
        *,
        compiled: bool = False,
        tta: bool = False,
    ) -> None:
        self.spec, self.multiband = model.spec, model.multiband
        self.interpolates = model.interpolates
        """Whether pixels are stored values, interpolated in their own type without a network."""
        self.placement = placement
        self.batch = batch
        self.tta = tta
        self.compiled = compiled
        self.backend: Backend = (
            ArrayBackend(model, placement.precision)
            if placement.backend == "onnx"
            else TorchBackend(model, placement, compiled=compiled)
        )

    @property
    def network(self) -> Any:
        """The network that runs: a module of torch, or a function of NumPy arrays."""
        return self.backend.network

    @classmethod
    def from_config(
        cls, model: Model, config: SRConfig, placement: DeviceConfig | None = None
    ) -> Self:
        """Create the predictor that the options of a run ask for.

        ``placement`` None chooses device and precision by ``config``.
        """
        placement = placement or place_model(model, config)
        batch = choose_batch(placement, config.batch_size)
        predictor = cls(model, placement, batch, compiled=config.compile, tta=config.tta)
        log.info("%s on %s", model.spec.name, placement.describe())
        return predictor

    @property
    def overlaps(self) -> bool:
        """Whether the device computes a batch while the host does other work."""
        return self.placement.type == "cuda"

    def lanes(self, tiles: int) -> ParallelTiles:
        """Return how many threads predict so many tiles at the same time."""
        return plan_parallelism(self.placement, self.spec, self.compiled, tiles)

    def __call__(self, tiles: Sequence[FloatArray], names: Sequence[str]) -> list[FloatArray]:
        """Super-resolve tiles of equal shape and wait for them: see :meth:`submit`."""
        return [values for batch in self.submit(tiles, names) for values in batch.result()]

    def submit(
        self,
        tiles: Sequence[FloatArray],
        names: Sequence[str],
        targets: Sequence[ConsistencyTarget] | None = None,
        kernel: Kernel | None = None,
    ) -> list[PendingBatch]:
        """Start to super-resolve tiles of equal shape.

        Parameters
        ----------
        tiles
            Each (C, h, w) float32 in 0..1.
        names
            What to call each tile in an error.
        targets, kernel
            Validity and remainder of each tile, and the kernel with which outputs are made
            consistent with their tiles; None leaves the outputs of the network unchanged.

        Returns
        -------
        list of PendingBatch
            Their results, joined, are one array (C, s * h, s * w) float32 around 0..1 per tile.

        Raises
        ------
        TileTooLargeError
            One tile alone runs out of memory.
        ModelError
            The network fails or changes the shape.
        """
        started: list[PendingBatch] = []
        done = 0
        while done < len(tiles):
            part = slice(done, done + self.batch)
            try:
                batch_targets = None if targets is None else targets[part]
                started.append(self._start(tiles[part], names[part], batch_targets, kernel))
            except Exception as error:
                if not is_out_of_memory(error):
                    if isinstance(error, ModelError):
                        raise
                    raise ModelError(self._failure(names[part][0], error)) from error
                self._shrink(tiles[0], error)
                continue
            done += len(started[-1].names)
        return started

    def _failure(self, name: str, error: Exception) -> str:
        advice = "; try without --compile" if self.compiled else ""
        return f"the network failed on {name}: {first_line(error)}{advice}"

    def _shrink(self, tile: FloatArray, error: BaseException) -> None:
        self.backend.free_memory()
        if self.batch == 1:
            raise TileTooLargeError(
                f"a tile of {tile.shape[1]}x{tile.shape[2]} pixels does not fit into the memory "
                f"of {self.placement.device}; use a smaller --tile or --device cpu"
            ) from error
        self.batch //= 2
        log.warning("out of memory: continuing with %d tiles per batch", self.batch)

    def predict(self, x: Array) -> Array:
        """Return what becomes of a batch (N, C, h, w): (N, P, s * h, s * w)."""
        if self.interpolates:  # the same in all orientations
            return INTERPOLATIONS[self.spec.architecture](x, self.spec.scale)
        return tta_mean(self.forward_pass, x) if self.tta else self.forward_pass(x)

    def forward_pass(self, x: Array) -> Array:
        """Run the network once on a batch (N, C, h, w) in 0..1, on its device.

        Returns
        -------
        Array
            (N, C, s * h, s * w) around 0..1, float32.
        """
        lo, hi = self.spec.value_range
        if (lo, hi) != (0.0, 1.0):
            x = x * (hi - lo) + lo
        x = self.backend.ordered(x)
        if self.multiband is None:
            y = self.backend.forward(x)
        else:
            y = self.multiband.apply(self.backend.forward, x)
        n, c, h, w = x.shape
        expected = (n, c, h * self.spec.scale, w * self.spec.scale)
        if tuple(y.shape) != expected:
            raise ModelError(
                f"model {self.spec.name} made {tuple(y.shape)} from {tuple(x.shape)}, "
                f"expected {expected}"
            )
        return (y - lo) / (hi - lo) if (lo, hi) != (0.0, 1.0) else y

    def _start(
        self,
        tiles: Sequence[FloatArray],
        names: Sequence[str],
        targets: Sequence[ConsistencyTarget] | None,
        kernel: Kernel | None,
    ) -> PendingBatch:
        with self.backend.computing():
            x = self.backend.to_device(tiles, self.batch)
            y = self.predict(x)[: len(tiles)]
            residual = None
            if targets is not None and kernel is not None:
                y, residual = enforce_consistency(y, x[: len(tiles)], targets, kernel)
            return self.backend.fetch(y, residual, names, self.spec.name)

"""Predict tiles with a network, in batches that fit into memory.

A batch that does not fit is halved and tried again; a single tile that does not fit raises
`TileTooLargeError`, and the caller chooses smaller tiles. A tile with values that are not finite is
an error.

With ``tta``, a network predicts a tile in all eight orientations of the square, and the mean of the
eight predictions, turned back, is taken ("geometric self-ensemble": Lim et al., "Enhanced deep
residual networks for single image super-resolution", CVPRW 2017).

On a CPU several tiles are computed in parallel, each by one thread: a network that has all threads
waits after every layer for the slowest of them. A tile computed by one thread is also the same
whatever the number of threads.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn

from georsr.config import SRConfig
from georsr.device import DeviceConfig, is_out_of_memory, select_device
from georsr.errors import ModelError, ResourceError, UsageError
from georsr.inference.consistency import ConsistencyTarget, enforce_consistency
from georsr.models.interpolation import Bicubic, MultiBand, Nearest
from georsr.models.io import Model
from georsr.models.registry import is_architecture
from georsr.models.spec import ModelSpec
from georsr.radiometry.kernels import Kernel
from georsr.window import FloatArray

if TYPE_CHECKING:
    from georsr.models.onnx.runtime import OnnxNetwork

Forward = Callable[[Tensor], Tensor]
"""One pass of a network: (N, C, h, w) in 0..1 -> (N, C, s * h, s * w) around 0..1, float32."""

MEMBERS = 8
"""Orientations of a square: four rotations, each as it is and mirrored."""


def tta_predictions(forward: Forward, x: Tensor) -> Iterator[Tensor]:
    """Yield the predictions of the eight orientations, each rotated back to that of ``x``.

    The first one is that of ``x`` as it is.
    """
    for turns in range(4):
        turned = torch.rot90(x, turns, (2, 3))
        yield torch.rot90(forward(turned), -turns, (2, 3))
        yield torch.rot90(forward(turned.flip(3)).flip(3), -turns, (2, 3))


def tta_mean(forward: Forward, x: Tensor) -> Tensor:
    """Return the mean prediction of the eight orientations, at eight times the cost."""
    predictions = tta_predictions(forward, x)
    total = next(predictions).clone()
    for prediction in predictions:
        total += prediction
    return total / MEMBERS


def n_forward_passes(tta: bool) -> int:
    """Return the number of passes of the network for one tile."""
    return MEMBERS if tta else 1


MAX_LANES = 4
"""Lanes: each holds the features of one more tile."""


@dataclass(frozen=True)
class ParallelTiles:
    """How many threads call a network at the same time.

    Attributes
    ----------
    count : int
        Number of threads that call the network; 1 for the caller alone.
    threads : int
        Threads of torch in each of them.
    """

    count: int = 1
    threads: int = 1

    def enter(self) -> None:
        """Set the number of torch threads of the calling thread."""
        torch.set_num_threads(self.threads)


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
        Of torch, for all together; by default those of the calling thread.
    """
    threads = threads or torch.get_num_threads()
    alone = placement.device.type != "cpu" or compiled or not is_architecture(spec.architecture)
    if alone:
        return ParallelTiles(1, threads)
    each = -(-threads // max(1, min(MAX_LANES, tiles)))
    return ParallelTiles(threads // each, each)


def n_concurrent_tiles(
    placement: DeviceConfig, spec: ModelSpec, config: SRConfig, tiles: int, batch: int
) -> int:
    """Return the number of tiles whose features are in memory at the same time.

    Parameters
    ----------
    placement, spec, config, tiles
        As the run's.
    batch
        Tiles per call of the network.
    """
    return (
        batch * plan_parallelism(placement, spec, config.compile, tiles, config.num_threads).count
    )


log = logging.getLogger(__name__)

GPU_BATCH = 16
"""Tiles per call on an accelerator, unless memory or the user requires another number."""


def choose_batch(placement: DeviceConfig, wanted: int | None) -> int:
    """Return the number of tiles per call of the network.

    On the CPU always one: more gain nothing there, and convolution libraries choose their
    algorithm by the size of the batch, so that the last digits of a tile would depend on its
    neighbours.
    """
    if placement.device.type == "cpu":
        return 1
    return wanted or GPU_BATCH


def with_own_gpu(config: SRConfig, worker_name: object) -> SRConfig:
    """Return the options of a worker: numbered ones take the GPUs of their machine in turn."""
    if config.device != "cuda" or not isinstance(worker_name, int):
        return config
    return replace(config, device=f"cuda:{worker_name % max(1, torch.cuda.device_count())}")


def place_model(model: Model, config: SRConfig) -> DeviceConfig:
    """Choose device, precision and backend of a model; ``auto`` takes torch if it can.

    Raises
    ------
    UsageError
        The options contradict each other, or the model.
    """
    file = _onnx_file(model)
    backend = config.backend
    if backend == "auto":
        backend = "torch" if file is None else "onnx"
    if backend == "onnx" and config.compile:
        raise UsageError("backend onnx: torch.compile is not for it; leave --compile away")
    if file is not None:
        if backend == "torch":
            raise UsageError(f"model {model.source}: is an ONNX file; leave --backend torch away")
        if file.tile is not None and config.tile_size not in (None, file.tile):
            raise UsageError(
                f"model {model.source}: was exported for tiles of {file.tile}, not "
                f"{config.tile_size}; leave --tile away, or export with --dynamic"
            )
    placement = select_device(config.device, config.precision, backend)
    if isinstance(model.network, (Bicubic, Nearest)):
        # an interpolation keeps every digit, which Apple's devices, without float64, cannot
        on_mps = placement.device.type == "mps"
        device = torch.device("cpu") if on_mps else placement.device
        placement = replace(placement, device=device, dtype=torch.float32)
    return placement


def _onnx_file(model: Model) -> OnnxNetwork | None:
    """Return the network of a model that was read from an ONNX file; None for other models."""
    if not (model.file or model.source).lower().endswith(".onnx"):
        return None
    from georsr.models.onnx.runtime import OnnxNetwork

    return model.network if isinstance(model.network, OnnxNetwork) else None


class TileTooLargeError(ResourceError):
    """A single tile does not fit into memory."""


@dataclass(frozen=True)
class PendingBatch:
    """A batch of tiles that the device is computing.

    ``values`` and ``finite`` lie in host memory and are not to be read before ``done``.
    """

    values: Tensor
    """(N, C, s * h, s * w) float32."""
    finite: Tensor
    """(N,) bool: whether the sum of a tile is finite."""
    names: Sequence[str]
    model: str
    done: torch.cuda.Event | None
    residual: Tensor | None = None
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
                    f"the network failed on {self.names[0]} or soon after: {_cause(error)}"
                ) from error
        # a sum may overflow although its values do not
        failed = [
            i
            for i in (~self.finite).nonzero().flatten().tolist()
            if not self.values[i].isfinite().all()
        ]
        if failed:
            bad = self.names[failed[0]]
            raise ModelError(
                f"model {self.model} made values that are not finite at {bad}; try --precision fp32"
            )
        return list(self.values.numpy())

    def residuals(self) -> list[FloatArray | None]:
        """Return the residual (C, h, w) of each tile, after `result`; None if not computed."""
        if self.residual is None:
            return [None] * len(self.names)
        return list(self.residual.numpy())


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
        self.spec = model.spec
        self.placement = placement
        self.batch = batch
        self.tta = tta
        # The model stays where and what it is: its owner may use it again, elsewhere.
        network = model.network
        if placement.backend == "onnx":
            network = _onnx_of(network, model.spec)
        if placement.device.type != "cpu":
            network = copy.deepcopy(network)
        # channels_last is what makes plain convolutions fast, on CPU and on tensor cores.
        self.network: nn.Module = network.to(  # type: ignore[call-overload]
            device=placement.device, memory_format=torch.channels_last
        )
        self.compiled = compiled
        self.forward: Callable[[Tensor], Tensor] = self.network
        if compiled:
            self.forward = torch.compile(self.network, dynamic=False)

    @classmethod
    def from_config(
        cls, model: Model, config: SRConfig, placement: DeviceConfig | None = None
    ) -> Self:
        """Create the predictor that the options of a run ask for.

        Parameters
        ----------
        model, config
            Model and options of the run.
        placement
            Device and precision; None chooses them by ``config``.
        """
        placement = placement or place_model(model, config)
        batch = choose_batch(placement, config.batch_size)
        predictor = cls(model, placement, batch, compiled=config.compile, tta=config.tta)
        log.info("%s on %s", model.spec.name, placement.describe())
        return predictor

    @property
    def interpolates(self) -> bool:
        """Whether pixels are stored values, interpolated in their own type without a network."""
        return isinstance(self.network, (Bicubic, Nearest))

    @property
    def overlaps(self) -> bool:
        """Whether the device computes a batch while the host does other work."""
        return self.placement.device.type == "cuda"

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
        return f"the network failed on {name}: {_cause(error)}{advice}"

    def _shrink(self, tile: FloatArray, error: BaseException) -> None:
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch == 1:
            raise TileTooLargeError(
                f"a tile of {tile.shape[1]}x{tile.shape[2]} pixels does not fit into the memory "
                f"of {self.placement.device}; use a smaller --tile or --device cpu"
            ) from error
        self.batch //= 2
        log.warning("out of memory: continuing with %d tiles per batch", self.batch)

    def _to_device(self, tiles: Sequence[FloatArray]) -> Tensor:
        """Return tiles as a tensor (N, C, h, w) in 0..1 on the device."""
        x = torch.from_numpy(np.stack(tiles))
        if self.compiled and len(tiles) < self.batch:
            # one shape, one compilation: the rest of a last batch is filled up
            x = torch.cat([x, x[-1:].expand(self.batch - len(tiles), -1, -1, -1)])
        if self.overlaps:
            # only a copy from pinned memory overlaps with the work of the device
            x = x.pin_memory()
        return x.to(self.placement.device, non_blocking=self.overlaps)

    def predict(self, x: Tensor) -> Tensor:
        """Return what becomes of a batch (N, C, h, w): (N, P, s * h, s * w)."""
        if isinstance(self.network, (Bicubic, Nearest)):  # the same in all orientations
            return self.network.interpolate(x)
        return tta_mean(self.forward_pass, x) if self.tta else self.forward_pass(x)

    def forward_pass(self, x: Tensor) -> Tensor:
        """Run the network once on a batch (N, C, h, w) in 0..1, on its device.

        Returns
        -------
        Tensor
            (N, C, s * h, s * w) around 0..1, float32.
        """
        dtype, (lo, hi) = self.placement.dtype, self.spec.value_range
        if (lo, hi) != (0.0, 1.0):
            x = x * (hi - lo) + lo
        x = x.contiguous(memory_format=torch.channels_last)
        # autocast keeps weights, norms and the network's own skip connections in float32
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            y = self.forward(x)
        n, c, h, w = x.shape
        expected = (n, c, h * self.spec.scale, w * self.spec.scale)
        if tuple(y.shape) != expected:
            raise ModelError(
                f"model {self.spec.name} made {tuple(y.shape)} from {tuple(x.shape)}, "
                f"expected {expected}"
            )
        if not y.is_floating_point():
            raise ModelError(
                f"model {self.spec.name} made values of type "
                f"{str(y.dtype).removeprefix('torch.')}, expected floating-point numbers"
            )
        y = y.float()
        return (y - lo) / (hi - lo) if (lo, hi) != (0.0, 1.0) else y

    @torch.inference_mode()
    def _start(
        self,
        tiles: Sequence[FloatArray],
        names: Sequence[str],
        targets: Sequence[ConsistencyTarget] | None,
        kernel: Kernel | None,
    ) -> PendingBatch:
        x = self._to_device(tiles)
        y = self.predict(x)[: len(tiles)]
        residual = None
        if targets is not None and kernel is not None:
            y, residual = enforce_consistency(y, x[: len(tiles)], targets, kernel)
        finite = torch.isfinite(y.sum((1, 2, 3)))
        done = None
        if self.overlaps:
            y, finite = _to_pinned(y), _to_pinned(finite)
            residual = None if residual is None else _to_pinned(residual)
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(x.device))
        else:
            y, finite = y.cpu().contiguous(), finite.cpu()
            residual = None if residual is None else residual.cpu()
        return PendingBatch(y, finite, names, self.spec.name, done, residual)


def _cause(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _onnx_of(network: nn.Module, spec: ModelSpec) -> nn.Module:
    """Return the network, run by ONNX Runtime; of a multi-band one, only the part for RGB."""
    from georsr.models.onnx.runtime import as_onnx

    if isinstance(network, MultiBand):
        inner = as_onnx(network.network, network.spec)
        return MultiBand(inner, network.spec, network.guide, network.mode)
    return as_onnx(network, spec)


def _to_pinned(device_tensor: Tensor) -> Tensor:
    """Queue a copy to pinned host memory, in row order; valid once the stream is done."""
    host = torch.empty(device_tensor.shape, dtype=device_tensor.dtype, pin_memory=True)
    return host.copy_(device_tensor.contiguous(), non_blocking=True)

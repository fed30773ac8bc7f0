"""Inference: a network that survives running out of memory and never hides a bad tile."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from georsr.device import Placement
from georsr.errors import ModelError, ResourceError
from georsr.models.load import Model
from georsr.types import FloatArray

log = logging.getLogger(__name__)

GPU_BATCH = 16
"""Tiles per call on an accelerator, unless memory or the user says otherwise."""


def choose_batch(placement: Placement, wanted: int | None) -> int:
    """Tiles per call of the network.

    On the CPU always one: more gain nothing there, and convolution libraries choose their
    algorithm by the size of the batch, so that the last digits of a tile would depend on its
    neighbours.
    """
    if placement.device.type == "cpu":
        return 1
    return wanted or GPU_BATCH


class TileTooLargeError(ResourceError):
    """One tile alone does not fit into memory: the caller must plan smaller tiles."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, and nothing else."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


class Inference:
    """Runs tiles through a model on one device.

    Parameters
    ----------
    model
        The model; on another device than the CPU a copy of its network runs.
    placement
        Device and precision.
    batch
        Tiles per call.
    """

    def __init__(self, model: Model, placement: Placement, batch: int) -> None:
        self.spec = model.spec
        self.placement = placement
        self.batch = batch
        # The model stays where and what it is: its owner may use it again, elsewhere.
        network = model.network
        if placement.device.type != "cpu":
            network = copy.deepcopy(network)
        # channels_last is what makes plain convolutions fast, on CPU and on tensor cores.
        self.network: nn.Module = network.to(  # type: ignore[call-overload]
            device=placement.device, memory_format=torch.channels_last
        )

    def __call__(self, tiles: Sequence[FloatArray], names: Sequence[str]) -> list[FloatArray]:
        """Super-resolve tiles of equal shape.

        Parameters
        ----------
        tiles
            Each (C, h, w) float32 in 0..1.
        names
            What to call each tile in an error.

        Returns
        -------
        list of ndarray
            Each (C, s * h, s * w) float32 around 0..1.

        Raises
        ------
        TileTooLargeError
            One tile alone runs out of memory.
        ModelError
            The network fails, changes the shape, or makes values that are not finite.
        """
        done: list[FloatArray] = []
        while len(done) < len(tiles):
            part = slice(len(done), len(done) + self.batch)
            try:
                done += self._run(tiles[part], names[part])
            except Exception as error:
                if not is_out_of_memory(error):
                    if isinstance(error, ModelError):
                        raise
                    raise ModelError(
                        f"the network failed on {names[part][0]}: {error}".splitlines()[0]
                    ) from error
                self._shrink(tiles[0], error)
        return done

    def _shrink(self, tile: FloatArray, error: BaseException) -> None:
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch == 1:
            raise TileTooLargeError(
                f"a tile of {tile.shape[1]}x{tile.shape[2]} pixels does not fit into the memory "
                f"of {self.placement.device}; use a smaller --tile or --device cpu"
            ) from error
        self.batch //= 2
        log.warning("out of memory: going on with %d tiles per batch", self.batch)

    @torch.inference_mode()
    def _run(self, tiles: Sequence[FloatArray], names: Sequence[str]) -> list[FloatArray]:
        lo, hi = self.spec.value_range
        x = torch.from_numpy(np.stack(tiles))
        if (lo, hi) != (0.0, 1.0):
            x = x * (hi - lo) + lo
        device, dtype = self.placement.device, self.placement.dtype
        x = x.to(device).contiguous(memory_format=torch.channels_last)
        # autocast keeps weights, norms and the network's own skip connections in float32
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            y: Tensor = self.network(x)
        n, c, h, w = x.shape
        expected = (n, c, h * self.spec.scale, w * self.spec.scale)
        if tuple(y.shape) != expected:
            raise ModelError(
                f"model {self.spec.name} made {tuple(y.shape)} from {tuple(x.shape)}, "
                f"expected {expected}"
            )
        y = y.float()
        if (lo, hi) != (0.0, 1.0):
            y = (y - lo) / (hi - lo)
        y = y.cpu().contiguous()
        finite = torch.isfinite(y.sum((1, 2, 3)))
        if not bool(finite.all()):
            bad = names[int((~finite).nonzero()[0])]
            raise ModelError(
                f"model {self.spec.name} made values that are not finite at {bad}; "
                "try --precision fp32"
            )
        return list(y.numpy())

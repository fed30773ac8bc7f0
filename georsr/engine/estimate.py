"""Estimate: tiles, memory, disk and time of a run, before it starts."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

import numpy as np

from georsr.config import SRConfig
from georsr.device import cpu_threads, place
from georsr.engine.inference import Inference, choose_batch
from georsr.engine.preflight import (
    MIB,
    check_bands,
    check_size,
    free_space,
    output_bytes,
    plan_for,
)
from georsr.models.load import Model
from georsr.raster.info import RasterInfo
from georsr.raster.reader import RasterReader
from georsr.tiling.plan import TilePlan

BASE_MEMORY = 650 * MIB
"""Python, torch and GDAL before any work (measured: 570 MiB with the CUDA build of torch on Linux,
and 64 MiB of GDAL's block cache)."""
ACTIVATIONS = 14
"""Feature planes alive at once in a network, in units of its widest layer's input."""


@dataclass(frozen=True)
class Estimate:
    """What a run would take."""

    source: str
    model: str
    scale: int
    width: int
    """Of the output, pixels."""
    height: int
    tiles: int
    tile: int
    batch: int
    device: str
    memory_bytes: int
    """Peak memory of the process."""
    output_bytes: int
    """Of the product without compression: an upper bound."""
    free_bytes: int
    """Free on the destination's disk."""
    seconds: float
    """From one measured tile; reading and writing overlap with the network."""

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def describe(self) -> str:
        """A few lines for people."""
        minutes, seconds = divmod(round(self.seconds), 60)
        return "\n".join(
            [
                f"model   {self.model}, x{self.scale}, on {self.device}",
                f"output  {self.width} x {self.height} pixels",
                f"tiles   {self.tiles} of {self.tile} pixels, {self.batch} at a time",
                f"memory  about {self.memory_bytes / MIB:.0f} MiB",
                f"disk    at most {self.output_bytes / MIB:.0f} MiB, "
                f"{self.free_bytes / MIB:.0f} MiB free",
                f"time    about {minutes} min {seconds} s",
            ]
        )


def memory_bytes(info: RasterInfo, plan: TilePlan, config: SRConfig, batch: int) -> int:
    """Peak memory: the register and strips grow with the width, the network with the tile."""
    bands, s = len(info.bidx), plan.scale
    item = np.dtype(config.dtype or info.dtype).itemsize
    strips = 3 * plan.tile * plan.width * bands * (np.dtype(info.dtype).itemsize + 1)
    zone = plan.overlap * s * plan.out_width * bands * 4
    blocks = config.blocksize * plan.out_width * bands * item
    features = batch * plan.tile**2 * 4 * ACTIVATIONS * 48
    tile = batch * (plan.tile * s) ** 2 * bands * 4 * 6
    return int(BASE_MEMORY + strips + zone + blocks + features + tile)


def estimate(reader: RasterReader, destination: str, model: Model, config: SRConfig) -> Estimate:
    """Plan a run and time one tile of random pixels (the second of two, warmed up)."""
    info = reader.info
    check_size(info, config)
    check_bands(info, model.spec)
    plan = plan_for(info, model.spec, config)
    placement = place(config.device, config.precision)
    inference = Inference(
        model,
        placement,
        choose_batch(placement, config.batch),
        compiled=config.compile,
    )
    shape = (len(info.bidx), plan.rows[0].size, plan.columns[0].size)
    noise = np.random.default_rng(0).random(shape, np.float32)
    tiles = [noise] * min(inference.batch, len(plan))
    with cpu_threads(config.jobs):
        for _ in range(2):
            since = time.monotonic()
            inference(tiles, ["warm-up"] * len(tiles))
            seconds = (time.monotonic() - since) / len(tiles)
    return Estimate(
        source=info.path,
        model=model.spec.name,
        scale=plan.scale,
        width=plan.out_width,
        height=plan.out_height,
        tiles=len(plan),
        tile=plan.tile,
        batch=inference.batch,
        device=inference.placement.describe(),
        memory_bytes=memory_bytes(info, plan, config, inference.batch),
        output_bytes=output_bytes(info, plan, config),
        free_bytes=free_space(destination),
        seconds=round(seconds * len(plan) * 1.15, 1),
    )

"""Warm-up: how long the parts of a run take here, from a few tiles of the raster itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from georsr.engine.inference import Inference
from georsr.engine.job import Job
from georsr.engine.patch import Prepared, Strip, finish, prepare, restore
from georsr.engine.pipeline import SideBySide
from georsr.raster.encoder import BlockEncoder
from georsr.tiling.plan import Tile
from georsr.types import AnyArray, FloatArray

TIMED_CALLS, ENOUGH_SECONDS = 3, 0.25
"""So many calls of the network are timed, after one that is not, if there is time for them."""


@dataclass(frozen=True)
class Pace:
    """Seconds.

    Attributes
    ----------
    network : float
        Of the network, from one finished tile to the next.
    join : float
        Of everything else that is done with a tile.
    encode : float
        To compress one block, in one thread.
    """

    network: float
    join: float
    encode: float


def measure(job: Job, inference: Inference) -> Pace:
    """Time a tile from the middle of the raster, or noise if nothing is valid there."""
    plan = job.plan
    tile = plan.tile_at(len(plan.rows) // 2, len(plan.columns) // 2)
    window = tile.read.intersection(plan.image_window)
    assert window is not None, "a tile reads some of the image"
    strip = Strip(window, job.read(window))
    ready = prepare(strip, tile, job.stretch) or _noise(job, tile)
    tiles = [ready.pixels] * min(inference.batch, len(plan))
    names = ["warm-up"] * len(tiles)
    lanes = inference.lanes(len(plan))
    with SideBySide(lanes.count, lanes.enter) as side:

        def outputs() -> list[FloatArray]:
            asked = [side.start(lambda: inference(tiles, names)) for _ in range(lanes.count)]
            return [output for answer in asked for output in answer()]

        output = outputs()[0]
        network = _seconds(outputs, TIMED_CALLS) / (len(tiles) * lanes.count)
    planes = _joined(job, strip, tile, ready, output.copy())  # it is made in place, once
    join = _seconds(lambda: _joined(job, strip, tile, ready, output))
    return Pace(network, join, _encoding(job, planes))


def _noise(job: Job, tile: Tile) -> Prepared:
    shape = (len(job.reader.info.bidx), tile.y.size, tile.x.size)
    return Prepared(np.random.default_rng(0).random(shape, np.float32), None)


def _seconds(call: Callable[[], object], times: int = 1) -> float:
    """Of one call: the mean of ``times``, or of as many as there is time for."""
    since, done = time.monotonic(), 0
    while done == 0 or (done < times and time.monotonic() - since < ENOUGH_SECONDS):
        call()
        done += 1
    return (time.monotonic() - since) / done


def _joined(job: Job, strip: Strip, tile: Tile, ready: Prepared, output: FloatArray) -> AnyArray:
    """All that is done with one tile but the network and the blending."""
    prepare(strip, tile, job.stretch)
    values = restore(output, ready.remainder, tile, job.stretch)
    return finish(values, tile.made.scaled(job.plan.scale), strip, job.layout, job.plan.scale)


def _encoding(job: Job, planes: AnyArray) -> float:
    """Seconds to encode a block like these planes."""
    size = job.layout.blocksize
    repeats = (1, -(-size // planes.shape[1]), -(-size // planes.shape[2]))
    values, mask, alpha = job.layout.split(np.tile(planes, repeats)[:, :size, :size])
    if alpha is not None:
        values = np.concatenate([values, alpha[None]])
    values = np.ascontiguousarray(values)
    shade = None if mask is None else np.where(mask != 0, np.uint8(255), np.uint8(0))
    encode = BlockEncoder(job.layout)
    encode(values, shade)
    return _seconds(lambda: encode(values, shade))

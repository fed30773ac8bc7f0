"""Estimate tiles, memory, disk space, time and arithmetic of a run before it starts.

The memory of a process is that of `georsr.jobs.job.memory_bytes`, on workers of
`georsr.distributed.executor`. Time is measured with a few tiles of the raster itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from georsr.config import SRConfig
from georsr.device import DeviceConfig, cpu_threads, import_torch, may_have_accelerator
from georsr.errors import GeorsrError, join_lines
from georsr.inference.blur_and_noise import description_of
from georsr.inference.pipeline import (
    NetworkInput,
    OrderedThreadPool,
    RowStrip,
    denormalize,
    finalize,
    preprocess,
)
from georsr.inference.predictor import (
    MEMBERS,
    TilePredictor,
    n_concurrent_tiles,
    n_forward_passes,
    place_model,
)
from georsr.io.gdal_env import is_remote
from georsr.io.reader import RasterReader
from georsr.jobs.job import (
    MIB,
    SRJob,
    check_memory,
    check_space,
    free_space,
    memory_bytes,
    memory_of,
    output_bytes,
    plan_job,
)
from georsr.models.io import Model
from georsr.quality.write import layers_job, layers_memory
from georsr.radiometry.normalization import calculation_dtype
from georsr.system import UNLIMITED, available_cpus, memory_limit
from georsr.tiling.grid import Tile
from georsr.tiling.partition import TaskGrid
from georsr.window import AnyArray, FloatArray, Window
from georsr.writer.encoder import BlockEncoder, encoders
from georsr.writer.paths import check_destination

if TYPE_CHECKING:
    from georsr.distributed.cluster import Cluster

TIMED_CALLS, ENOUGH_SECONDS = 3, 0.25
"""So many calls of the network are timed, after one that is not, if there is time for them."""


@dataclass(frozen=True)
class Timings:
    """Seconds of the stages of a run, for one tile or block.

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


def time_tiles(job: SRJob, inference: TilePredictor) -> Timings:
    """Time a tile from the middle of the raster, or noise if no pixel is valid there."""
    tile_grid = job.tile_grid
    tile = tile_grid.tile_at(len(tile_grid.rows) // 2, len(tile_grid.columns) // 2)
    window = tile.input_window.intersection(tile_grid.image_window)
    assert window is not None, "a tile reads some of the image"
    strip = RowStrip(window, job.read(window))
    network_input = preprocess(strip, tile, job.normalization) or _noise(job, tile)
    tiles = [network_input.pixels] * min(inference.batch, len(tile_grid))
    names = ["warm-up"] * len(tiles)
    lanes = inference.lanes(len(tile_grid))
    with OrderedThreadPool(lanes.count, lanes.enter) as side:

        def outputs() -> list[FloatArray]:
            pending = [side.submit(lambda: inference(tiles, names)) for _ in range(lanes.count)]
            return [output for result in pending for output in result()]

        output = outputs()[0]
        network = _call_seconds(outputs, TIMED_CALLS) / (len(tiles) * lanes.count)
    planes = _joined(job, strip, tile, network_input, output.copy())  # it is made in place, once
    join = _call_seconds(lambda: _joined(job, strip, tile, network_input, output))
    return Timings(network, join, _encoding(job, planes))


def _noise(job: SRJob, tile: Tile) -> NetworkInput:
    shape = (len(job.reader.info.indexes), tile.y.size, tile.x.size)
    return NetworkInput(np.random.default_rng(0).random(shape, np.float32), None)


def _call_seconds(call: Callable[[], object], times: int = 1) -> float:
    """Return the seconds of one call: the mean of ``times``, or of as many as fit."""
    since, done = time.monotonic(), 0
    while done == 0 or (done < times and time.monotonic() - since < ENOUGH_SECONDS):
        call()
        done += 1
    return (time.monotonic() - since) / done


def _joined(
    job: SRJob, strip: RowStrip, tile: Tile, network_input: NetworkInput, output: FloatArray
) -> AnyArray:
    """Do everything with one tile except prediction and blending."""
    preprocess(strip, tile, job.normalization)
    dtype = calculation_dtype(job.reader.info.dtype)
    values = denormalize(output, network_input.remainder, tile, job.normalization, dtype)
    scale = job.tile_grid.scale
    window = tile.output_window.scaled(scale)
    return finalize(values, window, strip, job.layout, scale, job.normalization)


def _encoding(job: SRJob, planes: AnyArray) -> float:
    """Return the seconds to encode a block like these planes."""
    size = job.layout.blocksize
    repeats = (1, -(-size // planes.shape[1]), -(-size // planes.shape[2]))
    values, mask, alpha = job.layout.split(np.tile(planes, repeats)[:, :size, :size])
    if alpha is not None:
        values = np.concatenate([values, alpha[None]])
    values = np.ascontiguousarray(values)
    mask_u8 = None if mask is None else np.where(mask != 0, np.uint8(255), np.uint8(0))
    encode = BlockEncoder(job.layout)
    encode(values, mask_u8)
    return _call_seconds(lambda: encode(values, mask_u8))


START_SECONDS = 6.0
"""From the plan of a run to the first tile of worker processes, which import all libraries
(measured with two on two busy cores), and their end."""


@dataclass(frozen=True)
class ClusterEstimate:
    """Number of workers, their memory and their share of the work."""

    workers: int
    """Number of workers of the cluster; 0 if the run takes place in this process."""
    memory: int
    """Peak memory of this machine, bytes."""
    worker_memory: int = 0
    """Peak memory of one worker, bytes; 0 if there are none."""
    share: float = 1.0
    """Largest fraction of the tiles that one worker computes."""
    start: float = 0.0
    """Seconds before the first tile."""


def cluster_estimate(job: SRJob, cluster: Cluster | None, parts: str | None) -> ClusterEstimate:
    """Estimate the workers and the memory of a job.

    The workers of ``cluster`` need not have been started; None is this process. ``parts`` is the
    folder of parts, if the output is written in parts.
    """
    if parts is None and cluster is None:
        return ClusterEstimate(0, memory_of(job))
    if parts is None:
        from georsr.distributed.executor import DaskExecutor

        assert cluster is not None, "one of the two is given"
        executor = DaskExecutor(cluster)
        memory, each = executor.memory(job), executor.worker_memory(job)
        return _on_cluster(job, cluster, executor.grid(job), memory, each)
    from georsr.distributed.parts import grid_of, memory_here, part_memory

    memory = memory_here(job, cluster)
    if cluster is None:
        return ClusterEstimate(0, memory)
    return _on_cluster(job, cluster, grid_of(job), memory, part_memory(job, cluster))


def _on_cluster(
    job: SRJob, cluster: Cluster, grid: TaskGrid, memory: int, each: int
) -> ClusterEstimate:
    count = max(1, cluster.count())
    at_once = count if cluster.local is None else min(count, available_cpus())
    largest = len(job.tile_grid.subgrid(grid.window(0).coarser(job.tile_grid.scale)))
    share = max(1 / at_once, largest / len(job.tile_grid))
    start = 0.0 if cluster.local is None else START_SECONDS * -(-count // available_cpus())
    return ClusterEstimate(count, memory, each, share, start)


def check_parts_space(job: SRJob, parts: str) -> None:
    """Refuse parts that may not fit on the disk; existing parts count as free space.

    Raises
    ------
    ResourceError
        As `georsr.jobs.job.check_space`.
    """
    from georsr.distributed.parts import stored_layout

    existing_bytes = sum(path.stat().st_size for path in Path(parts).glob("r*_c*.tif"))
    check_space(stored_layout(job), str(Path(parts) / "part"), job.config, existing_bytes)


EMPTY_RATE = 9e8
"""Bytes a second at which parts without a valid pixel are stored and read back (measured on one
core)."""
VERIFYING = 0.4
"""Reading a block back, in units of encoding it (measured with DEFLATE)."""
PROBES, PROBE = 100, 16
"""Tiles that are looked at for valid pixels, and side of the window in their middle."""


@dataclass(frozen=True)
class RunEstimate:
    """Tiles, memory, disk space and time that a run would take."""

    source: str
    model: str
    scale: int
    width: int
    """Of the output, pixels."""
    height: int
    bands: int
    dtype: str
    tiles: int
    tiles_empty: int
    """Tiles for which the network need not run: about, from a sample of them."""
    tile_size: int
    batch_size: int
    device: str
    workers: int
    """Of a cluster, among which the tiles are shared; 0: one process does it all."""
    worker_memory_bytes: int
    """Peak memory of each of them."""
    memory_bytes: int
    """Peak memory on this machine, with the workers that it is to start."""
    memory_limit_bytes: int
    """Memory all processes may use."""
    device_memory_bytes: int
    """Peak memory of the network on an accelerator; 0 on the CPU."""
    device_memory_limit_bytes: int
    """Memory of the accelerator."""
    output_bytes: int
    """Of the output without compression: an upper bound."""
    free_bytes: int
    """Free on the destination's disk."""
    seconds: float
    """From tiles computed here and now."""
    problems: tuple[str, ...] = ()
    """Why the run would be refused."""
    sensor: str = ""
    """Sensor description that the network would be given; empty if it takes none."""

    def to_json(self) -> str:
        """Return indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def describe(self) -> str:
        """Return a few lines for people."""
        free = "not known how much is" if self.free_bytes == UNLIMITED else _size(self.free_bytes)
        lines = [
            f"source  {self.source}",
            f"model   {self.model}, x{self.scale}, on {self.device}",
            f"output  {self.width} x {self.height} pixels, {self.bands} x {self.dtype}",
            f"tiles   {self.tiles} of {self.tile_size} pixels, {self.batch_size} at a time"
            + (f", about {self.tiles_empty} of them empty" if self.tiles_empty else ""),
            f"memory  about {_size(self.memory_bytes)} of {_size(self.memory_limit_bytes)}",
            f"disk    at most {_size(self.output_bytes)}, {free} free",
            f"time    about {format_duration(self.seconds)}",
        ]
        if self.sensor:
            lines.insert(2, f"sensor  {self.sensor}")
        if self.workers:
            lines.insert(-3, f"workers {self.workers}, {_size(self.worker_memory_bytes)} each")
        if self.device_memory_bytes:
            used, limit = self.device_memory_bytes, self.device_memory_limit_bytes
            lines.insert(-2, f"device  about {_size(used)} of {_size(limit)}")
        return join_lines([*lines, *(f"refused {problem}" for problem in self.problems)])


def estimate_run(
    reader: RasterReader,
    destination: str | None,
    model: Model,
    config: SRConfig,
    quality: str | None = None,
    cluster: Cluster | None = None,
    parts: str | None = None,
) -> RunEstimate:
    """Plan a run and time a few of its tiles.

    Parameters
    ----------
    reader, model, config
        What to run, and how.
    destination
        Path of the output; None if it is not decided yet.
    quality
        Path of quality layers, if they are written too.
    cluster
        Cluster that computes the output; None for this process. Its workers are not used here.
    parts
        Folder of parts, if the output is written in parts.
    """
    if parts is not None:
        config = replace(config, cog=True)
    placed = None if cluster is None else cluster.placement
    job = plan_job(reader, destination or "OUT", model, config, placed)
    tile_grid, layout, placement = job.tile_grid, job.layout, _timed(job)
    inference = TilePredictor.from_config(job.model, config, placement)
    with cpu_threads(_threads(config, cluster)):
        pace = time_tiles(job, inference)
    force = cluster_estimate(job, cluster, parts)
    memory = force.memory
    if cluster is None and parts is None:
        at_once = n_concurrent_tiles(placement, model.spec, config, len(tile_grid), inference.batch)
        memory = memory_bytes(job, placement, at_once)
    on_device = _device_memory(placement)
    empty = _empty_tiles(job)
    seconds = force.start + _seconds(
        job, pace, empty, overlapping=inference.overlaps, share=force.share
    )
    stored = output_bytes(layout) if parts is None else layout.raw_bytes
    problems = _problems(job, destination, memory, parts)
    if quality is not None:
        layers = layers_job(job, quality, "")
        pace = _pace_of_layers(pace, job, layers)
        seconds += _seconds(layers, pace, empty, overlapping=inference.overlaps)
        stored += output_bytes(layers.layout)
        memory = max(memory, layers_memory(layers))
        problems += tuple(p for p in _problems(layers, quality, memory) if p not in problems)
    return RunEstimate(
        source=reader.info.path,
        model=model.spec.name,
        scale=tile_grid.scale,
        width=layout.width,
        height=layout.height,
        bands=layout.count,
        dtype=layout.dtype,
        tiles=len(tile_grid),
        tiles_empty=empty,
        tile_size=tile_grid.tile,
        batch_size=inference.batch,
        workers=force.workers,
        worker_memory_bytes=force.worker_memory,
        device=placement.describe(),
        memory_bytes=memory,
        memory_limit_bytes=memory_limit(),
        device_memory_bytes=on_device[0],
        device_memory_limit_bytes=on_device[1],
        output_bytes=stored,
        free_bytes=free_space(job.destination if parts is None else f"{parts}/part"),
        seconds=round(seconds, 1),
        problems=problems,
        sensor=str(description_of(job.model) or ""),
    )


def _timed(job: SRJob) -> DeviceConfig:
    """Return the device on which tiles are timed: that of the run if this machine has it."""
    if job.placement.type == "cuda" and not may_have_accelerator():
        on_cpu = replace(job.config, device="cpu", precision="fp32", fast=False)
        return place_model(job.model, on_cpu)
    return job.placement


def _threads(config: SRConfig, cluster: Cluster | None) -> int | None:
    """Return the threads of one network; on workers elsewhere 1, unless the options say more."""
    return config.num_threads if cluster is None else cluster.config.num_threads or 1


def _problems(
    job: SRJob, destination: str | None, memory: int, parts: str | None = None
) -> tuple[str, ...]:
    config = job.config

    def check_disk() -> None:
        if parts is None:
            check_space(job.layout, job.destination, config, job.partial_file_bytes())
        else:
            check_parts_space(job, parts)

    checks: list[Callable[[], None]] = [check_disk, lambda: check_memory(memory, config)]
    if destination is not None:
        # whether it is one of the sources, whoever asks for the estimate has checked
        checks.insert(0, lambda: check_destination(destination, [], config.overwrite))
    problems = []
    for check in checks:
        try:
            check()
        except GeorsrError as error:
            problems.append(str(error))
    return tuple(problems)


def _seconds(
    job: SRJob, pace: Timings, empty: int, *, overlapping: bool, share: float = 1.0
) -> float:
    """Return the seconds of a run; ``share`` is that of `ClusterEstimate`."""
    tiles, layout = len(job.tile_grid), job.layout
    alone = max(pace.network, pace.join) if overlapping else pace.network + pace.join
    full = 1 - empty / tiles
    encoding = full * layout.blocks_count * pace.encode
    verifying = VERIFYING * encoding if job.config.verify else 0.0
    storing = (1 - full) * layout.raw_bytes / EMPTY_RATE
    return max(share * (tiles - empty) * alone, encoding / encoders()) + verifying + storing


def _pace_of_layers(pace: Timings, job: SRJob, layers: SRJob) -> Timings:
    """Return the timings of quality layers from those of the output."""
    ratio = layers.layout.raw_bytes / job.layout.raw_bytes
    return Timings(
        pace.network * MEMBERS / n_forward_passes(job.config.tta),
        pace.join * ratio,
        pace.encode * ratio,
    )


def _empty_tiles(job: SRJob) -> int:
    """Return the number of tiles without a valid pixel, estimated from a sample."""
    tile_grid, info, area = job.tile_grid, job.reader.info, job.area
    inside: Sequence[int] = range(len(tile_grid))
    if area is not None and area.outline is not None:
        inside = np.flatnonzero(
            area.intersects_each([tile.output_window for tile in tile_grid])
        ).tolist()
    outside = len(tile_grid) - len(inside)
    if (info.mask_kind == "none" and np.dtype(info.dtype).kind != "f") or is_remote(info.path):
        return outside
    looked = inside[:: max(1, len(inside) // PROBES)]
    empty = sum(not _has_pixels(job, index) for index in looked)
    return outside + len(inside) * empty // max(1, len(looked))


def _has_pixels(job: SRJob, index: int) -> bool:
    """Return whether a pixel is valid in the middle of a tile."""
    tile_grid = job.tile_grid
    tile = tile_grid.tile_at(*divmod(index, len(tile_grid.columns)))
    window = tile.output_window.intersection(Window(0, 0, tile_grid.height, tile_grid.width))
    assert window is not None, "a tile computes some of the output"
    height, width = min(PROBE, window.height), min(PROBE, window.width)
    down, right = (window.height - height) // 2, (window.width - width) // 2
    middle = Window(window.top + down, window.left + right, height, width)
    return bool(job.read(middle).valid.any())


def _device_memory(placement: DeviceConfig) -> tuple[int, int]:
    """Return (peak, total) memory of a CUDA device in bytes; (0, 0) for others."""
    if placement.type != "cuda":
        return 0, 0
    torch = import_torch()
    total = torch.cuda.get_device_properties(placement.device).total_memory
    return torch.cuda.max_memory_reserved(placement.device), total


def _size(count: int) -> str:
    return f"{count / MIB:.0f} MiB" if count < 10 * 1024 * MIB else f"{count / MIB / 1024:.1f} GiB"


def format_duration(seconds: float) -> str:
    """Format seconds as hours and minutes, or as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@dataclass(frozen=True)
class Complexity:
    """Parameters and multiply-accumulates of a network."""

    parameters: int
    """Number of learned values."""
    macs: int
    """Multiply-accumulates of convolutions and matrix products for one tile."""

    @property
    def gmacs(self) -> float:
        """Billions of multiply-accumulates."""
        return self.macs / 1e9


def complexity(network: Any, bands: int, size: int) -> Complexity:
    """Count the parameters and the multiply-accumulates of one tile.

    Parameters
    ----------
    network : torch.nn.Module
        Network on any device; it is not changed.
    bands
        Bands of the tile; 0 (any number) counts as one.
    size
        Height and width of the tile in input pixels.

    Notes
    -----
    The network runs on meta tensors, so this takes milliseconds for any size. Element-wise
    operations, normalisation and interpolation are not counted.
    """
    torch = import_torch("counting multiply-accumulates")
    from torch.func import functional_call
    from torch.utils.flop_counter import FlopCounterMode

    state = {
        name: value.to("meta")
        for name, value in chain(network.named_parameters(), network.named_buffers())
    }
    tile = torch.empty(1, max(1, bands), size, size, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        functional_call(network, state, (tile,))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2)

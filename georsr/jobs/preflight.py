"""Check size, disk space and memory of a run before its first tile."""

from __future__ import annotations

import shutil

import numpy as np

from georsr.config import SRConfig
from georsr.errors import ResourceError, UsageError
from georsr.io.gdal_env import CACHE_BYTES
from georsr.io.metadata import RasterInfo
from georsr.io.reader import RasterReader
from georsr.system import memory_limit
from georsr.tiling.grid import TileGrid
from georsr.writer.layout import OutputLayout
from georsr.writer.paths import temp_paths

MIB = 2**20
BASE_MEMORY = 650 * MIB
"""Memory of Python, torch and GDAL before any work (measured: 570 MiB with the CUDA build of torch
on Linux, and 64 MiB of GDAL's block cache)."""
ACTIVATIONS = 14
"""Feature planes that a network holds at the same time, relative to its widest layer's input."""
WAITING_BLOCKS = 24
"""Largest number of blocks that wait for the writer or are being encoded."""


def check_size(info: RasterInfo, config: SRConfig) -> None:
    """Refuse a raster whose header declares too many pixels, before anything is allocated."""
    pixels = info.width * info.height
    if pixels > config.max_pixels:
        raise UsageError(
            f"{info.path}: declares {info.width} x {info.height} = {pixels} pixels, more than "
            f"--max-pixels {config.max_pixels}; raise it if that is right"
        )


def free_space(destination: str) -> int:
    """Return the free bytes of the disk on which ``destination`` is written."""
    folder = temp_paths(destination).part.parent
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def output_bytes(layout: OutputLayout) -> int:
    """Return the size of the output without compression, with the copy that a COG needs."""
    return layout.raw_bytes * 5 // 2 if layout.cog_options is not None else layout.raw_bytes


def check_space(
    layout: OutputLayout, destination: str, config: SRConfig, existing: int = 0
) -> None:
    """Refuse an output that may not fit on the disk.

    Parameters
    ----------
    layout
        Layout of the output.
    destination
        Path of the output.
    config
        Options of the run.
    existing
        Bytes of the output that an interrupted run has already written.

    Raises
    ------
    ResourceError
        The uncompressed output does not fit into the free space.
    """
    needed, free = output_bytes(layout), free_space(destination) + existing
    if config.check_resources and needed > free:
        raise ResourceError(
            f"{destination}: the output takes up to {needed / MIB:.0f} MiB, "
            f"{free / MIB:.0f} MiB are free; make room, or use --no-check-resources if compression "
            "will do"
        )


def memory_bytes(
    reader: RasterReader, plan: TileGrid, layout: OutputLayout, n_concurrent: int, on_cpu: bool
) -> int:
    """Return the peak memory of a process in bytes.

    Parameters
    ----------
    reader
        Source.
    plan
        Grid of the tiles.
    layout
        Layout of the output.
    n_concurrent
        Number of tiles that are computed at the same time.
    on_cpu
        Whether the network runs on the CPU, so that its features are in this memory, too.
    """
    info, s = reader.info, plan.scale
    bands = len(info.indexes)
    columns = plan.row_window(0).width
    strips = 3 * plan.tile * columns * bands * (np.dtype(info.dtype).itemsize + 1)
    overlap = plan.overlap * s * columns * s * bands * 4
    row = layout.blocksize * layout.planes * np.dtype(layout.dtype).itemsize
    blocks = row * (plan.out_width + WAITING_BLOCKS * min(layout.blocksize, plan.out_width))
    features = n_concurrent * plan.tile**2 * 4 * ACTIVATIONS * 48 if on_cpu else 0
    tile = n_concurrent * (plan.tile * s) ** 2 * bands * 4 * 6
    cache = max(0, reader.cache * columns // info.width - CACHE_BYTES)
    return int(BASE_MEMORY + cache + strips + overlap + blocks + features + tile)


def check_memory(needed: int, config: SRConfig) -> None:
    """Refuse a run that does not fit into memory.

    Raises
    ------
    ResourceError
        The run needs more memory than this machine has.
    """
    limit = memory_limit()
    if config.check_resources and needed > limit:
        raise ResourceError(
            f"the run takes about {needed / MIB:.0f} MiB of memory, this machine has "
            f"{limit / MIB:.0f} MiB; use a smaller --tile or --blocksize, work in parts with "
            "--bbox, or use --no-check-resources to try"
        )

"""Preflight: everything that can be refused before the first tile."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from georsr.config import SRConfig
from georsr.errors import ResourceError, UsageError
from georsr.models.spec import ModelSpec
from georsr.raster.aoi import Area
from georsr.raster.info import RasterInfo
from georsr.tiling.plan import TilePlan, make_plan

MIB = 2**20


def check_bands(info: RasterInfo, spec: ModelSpec) -> None:
    """Refuse a band count the model was not made for.

    Raises
    ------
    UsageError
        Names the bands there are and how to choose.
    """
    if spec.bands and len(info.bidx) != spec.bands:
        available = ", ".join(info.band_labels())
        raise UsageError(
            f"{info.path}: model {spec.name} takes {spec.bands} bands "
            f"({', '.join(spec.band_names)}), got {len(info.bidx)}; "
            f"choose with --bidx, in that order, from: {available}"
        )


def plan_for(
    info: RasterInfo, spec: ModelSpec, config: SRConfig, area: Area | None = None
) -> TilePlan:
    """The tiles of a run: the model's contract, unless the options say otherwise.

    The tiles of an area are those of the whole raster, so that its pixels are the same.
    """
    halo = spec.halo if config.halo is None else config.halo
    overlap = spec.overlap if config.overlap is None else config.overlap
    if config.blend == "crop":
        halo, overlap = halo + overlap // 2, overlap % 2
    plan = make_plan(
        info.height,
        info.width,
        scale=spec.scale,
        tile=config.tile or spec.tile,
        halo=halo,
        overlap=overlap,
        multiple_of=spec.multiple_of,
    )
    return plan if area is None else plan.crop(area.window)


def check_size(info: RasterInfo, config: SRConfig) -> None:
    """Refuse a raster whose header declares an absurd size, before anything is allocated."""
    pixels = info.width * info.height
    if pixels > config.max_pixels:
        raise UsageError(
            f"{info.path}: declares {info.width} x {info.height} = {pixels} pixels, more than "
            f"--max-pixels {config.max_pixels}; raise it if that is right"
        )


def free_space(destination: str) -> int:
    """Free bytes on the disk that will hold ``destination`` (unlimited for remote paths)."""
    if destination.startswith("/vsi") or "://" in destination:
        return 2**63 - 1
    folder = Path(destination).absolute().parent
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def output_bytes(info: RasterInfo, plan: TilePlan, config: SRConfig) -> int:
    """Size of the product without compression, with the second copy a COG needs."""
    item = np.dtype(config.dtype or info.dtype).itemsize
    once = plan.out_height * plan.out_width * item * (len(info.bidx) + 1)
    return once * 5 // 2 if config.cog else once


def check_space(info: RasterInfo, plan: TilePlan, destination: str, config: SRConfig) -> None:
    """Refuse to start what the disk may not hold.

    Raises
    ------
    ResourceError
        The uncompressed product is larger than what is free.
    """
    needed, free = output_bytes(info, plan, config), free_space(destination)
    if config.check_space and needed > free:
        raise ResourceError(
            f"{destination}: the product takes up to {needed / MIB:.0f} MiB, "
            f"{free / MIB:.0f} MiB are free; make room, or use --no-check-space if compression "
            "will do"
        )

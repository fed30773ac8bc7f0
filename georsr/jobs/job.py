"""Plan a job: decide everything about a run before its first tile; check disk and memory.

The key of a run (`run_key`) lists everything its output depends on: two runs with the same key
write the same output, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from georsr.config import OPTIONS, SRConfig
from georsr.device import DeviceConfig
from georsr.errors import (
    GeoreferenceWarning,
    InputError,
    MetadataWarning,
    RadiometryWarning,
    ResourceError,
    UsageError,
)
from georsr.inference.blur_and_noise import (
    description_of,
    probe_windows,
    resolve_kernel,
    with_scene_sensor,
)
from georsr.inference.consistency import requested_kernel
from georsr.inference.model_bands import check_bands, with_found_colors
from georsr.inference.pipeline import tile_grid_of
from georsr.inference.predictor import choose_batch, n_concurrent_tiles, place_model
from georsr.io.gdal_env import CACHE_BYTES, is_remote
from georsr.io.metadata import RasterInfo, reject_non_images, window_metadata
from georsr.io.reader import RasterReader, choose_normalization, warn_once
from georsr.models.io import Model
from georsr.models.registry import COMPUTED_ARCHITECTURES
from georsr.progress import Progress, never
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.normalization import Normalization
from georsr.reports import RunReport, georsr_version, output_tags
from georsr.system import UNLIMITED, memory_limit
from georsr.tiling.grid import TileGrid, spread_starts
from georsr.window import MAX_SIDE, AnyArray, BoolArray, PixelBlock, Window
from georsr.writer.layout import OutputLayout, output_layout
from georsr.writer.paths import is_virtual, paths_behind_vsi, temp_paths
from georsr.writer.resumable_tiff import Journal

if TYPE_CHECKING:
    from georsr.geo.aoi import AreaOfInterest

MIB = 2**20
BASE_MEMORY = {"torch": 650 * MIB, "onnx": 160 * MIB}
"""Memory of Python, GDAL and a backend before any work (measured on Linux: 570 MiB with the CUDA
build of torch, 90 MiB without torch; and 64 MiB of GDAL's block cache)."""
ACTIVATIONS = {"torch": 14, "onnx": 28}
"""Feature planes that a network holds at the same time, relative to its widest layer's input."""
WAITING_BLOCKS = 24
"""Largest number of blocks that wait for the writer or are being encoded."""


def check_size(info: RasterInfo, scale: int, config: SRConfig) -> None:
    """Refuse a raster whose header declares too many pixels, before anything is allocated."""
    if scale * max(info.width, info.height) > MAX_SIDE:
        raise UsageError(
            f"{info.path}: the output would have {scale * info.height} rows and "
            f"{scale * info.width} columns, more than the {MAX_SIDE} of a GeoTIFF; choose an area "
            "(--bbox)"
        )
    pixels = info.width * info.height
    if pixels > config.max_pixels:
        raise UsageError(
            f"{info.path}: declares {info.width} x {info.height} = {pixels} pixels, more than "
            f"--max-pixels {config.max_pixels}; raise it if that is right"
        )


def free_space(destination: str) -> int:
    """Return the free bytes of the disk on which ``destination`` is written.

    `UNLIMITED` where the file system does not know its size, such as ramfs.
    """
    folder = temp_paths(destination).part.parent
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else UNLIMITED


def output_bytes(layout: OutputLayout) -> int:
    """Return the size of the output without compression, with the copy that a COG needs."""
    return layout.raw_bytes * 5 // 2 if layout.cog_options is not None else layout.raw_bytes


def check_space(
    layout: OutputLayout, destination: str, config: SRConfig, existing: int = 0
) -> None:
    """Refuse an output that may not fit on the disk.

    ``existing`` bytes of it have been written by an interrupted run.

    Raises
    ------
    ResourceError
        The uncompressed output does not fit into the free space.
    """
    needed, free = output_bytes(layout), free_space(destination) + existing
    if config.check_resources and needed > free:
        raise ResourceError(
            f"{destination}: the output takes up to {needed / MIB:.0f} MiB, "
            f"{free / MIB:.0f} MiB are free; make room, or use --no-check-resources if you "
            "expect compression to suffice"
        )


def memory_bytes(job: SRJob, placement: DeviceConfig, n_concurrent: int) -> int:
    """Return the peak memory in bytes of a process that computes ``n_concurrent`` tiles at once.

    On a CPU, the features of a network are in this memory, too.
    """
    tile_grid, layout = job.tile_grid, job.layout
    info, s = job.reader.info, tile_grid.scale
    bands = len(info.indexes)
    columns = tile_grid.row_window(0).width
    strips = 3 * tile_grid.tile * columns * bands * (np.dtype(info.dtype).itemsize + 1)
    overlap = tile_grid.overlap * s * columns * s * bands * 4
    row = layout.blocksize * layout.planes * np.dtype(layout.dtype).itemsize
    blocks = row * (
        tile_grid.out_width + WAITING_BLOCKS * min(layout.blocksize, tile_grid.out_width)
    )
    has_features = placement.type == "cpu" and not job.model.interpolates
    features = ACTIVATIONS[placement.backend] * 48 * tile_grid.tile**2 * 4 if has_features else 0
    tile = (tile_grid.tile * s) ** 2 * bands * 4 * 6
    cache = max(0, job.reader.cache * columns // info.width - CACHE_BYTES)
    base = BASE_MEMORY[placement.backend]
    return int(base + cache + strips + overlap + blocks + n_concurrent * (features + tile))


def check_memory(needed: int, config: SRConfig) -> None:
    """Raise ResourceError if a run needs more bytes of memory than this machine has."""
    limit = memory_limit()
    if config.check_resources and needed > limit:
        raise ResourceError(
            f"the run takes about {needed / MIB:.0f} MiB of memory, this machine has "
            f"{limit / MIB:.0f} MiB for it; use a smaller --tile or --blocksize, fewer --workers, "
            "work in parts with --bbox, or use --no-check-resources to try"
        )


N_SAMPLES, SAMPLE_BYTES = 64, 16 * 1024
"""Number and size of the samples of a source's files that its hash covers: one megabyte of any
source, which a disk reads in at most a second."""


def run_key(
    reader: RasterReader,
    model: Model,
    config: SRConfig,
    placement: DeviceConfig,
    area: AreaOfInterest | None = None,
) -> dict[str, str]:
    """Return everything an output depends on, as name -> value; for the source see `source_hash`.

    ``area`` is None for the full raster.
    """
    options = {
        name: json.dumps(value, sort_keys=True)
        for name, value in asdict(config).items()
        if OPTIONS[name].affects in ("pixels", "file")
    }
    return {
        "source": source_hash(reader),
        "model": f"{model.spec.name} {model.digest(placement)[:16]}",
        "software": f"georsr {georsr_version()} with {placement.library}",
        "arithmetic": f"{placement.precision} on {placement.type}",
        "area": "everything" if area is None else area.describe(),
        **options,
    }


def source_hash(reader: RasterReader) -> str:
    """Hash a source: its header and, of its files, size, modification time and samples.

    For remote sources, which have no local files, samples of their pixels count.
    """
    info = reader.info
    digest = hashlib.sha256(repr(replace(info, path="", files=(), notes=())).encode())
    files = [tuple(_paths(name)) for name in info.files]
    for paths in files:
        for path in paths:
            digest.update(_file_state(path, N_SAMPLES // len(files)))
    if not all(files) or not files:
        for window in _sample_windows(info.height, info.width):
            pixels = np.ascontiguousarray(reader.read(window).values)
            digest.update(f"{zlib.crc32(pixels.tobytes())}".encode())
    return digest.hexdigest()[:16]


def check_unchanged(reader: RasterReader, digest: str) -> None:
    """Raise InputError if a source has changed since its `source_hash` was computed."""
    try:
        same = source_hash(reader) == digest
    except FileNotFoundError:
        same = False
    if not same:
        raise InputError(
            f"{reader.info.path}: has changed while it was read, so that a part of the output "
            "would be of the old file and a part of the new one; nothing is written: run again "
            "once the file is complete"
        )


def _paths(name: str) -> Iterable[Path]:
    """Return the paths behind a name, independent of the current folder."""
    path = Path(name)
    paths = [path] if path.is_file() else paths_behind_vsi(name)
    return dict.fromkeys(path.resolve() for path in paths)


def _file_state(path: Path, samples: int) -> bytes:
    """Return name, size and time of a file, and a checksum of samples of its bytes.

    Size and time alone do not suffice: programs may set the time of another file.
    """
    status = path.stat()
    checksum = 0
    with path.open("rb", buffering=0) as file:
        for start in spread_starts(status.st_size, SAMPLE_BYTES, max(2, samples)):
            file.seek(start)
            checksum = zlib.crc32(file.read(SAMPLE_BYTES), checksum)
    return f"{path.name} {status.st_size} {status.st_mtime_ns} {checksum}".encode()


MAX_REPEAT = 5
"""Largest upsampling factor that is detected."""
MIN_CHANGES = 12
"""Smallest number of changes between neighbouring pixels that shows a pattern."""


def pixel_replication(values: AnyArray) -> tuple[int, int] | None:
    """Detect by what factors an image (C, h, w) was upsampled by nearest neighbour.

    Returns the factors along rows and columns, 1 for an image that was not upsampled. None if too
    few neighbouring pixels differ.
    """
    rows, columns = _replication(values), _replication(values.swapaxes(1, 2))
    return None if rows is None or columns is None else (rows, columns)


def _replication(values: AnyArray) -> int | None:
    """Return the factor along the rows of (C, h, w)."""
    changes = (values[:, 1:] != values[:, :-1]).any((0, 2)).nonzero()[0]
    if len(changes) < MIN_CHANGES:
        return None
    return next(
        n for n in range(MAX_REPEAT, 0, -1) if n == 1 or len(set((changes % n).tolist())) == 1
    )


def _sample_windows(height: int, width: int) -> list[Window]:
    """Return small windows in the corners and the middle of a raster."""
    h, w = min(64, height), min(64, width)
    return [
        Window((height - h) * i // 2, (width - w) * j // 2, h, w)
        for i, j in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2))
    ]


def warn_noise_dominated(reader: RasterReader, model: str) -> None:
    """Warn that consistency is off because noise dominates the scene."""
    warn_once(
        reader,
        f"{reader.info.path}: the scene is dominated by noise: consistency is off, because it "
        f"would restore the noise that {model} removes; --consistency on overrides this",
        RadiometryWarning,
    )


SPECK_RUN = 2
"""Largest height and width of isolated nodata pixels, in pixels."""


def warn_specks(reader: RasterReader, scale: int) -> None:
    """Warn if pixels with the nodata value lie isolated among valid ones, as saturated ones do.

    Only values that bright or dark pixels of the data type may have are suspected.
    """
    info = reader.info
    limits = np.iinfo(info.dtype) if info.dtype.startswith("uint") else None
    suspects = () if limits is None else (limits.max, *([0] if limits.max == 255 else []))
    value = info.nodata[0]
    if info.mask_kind != "nodata" or value not in suspects:
        return
    specks = pixels = 0
    for window in probe_windows(info.height, info.width):
        valid = reader.read(window).valid
        holes = ~valid.reshape(-1, *valid.shape[-2:])
        specks += int((holes & ~large_areas(holes, SPECK_RUN + 1)).any(0).sum())
        pixels += valid[0].size
    if specks:
        warn_once(
            reader,
            f"{info.path}: {specks} of {pixels} sampled pixels hold the nodata value {value:g} "
            "isolated among valid ones, as dark or saturated pixels do: each becomes a hole of "
            f"{scale} x {scale} pixels; --nodata none keeps them",
            RadiometryWarning,
        )


def large_areas(mask: BoolArray, side: int) -> BoolArray:
    """Return the pixels of masks (..., h, w) that are connected to a square of pixels inside.

    ``side`` is the height and width of the square. Pixels of neighbouring masks are connected, too.
    """
    if min(mask.shape[-2:]) < side:
        return np.zeros_like(mask)
    corners = sliding_window_view(mask, (side, side), (-2, -1)).all((-2, -1))
    areas = np.zeros_like(mask)
    for row, column in np.ndindex(side, side):
        height, width = corners.shape[-2:]
        areas[..., row : row + height, column : column + width] |= corners
    while True:
        grown = areas.copy()
        for axis in range(mask.ndim):
            old, new = np.moveaxis(areas, axis, 0), np.moveaxis(grown, axis, 0)
            new[1:] |= old[:-1]
            new[:-1] |= old[1:]
        grown &= mask
        if np.array_equal(grown, areas):
            return areas
        areas = grown


def warn_negative(reader: RasterReader, layout: OutputLayout) -> None:
    """Warn if an output cannot say that 0 is white, as its source does."""
    if reader.info.min_is_white and layout.cog_options is not None:
        warn_once(
            reader,
            f"{reader.info.path}: shows 0 as white (MINISWHITE), which a COG cannot say: the "
            "output looks like a negative; write a GeoTIFF without --cog",
            RadiometryWarning,
        )


def warn_lost_digits(reader: RasterReader, normalization: Normalization) -> None:
    """Warn if integers differ by less than a network's float32 tells apart in its range."""
    ranges = zip(normalization.lo, normalization.hi, strict=True)
    step = max(high - low for low, high in ranges) / 2**24
    if reader.info.dtype in ("uint32", "int32") and step > 1:
        warn_once(
            reader,
            f"{reader.info.path}: a network tells 2**24 values apart, so that differences below "
            f"{step:.3g} are rounded away; use a narrower --stretch LO,HI, or --model bicubic",
            RadiometryWarning,
        )


def warn_upsampled(reader: RasterReader) -> None:
    """Warn if an image seems to be upsampled by nearest neighbour."""
    info = reader.info
    for window in probe_windows(info.height, info.width):
        factors = pixel_replication(reader.read(window).values)
        if factors is None:
            continue
        down, across = factors
        if min(factors) > 1:
            warn_once(
                reader,
                f"{info.path}: every pixel stands there {down} x {across} times, as nearest "
                "neighbour enlarges images; a network sharpens the edges of such blocks. Take one "
                f"of each first: gdal_translate -r nearest -outsize {100 / across:g}% "
                f"{100 / down:g}%",
                RadiometryWarning,
            )
        return


def warn_output(reader: RasterReader) -> None:
    """Warn if the source, or a raster of a mosaic, is an output of georsr."""
    outputs = [info for info in reader.rasters if "GEORSR_MODEL" in info.tags.get("", {})]
    if not outputs:
        return
    tags = outputs[0].tags[""]
    text = (
        f"{outputs[0].path}: is an output of georsr ({tags['GEORSR_MODEL']}, "
        f"x{tags.get('GEORSR_SCALE', '?')}); its detail was not measured"
    )
    if len(outputs) > 1:
        text += f"; outputs in the mosaic: {len(outputs)}"
    warn_once(reader, text, RadiometryWarning)


def warn_metadata(reader: RasterReader, layout: OutputLayout) -> None:
    """Warn about metadata of the source that the output does not have, or has in another form."""
    path = reader.info.path
    if layout.left_out:
        text = f"{path}: not in the output: {'; '.join(layout.left_out)}"
        warn_once(reader, text, MetadataWarning)
    if layout.crs_note:
        warn_once(reader, f"{path}: {layout.crs_note}", GeoreferenceWarning)


@dataclass(frozen=True)
class SRJob:
    """A planned run: created by `plan_job`, carried out by `georsr.jobs.run`."""

    reader: RasterReader
    """Source; it is pickled as path and options."""
    destination: str
    """Path of the output."""
    model: Model
    """Model to run."""
    config: SRConfig
    """Options of the run."""
    placement: DeviceConfig
    """Device and precision of the network."""
    normalization: Normalization
    """Normalization of the complete scene."""
    layout: OutputLayout
    """Layout of the output; its blocks are written and listed in the journal."""
    tile_grid: TileGrid
    """Grid of the tiles, anchored to the source."""
    key: dict[str, str]
    """Key of the run; see `run_key`."""
    area: AreaOfInterest | None = None
    """Part of the source to super-resolve; None for all of it."""
    kernel: Kernel | None = None
    """Kernel with which the downsampled output must match its source; None: it need not."""

    def with_tile(self, tile: int) -> SRJob:
        """Return the same job with tiles of another size."""
        config = replace(self.config, tile_size=tile)
        tile_grid = tile_grid_of(self.reader.info, self.model.spec, config, self.area)
        return replace(self, tile_grid=tile_grid)

    def part(self, window: Window) -> SRJob:
        """Return the job of a part of the output; its tiles compute the same pixels.

        ``window`` is in source pixels, relative to the corner of this job's tile grid. The grid of
        the part starts at its own corner; the layout remains that of the full output.
        """
        from georsr.geo.aoi import AreaOfInterest

        info = self.reader.info
        area = self.area or AreaOfInterest(Window(0, 0, info.height, info.width))
        return replace(self, tile_grid=self.tile_grid.subgrid(window), area=area.part(window))

    def standalone_part(self, window: Window) -> SRJob:
        """Return the job of a part as `part` does, but with a layout for a separate output file."""
        part = self.part(window)
        scene = (self.reader.info, part.area, self.normalization, self.kernel)
        return replace(part, layout=_layout(*scene, self.model, self.config, self.placement))

    def read(self, window: Window) -> PixelBlock:
        """Read a window of the source; coordinates start at the corner of the area.

        A window outside the area is not read; all its pixels are invalid.
        """
        if self.area is None:
            return self.reader.read(window)
        if self.area.intersects(window):
            return self.reader.read(window.moved(self.area.window.top, self.area.window.left))
        return self.reader.invalid_block(window.height, window.width)

    def partial_file_bytes(self) -> int:
        """Return the size of the partial file of an interrupted run."""
        part = temp_paths(self.destination).part
        resumable = self.journal().previous_tile_size() is not None and part.exists()
        return part.stat().st_size if resumable else 0

    def journal(self) -> Journal:
        """Return the journal of the job; nothing is read or written yet."""
        return Journal(
            temp_paths(self.destination).journal,
            self.destination,
            self.key,
            self.tile_grid.tile,
            resume=self.config.resume,
            remote=is_remote(self.reader.info.path),
        )


def area_of(info: RasterInfo, config: SRConfig) -> AreaOfInterest | None:
    """Return the area of interest in the options; None for the full raster."""
    if config.bounds is None and config.aoi is None:
        return None
    from georsr.geo.aoi import resolve_aoi

    return resolve_aoi(
        info,
        bounds=config.bounds,
        bounds_crs=config.bounds_crs,
        aoi=config.aoi,
        masked=config.aoi_mask,
    )


def memory_of(job: SRJob) -> int:
    """Return the peak memory of a process that carries out a job, in bytes."""
    batch = choose_batch(job.placement, job.config.batch_size)
    n_concurrent = n_concurrent_tiles(
        job.placement, job.model.spec, job.config, len(job.tile_grid), batch
    )
    return memory_bytes(job, job.placement, n_concurrent)


@dataclass(frozen=True)
class RunRequest:
    """What the caller of a run asks for."""

    reader: RasterReader
    """Source; it is read from another thread until the run ends."""
    destination: str
    """Path of the output. It appears complete and verified, or not at all."""
    model: Model
    config: SRConfig
    progress: Progress | None = None
    """Receives the number of finished tiles."""
    should_stop: Callable[[], bool] = never
    """Called after each tile; when it returns True the run ends and keeps the finished blocks."""
    on_published: Callable[[RunReport], None] = lambda report: None
    """Called with the report once the output is published. If the process is killed or fails during
    the call, the same run calls it again."""


def plan_and_check(
    request: RunRequest,
    placement: DeviceConfig | None = None,
    memory: Callable[[SRJob], int] = memory_of,
) -> SRJob:
    """Plan a run, and refuse one that does not fit on the disk or into memory.

    ``memory`` returns the peak memory of the run on this machine, in bytes.

    Raises
    ------
    ResourceError
        Disk space or memory is too small.
    UsageError, InputError
        As for `plan_job`.
    """
    config = request.config
    job = plan_job(request.reader, request.destination, request.model, config, placement)
    check_space(job.layout, request.destination, config, job.partial_file_bytes())
    check_memory(memory(job), config)
    return job


def plan_job(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    placement: DeviceConfig | None = None,
    *,
    warn: bool = True,
) -> SRJob:
    """Check and plan a run, without writing anything or using the device.

    If an unfinished run with the same key had to reduce the tile size after running out of memory,
    its tile size is used.

    Parameters
    ----------
    placement
        Device and precision if workers compute; None determines them from ``config``.
    warn
        Issue warnings about the scene; False if the output already exists.

    Raises
    ------
    UsageError, InputError
        The run is not possible. The destination is not checked: the writer does that.
    """
    info = reader.info
    area = area_of(info, config)
    check_size(_part_of(info, area), model.spec.scale, config)
    check_bands(info, model.spec)
    is_network = model.spec.architecture not in COMPUTED_ARCHITECTURES
    if is_network and not config.force:
        reject_non_images(info, model.spec.name)
    placement = placement or place_model(model, config)
    normalization = choose_normalization(reader, config.stretch)
    scene = (reader.read, info.height, info.width, normalization)
    model = with_scene_sensor(*scene, model, config, placement)
    kernel = resolve_kernel(*scene, model, config, placement)
    layout = _layout(info, area, normalization, kernel, model, config, placement)
    if layout.world_file and is_virtual(destination):
        raise UsageError(
            f"{destination}: is not a local file, so that TFW=YES cannot write next to it; create "
            "the world file afterwards, with gdal_translate -co TFW=YES OUT COPY"
        )
    tile_grid = tile_grid_of(info, model.spec, config, area)
    key = run_key(reader, model, config, placement, area)
    job = SRJob(
        reader,
        destination,
        model,
        config,
        placement,
        normalization,
        layout,
        tile_grid,
        key,
        area,
        kernel,
    )
    if warn:
        warn_of_scene(job, is_network=is_network)
    if config.tile_size is None and (tile := job.journal().previous_tile_size()) is not None:
        job = job.with_tile(tile)
    return job


def warn_of_scene(job: SRJob, *, is_network: bool) -> None:
    """Warn about properties of a scene that its output is likely to suffer from."""
    reader, spec, layout = job.reader, job.model.spec, job.layout
    if job.kernel is None and requested_kernel(spec, job.config) is not None:
        warn_noise_dominated(reader, spec.name)
    if is_network:
        warn_upsampled(reader)
        warn_lost_digits(reader, job.normalization)
    warn_output(reader)
    warn_metadata(reader, layout)
    warn_specks(reader, spec.scale)
    warn_negative(reader, layout)


def _part_of(info: RasterInfo, area: AreaOfInterest | None) -> RasterInfo:
    return info if area is None else window_metadata(info, area.window)


def _layout(
    info: RasterInfo,
    area: AreaOfInterest | None,
    normalization: Normalization,
    kernel: Kernel | None,
    model: Model,
    config: SRConfig,
    placement: DeviceConfig,
) -> OutputLayout:
    """Return the layout of the output of an area of a raster."""
    consistency = "off" if requested_kernel(model.spec, config) is None else "off: noise"
    return output_layout(
        with_found_colors(_part_of(info, area), model, config),
        model.spec.scale,
        dtype=config.dtype,
        nodata=config.dst_nodata,
        blocksize=config.blocksize,
        creation_options=config.creation_options,
        cog=config.cog,
        tags=output_tags(
            model=model.spec.name,
            model_sha256=model.sha256,
            scale=model.spec.scale,
            source_name=PurePath(info.path).name,
            stretch=normalization.to_json(),
            consistency=consistency if kernel is None else str(kernel),
            options=config.tags_json(),
            runtime="" if placement.backend == "torch" else placement.library,
            precision=placement.precision,
            sensor=description_of(model),
        ),
        partial=area is not None and area.outline is not None,
    )

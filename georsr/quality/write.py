"""Write the quality layers of an output: together with it, or later."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

from georsr._files import atomic_write_text, check_writable, remove_temp_files
from georsr.config import SRConfig
from georsr.device import cpu_threads
from georsr.errors import UsageError
from georsr.inference.consistency import fixed_kernel, requested_kernel
from georsr.inference.pipeline import RunStats
from georsr.inference.predictor import (
    MEMBERS,
    TilePredictor,
    TileTooLargeError,
    n_concurrent_tiles,
    n_forward_passes,
)
from georsr.io.metadata import window_metadata
from georsr.io.reader import RasterReader, open_output
from georsr.jobs.job import (
    RunRequest,
    SRJob,
    check_memory,
    check_space,
    memory_of,
    plan_and_check,
    plan_job,
    source_hash,
)
from georsr.jobs.run import (
    Executor,
    compute_output,
    finish_output,
    prepare_output,
    remove_stale_files,
    run_report,
    tile_pipeline,
    with_smaller_tiles,
    write_missing_blocks,
)
from georsr.models.io import Model
from georsr.progress import Progress, RunContext, RunProgress, never
from georsr.quality.layers import (
    EnsemblePredictor,
    LayersPipeline,
    QualityConfig,
    calibration_of,
    check_pair,
    guidance_count,
    layer_bands,
    layer_names,
    n_planes,
)
from georsr.quality.qgis_style import style_of, style_path
from georsr.radiometry.kernels import Kernel
from georsr.reports import LayersReport, RunReport
from georsr.writer.layout import OutputLayout, output_layout
from georsr.writer.paths import check_destination, is_virtual, local_path
from georsr.writer.resumable_tiff import OutputInfo
from georsr.writer.writer import RasterWriter


def quality_config(job: SRJob) -> QualityConfig:
    """Return how the quality layers of a job are computed."""
    spec = job.model.spec
    kernel = job.kernel or fixed_kernel(requested_kernel(spec, SRConfig())) or Kernel("bicubic")
    return QualityConfig(calibration_of(spec), kernel, guidance_count(job.model, job.placement))


def layers_layout(job: SRJob) -> OutputLayout:
    """Return the layout of the quality layers: grid and georeferencing of the output."""
    info = (
        job.reader.info if job.area is None else window_metadata(job.reader.info, job.area.window)
    )
    quality, spec = quality_config(job), job.model.spec
    tags = dict(job.layout.tags.get("", {}))
    georsr_tags = {name: value for name, value in tags.items() if name.startswith("GEORSR_")}
    layers = replace(
        info,
        dtype="float32",
        bands=layer_bands(job.layout.bands, quality.maps),
        alpha_band=None,
        keep_alpha=False,
        mask_kind="nodata",
        tags={},
        left_out=(),
    )
    return output_layout(
        layers,
        spec.scale,
        nodata=math.nan,
        blocksize=job.config.blocksize,
        creation_options={"PREDICTOR": "3"} | ({} if job.config.cog else {"INTERLEAVE": "BAND"}),
        cog=job.config.cog,
        tags=georsr_tags
        | {
            "GEORSR_NOTE": "quality of a super-resolved product",
            "GEORSR_LAYERS": ", ".join(layer_names(quality.maps)),
            "GEORSR_KERNEL": str(quality.kernel),
            "GEORSR_UNCERTAINTY": quality.calibration.describe(spec),
        },
    )


def layers_job(job: SRJob, destination: str, output_hash: str) -> SRJob:
    """Return the job that writes the quality layers of an output, from the job of the output.

    An unfinished run for an output with another ``output_hash``, its checksum or hash, is not
    resumed.
    """
    key = job.key | {"layers": str(quality_config(job)), "product": output_hash}
    # with --resume, the earlier run may have ended before it began to write layers
    config = replace(job.config, resume=None) if job.config.resume else job.config
    layers = replace(
        job, destination=destination, layout=layers_layout(job), key=key, config=config
    )
    if job.config.tile_size is None and (tile := layers.journal().previous_tile_size()) is not None:
        return layers.with_tile(tile)
    return layers


def layers_memory(job: SRJob) -> int:
    """Return the peak memory of writing quality layers on this machine, in bytes."""
    tile_grid, s = job.tile_grid, job.tile_grid.scale
    planes = n_planes(len(job.normalization.lo), guidance_count(job.model, job.placement))
    overlap_bytes = tile_grid.overlap * s * tile_grid.row_window(0).width * s * 4 * planes
    n_concurrent = n_concurrent_tiles(
        job.placement, job.model.spec, job.config, len(tile_grid), batch=1
    )
    tile_bytes = n_concurrent * 4 * (tile_grid.tile * s) ** 2 * 4 * (planes + job.layout.count)
    return memory_of(job) + overlap_bytes + tile_bytes


log = logging.getLogger(__name__)


def check_layers_path(job: SRJob, layers: str) -> None:
    """Refuse a path for quality layers before any work is done.

    Raises
    ------
    UsageError, OutputError
        As for `check_destination`; or the path is that of the output, or the style file of the
        layers exists and must not be overwritten.
    """
    info = job.reader.info
    paths = [p if is_virtual(p) else str(local_path(p)) for p in (job.destination, layers)]
    if paths[0] == paths[1]:
        raise UsageError(f"{layers}: output and quality layers need two files; name another")
    if layers_job(job, layers, "").journal().path.exists():
        return  # an earlier run may have published the layers, but not the output
    check_destination(layers, [info.path, *info.files], overwrite=job.config.overwrite)
    style = style_path(layers)
    if style is not None:
        check_writable(style, overwrite=job.config.overwrite)


def run_with_layers(request: RunRequest, executor: Executor, layers_path: str) -> RunReport:
    """Super-resolve a raster as `georsr.jobs.run.run`, with its quality layers in another file.

    The layers, which this process computes, are renamed into place first, the output last. If the
    process is killed between the two renames, only the layers exist under their name; the same call
    then renames the output.
    """
    costs = [n_forward_passes(request.config.tta), MEMBERS]
    context = RunContext(RunProgress(request.progress, costs), request.should_stop)
    with context.timer.section("total"):
        with context.timer.section("read"):
            job = plan_and_check(request, executor.placement, executor.memory)
        journal = job.journal()
        published = journal.completed_output()
        if published is None:
            check_layers_path(job, layers_path)
            context.check_cancelled()
            report = _write_both(job, layers_path, executor, context, request.on_published)
        else:
            log.info("%s: an earlier run has published it", job.destination)
            report = run_report(job, published, job.layout.blocks_count, RunStats(), context)
            layers = layers_job(job, layers_path, published.checksum)
            if journal.published_layers is not None:
                quality = layers_report(
                    layers, journal.published_layers, layers.layout.blocks_count
                )
                report = replace(report, quality=quality)
            request.on_published(report)
            remove_stale_files(layers)
            remove_stale_files(job)
    return replace(report, seconds=context.timer.rounded())


def _write_both(
    job: SRJob,
    layers_path: str,
    executor: Executor,
    context: RunContext,
    on_published: Callable[[RunReport], None],
) -> RunReport:
    """Write an output and its layers; publish the layers, then the output."""
    tried: list[int] = []
    while True:
        try:
            with prepare_output(job, context) as output:
                stats = compute_output(job, output, executor, context)
                layers = layers_job(job, layers_path, output.finished.checksum)
                quality = write_layers(layers, str(output.ready), context, output)
                report = run_report(job, output.finished, output.n_resumed_blocks, stats, context)
                report = replace(report, quality=quality)
                on_published(report)
            return report
        except (TileTooLargeError, MemoryError) as error:
            job = with_smaller_tiles(job, error, tried)


def write_layers(
    job: SRJob, output_path: str, context: RunContext, output: RasterWriter | None = None
) -> LayersReport:
    """Write and publish the quality layers of an output, by the job of the layers.

    ``output`` is the writer of the output if that is not published yet: it is published after the
    layers, before their journal is removed.
    """
    earlier = job.journal().completed_output()
    if earlier is not None:
        log.info("%s: an earlier run has published it", job.destination)
        write_style(job)
        if output is not None:
            _publish_after(earlier, output)
        remove_stale_files(job)
        return layers_report(job, earlier, job.layout.blocks_count)
    check_space(job.layout, job.destination, job.config, job.partial_file_bytes())
    check_memory(layers_memory(job), job.config)
    predictor = EnsemblePredictor.from_config(job.model, job.config, job.placement)
    tried: list[int] = []
    while True:
        try:
            with prepare_output(job, context) as layers:
                context.progress.start_pass(-1, len(job.tile_grid))  # the last pass of the run
                if not layers.done.all():
                    _compute_layers(job, layers, output_path, predictor, context)
                finish_output(job, layers, context)
                published = layers.publish()
                write_style(job)
                if output is not None:
                    _publish_after(published, output)
            return layers_report(job, published, layers.n_resumed_blocks)
        except (TileTooLargeError, MemoryError) as error:
            job = with_smaller_tiles(job, error, tried)


def _compute_layers(
    job: SRJob,
    layers: RasterWriter,
    output_path: str,
    predictor: TilePredictor,
    context: RunContext,
) -> None:
    """Compute and write the missing blocks of quality layers."""
    with open_output(output_path, allow_drivers=job.config.allow_drivers) as output:
        check_pair(
            output, len(job.reader.info.indexes), job.tile_grid.out_height, job.tile_grid.out_width
        )
        # the planes are statistics, not an image: nothing is added to them or left out
        tiles = tile_pipeline(job, predictor, context)
        tiles = replace(tiles, kernel=None, keep_constant=False)
        pipeline = LayersPipeline(tiles, job.layout, output, quality_config(job))
        with cpu_threads(job.config.num_threads):
            write_missing_blocks(pipeline.blocks, layers, context)


def _publish_after(layers: OutputInfo, output: RasterWriter) -> None:
    """Publish an output whose quality layers are published."""
    assert output.journal is not None, "runs have a journal"
    output.journal.published_layers = layers
    output.publish()


def write_style(job: SRJob) -> None:
    """Write the QGIS style of published layers."""
    path = style_path(job.destination)
    if path is not None:
        remove_temp_files(path)
        atomic_write_text(path, style_of(job.destination, job.layout.bands[0].unit or ""))


def layers_report(job: SRJob, published: OutputInfo, n_resumed: int) -> LayersReport:
    """Return the report of published quality layers."""
    layout = job.layout
    return LayersReport(
        output=job.destination,
        layers=tuple(band.description or "" for band in layout.bands),
        width=layout.width,
        height=layout.height,
        uncertainty=layout.tags[""]["GEORSR_UNCERTAINTY"],
        blocks=layout.blocks_count,
        blocks_resumed=n_resumed,
        file_bytes=published.bytes,
        checksum=published.checksum,
    )


def run_layers(
    reader: RasterReader,
    output_path: str,
    destination: str,
    model: Model,
    config: SRConfig,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> LayersReport:
    """Write the quality layers of an output that exists.

    The source is read from another thread until this returns. Model and options are those with
    which the output was written.
    """
    context = RunContext(RunProgress(progress, [MEMBERS]), should_stop or never)
    with context.timer.section("total"):
        with open_output(output_path, allow_drivers=config.allow_drivers) as output:
            identity = source_hash(output)
        planned = plan_job(reader, output_path, model, config, warn=False)
        job = layers_job(planned, destination, identity)
        if job.journal().completed_output() is None:
            check_layers_path(planned, destination)
            context.check_cancelled()
        report = write_layers(job, output_path, context)
    return replace(report, seconds=context.timer.rounded())

"""Beside: the layers of a product, made while it is sealed and before it is published.

Both files appear, or neither, as far as two renames allow: the layers get their name first and the
product last, so that where the product is, its layers are. Killed between the two, the run leaves
finished layers and a product that lacks only its name; the same command gives it that.

Surveyor: makes the layers of a product as another product is made, beside it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from georsr._files import check_writable, remove_temp_files, write_text
from georsr.config import SRConfig
from georsr.errors import UsageError
from georsr.geo.georeference import window_metadata
from georsr.inference.consistency import fixed_kernel, requested_kernel
from georsr.inference.pipeline import TileStream, Timer
from georsr.inference.predictor import MEMBERS, TilePredictor, n_concurrent_tiles
from georsr.io.reader import RasterReader, open_output
from georsr.jobs.executor import (
    LocalExecutor,
    WriteRun,
    job_predictor,
    remove_stale_files,
    retry_with_smaller_tiles,
)
from georsr.jobs.job import SRJob, memory_of, plan_job, source_hash
from georsr.jobs.preflight import check_memory, check_space
from georsr.models.io import Model
from georsr.progress import Cancellable, NullProgress, Progress
from georsr.quality.layers import (
    EnsembleStatistics,
    QualityConfig,
    QualityPipeline,
    calibration_of,
    check_pair,
    guidance_count,
    layer_bands,
    layer_names,
    n_planes,
)
from georsr.quality.qgis_style import style_of, style_path
from georsr.radiometry.kernels import Kernel
from georsr.reports import LayersReport
from georsr.writer.layout import OutputLayout, output_layout
from georsr.writer.partial_tiff import OutputInfo
from georsr.writer.paths import check_destination, is_virtual, local_path
from georsr.writer.writer import RasterWriter

COST = MEMBERS
"""Passes of the network for one tile of layers."""


def quality_config(job: SRJob) -> QualityConfig:
    """How the layers of a run's product are made."""
    return QualityConfig(
        calibration_of(job.model.spec), consistency_kernel(job), guidance_count(job.model.network)
    )


def consistency_kernel(job: SRJob) -> Kernel:
    """What made the source of the ground, as far as is known: what the product was held to."""
    declared = fixed_kernel(requested_kernel(job.model.spec, SRConfig()))
    return job.kernel or declared or Kernel("bicubic")


def layers_layout(job: SRJob) -> OutputLayout:
    """The file of layers: the product's grid and georeferencing, NaN where it has no pixel."""
    info = (
        job.reader.info if job.area is None else window_metadata(job.reader.info, job.area.window)
    )
    recipe, spec = quality_config(job), job.model.spec
    tags = dict(job.layout.tags.get("", {}))
    ours = {name: value for name, value in tags.items() if name.startswith("GEORSR_")}
    layers = replace(
        info,
        dtype="float32",
        bands=layer_bands(job.layout.bands, recipe.maps),
        alpha_band=None,
        keep_alpha=False,
        mask_kind="nodata",
        tags={},
    )
    return output_layout(
        layers,
        spec.scale,
        nodata=math.nan,
        blocksize=job.config.blocksize,
        creation_options={"PREDICTOR": "3"} | ({} if job.config.cog else {"INTERLEAVE": "BAND"}),
        cog=job.config.cog,
        tags=ours
        | {
            "GEORSR_NOTE": "quality of a super-resolved product",
            "GEORSR_LAYERS": ", ".join(layer_names(recipe.maps)),
            "GEORSR_KERNEL": str(recipe.kernel),
            "GEORSR_UNCERTAINTY": recipe.calibration.describe(spec),
        },
    )


def layers_job(job: SRJob, destination: str, product: str) -> SRJob:
    """The run that makes the layers of what another run makes.

    Parameters
    ----------
    job
        The run that makes, or made, the product.
    destination
        Path of the layers.
    product
        What identifies the product's pixels: the layers of another one are others.
    """
    key = job.key | {"layers": str(quality_config(job)), "product": product}
    # a run that must be gone on with may have ended before its layers began
    config = replace(job.config, resume=None) if job.config.resume else job.config
    layers = replace(
        job, destination=destination, layout=layers_layout(job), key=key, config=config
    )
    if job.config.tile_size is None and (tile := layers.journal().previous_tile()) is not None:
        return layers.with_tile(tile)
    return layers


def check_layers(job: SRJob) -> None:
    """Refuse layers that the machine cannot hold, once their product is there.

    Raises
    ------
    ResourceError
        Disk or memory will not do.
    """
    check_space(job.layout, job.destination, job.config, job.bytes_left())
    check_memory(QualityExecutor("").memory(job), job.config)


class QualityExecutor(LocalExecutor):
    """Asks the network about every tile in eight orientations; see `georsr.quality.layers`.

    Parameters
    ----------
    product
        Path of the finished product.
    """

    def __init__(self, product: str) -> None:
        super().__init__()
        self.product = product
        self._reader: RasterReader | None = None

    def memory(self, job: SRJob) -> int:
        """Peak memory of this machine, in bytes."""
        plan, s = job.plan, job.plan.scale
        planes = n_planes(len(job.stretch.lo), guidance_count(job.model.network))
        zone = plan.overlap * s * plan.row_window(0).width * s * 4 * planes
        at_once = n_concurrent_tiles(job.placement, job.model.spec, job.config, len(plan), batch=1)
        tiles = at_once * 4 * (plan.tile * s) ** 2 * 4 * (planes + job.layout.count)
        return memory_of(job) + zone + tiles

    def fill(self, job: SRJob, writer: RasterWriter, progress: Cancellable, clock: Timer) -> None:
        """Write the blocks that the writer has not."""
        allowed = job.config.allow_drivers
        with open_output(self.product, allow_drivers=allowed) as reader:
            check_pair(
                reader, len(job.reader.info.indexes), job.plan.out_height, job.plan.out_width
            )
            self._reader = reader
            super().fill(job, writer, progress, clock)

    def _infer(self, job: SRJob) -> TilePredictor:
        inference = job_predictor(job)
        inference.ask = EnsembleStatistics(inference.network, job.plan.scale)
        return inference

    def _stream(
        self, job: SRJob, inference: TilePredictor, progress: Progress, clock: Timer, top: int
    ) -> TileStream:
        assert self._reader is not None, "streams are made while the product is open"
        recipe = quality_config(job)
        return QualityPipeline(
            read=job.read,
            bands=n_planes(len(job.stretch.lo), recipe.maps),
            plan=job.plan,
            stretch=job.stretch,
            form=job.layout,
            inference=inference,
            progress=progress,
            clock=clock,
            top=top,
            area=job.area,
            recipe=recipe,
            product=self._reader,
        )


log = logging.getLogger(__name__)


def check_layers_path(job: SRJob, layers: str) -> None:
    """Refuse a path for layers before any work is done.

    Raises
    ------
    UsageError, OutputError
        As `check_destination`; or it is the product's, or their style may not be replaced.
    """
    product, info = job.destination, job.reader.info
    places = [p if is_virtual(p) else str(local_path(p)) for p in (product, layers)]
    if places[0] == places[1]:
        raise UsageError(f"{layers}: product and quality layers need two files; name another")
    if layers_job(job, layers, "").journal().path.exists():
        return  # an earlier run may have published them, and only them
    check_destination(layers, [info.path, *info.files], overwrite=job.config.overwrite)
    style = style_path(layers)
    if style is not None:
        check_writable(style, overwrite=job.config.overwrite)


@dataclass
class QualityWriter:
    """What an `Attempt` does last, if there are to be layers.

    Attributes
    ----------
    layers : str
        Path of the layers.
    progress, clock
        Whom to tell, and where to note the seconds.
    """

    layers: str
    progress: Cancellable
    clock: Timer
    report: LayersReport | None = field(default=None, init=False)

    def finish(self, product: WriteRun, writer: RasterWriter, sealed: OutputInfo) -> OutputInfo:
        """Make the layers of a sealed product, then publish both."""
        job = layers_job(product.job, self.layers, sealed.checksum)
        earlier = job.journal().completed_output()
        if earlier is not None:
            log.info("%s: an earlier run had finished it", self.layers)
            write_style(job)
            product.journal.beside = earlier
            published = writer.publish()
            remove_stale_files(job)
            self.report = report_of(job, earlier, job.layout.blocks_count)
            return published
        assert writer.ready is not None, "the product is sealed"

        def publish(layers: OutputInfo) -> None:
            product.journal.beside = layers
            writer.publish()

        self.make(job, str(writer.ready), publish)
        return sealed

    def make(
        self, job: SRJob, product: str, then: Callable[[OutputInfo], object] = lambda layers: None
    ) -> LayersReport:
        """Make and publish the layers of the product at a path.

        ``then`` is given the layers once they have their name, and before it is forgotten that
        they do.
        """
        check_layers(job)

        def last(writer: RasterWriter, sealed: OutputInfo) -> OutputInfo:
            written = writer.publish()
            write_style(job)
            then(written)
            return written

        attempt = WriteRun(job, QualityExecutor(product), self.progress, self.clock, last)
        written = retry_with_smaller_tiles(attempt)
        self.report = report_of(attempt.job, written, attempt.found)
        return self.report


def write_style(job: SRJob) -> None:
    """Write what QGIS needs to show published layers, beside them."""
    path = style_path(job.destination)
    if path is not None:
        remove_temp_files(path)
        write_text(path, style_of(job.destination, job.layout.bands[0].unit or ""))


def report_of(job: SRJob, written: OutputInfo, found: int) -> LayersReport:
    """What was made."""
    layout = job.layout
    return LayersReport(
        output=job.destination,
        layers=tuple(band.description or "" for band in layout.bands),
        width=layout.width,
        height=layout.height,
        uncertainty=layout.tags[""]["GEORSR_UNCERTAINTY"],
        blocks=layout.blocks_count,
        blocks_resumed=found,
        file_bytes=written.bytes,
        checksum=written.checksum,
    )


def run_layers(
    reader: RasterReader,
    product: str,
    destination: str,
    model: Model,
    config: SRConfig,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> LayersReport:
    """Make the layers of a product that is there already.

    Parameters
    ----------
    reader
        The source; read from another thread until this returns.
    product, destination
        Paths: of what was made of the source, and of the layers.
    model, config
        What the product was made with, and how.
    progress, stop
        As for :func:`georsr.jobs.run.run`.
    """
    clock, stop = Timer(), stop or (lambda: False)
    with clock.section("total"):
        with open_output(product, allow_drivers=config.allow_drivers) as made:
            identity = source_hash(made)
        planned = plan_job(reader, product, model, config, tell=False)
        job = layers_job(planned, destination, identity)
        earlier = job.journal().completed_output()
        if earlier is not None:
            write_style(job)
            remove_stale_files(job)
            report = report_of(job, earlier, job.layout.blocks_count)
        else:
            check_layers_path(replace(job, destination=product), destination)
            watched = Cancellable(progress or NullProgress(), stop)
            watched.check_cancelled()
            report = QualityWriter(destination, watched, clock).make(job, product)
    return replace(report, seconds=clock.rounded())

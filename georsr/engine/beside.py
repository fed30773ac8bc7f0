"""Beside: the layers of a product, made while it is sealed and before it is published.

Both files appear, or neither, as far as two renames allow: the layers get their name first and the
product last, so that where the product is, its layers are. Killed between the two, the run leaves
finished layers and a product that lacks only its name; the same command gives it that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from georsr._files import check_writable, remove_unfinished, write_text
from georsr.config import SRConfig
from georsr.engine.attempt import Attempt, tidy, until_it_fits
from georsr.engine.fingerprint import source_digest
from georsr.engine.job import Job, plan_job
from georsr.engine.stream import Clock
from georsr.engine.surveyor import Surveyor, check_layers, layers_job
from georsr.errors import UsageError
from georsr.models.load import Model
from georsr.progress import Progress, Silent, Stoppable
from georsr.provenance import LayersReport
from georsr.raster.destination import check_destination, is_virtual, local_path
from georsr.raster.product import open_product
from georsr.raster.reader import RasterReader
from georsr.raster.records import Written
from georsr.raster.style import style_of, style_path
from georsr.raster.writer import RasterWriter

log = logging.getLogger(__name__)


def check_place(job: Job, layers: str) -> None:
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
class Beside:
    """What an `Attempt` does last, if there are to be layers.

    Attributes
    ----------
    layers : str
        Path of the layers.
    progress, clock
        Whom to tell, and where to note the seconds.
    """

    layers: str
    progress: Stoppable
    clock: Clock
    report: LayersReport | None = field(default=None, init=False)

    def finish(self, product: Attempt, writer: RasterWriter, sealed: Written) -> Written:
        """Make the layers of a sealed product, then publish both."""
        job = layers_job(product.job, self.layers, sealed.checksum)
        earlier = job.journal().published()
        if earlier is not None:
            log.info("%s: an earlier run had finished it", self.layers)
            write_style(job)
            product.journal.beside = earlier
            published = writer.publish()
            tidy(job)
            self.report = report_of(job, earlier, job.layout.blocks_count)
            return published
        assert writer.ready is not None, "the product is sealed"

        def publish(layers: Written) -> None:
            product.journal.beside = layers
            writer.publish()

        self.make(job, str(writer.ready), publish)
        return sealed

    def make(
        self, job: Job, product: str, then: Callable[[Written], object] = lambda layers: None
    ) -> LayersReport:
        """Make and publish the layers of the product at a path.

        ``then`` is given the layers once they have their name, and before it is forgotten that
        they do.
        """
        check_layers(job)

        def last(writer: RasterWriter, sealed: Written) -> Written:
            written = writer.publish()
            write_style(job)
            then(written)
            return written

        attempt = Attempt(job, Surveyor(product), self.progress, self.clock, last)
        written = until_it_fits(attempt)
        self.report = report_of(attempt.job, written, attempt.found)
        return self.report


def write_style(job: Job) -> None:
    """Write what QGIS needs to show published layers, beside them."""
    path = style_path(job.destination)
    if path is not None:
        remove_unfinished(path)
        write_text(path, style_of(job.destination, job.layout.bands[0].unit or ""))


def report_of(job: Job, written: Written, found: int) -> LayersReport:
    """What was made."""
    layout = job.layout
    return LayersReport(
        output=job.destination,
        layers=tuple(band.description or "" for band in layout.bands),
        width=layout.width,
        height=layout.height,
        uncertainty=layout.tags[""]["GEORSR_UNCERTAINTY"],
        blocks=layout.blocks_count,
        blocks_found=found,
        bytes=written.bytes,
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
        As for :func:`georsr.engine.run.run`.
    """
    clock, stop = Clock(), stop or (lambda: False)
    with clock.stage("total"):
        with open_product(product, allow_drivers=config.allow_drivers) as made:
            identity = source_digest(made)
        planned = plan_job(reader, product, model, config, tell=False)
        job = layers_job(planned, destination, identity)
        earlier = job.journal().published()
        if earlier is not None:
            write_style(job)
            tidy(job)
            report = report_of(job, earlier, job.layout.blocks_count)
        else:
            check_place(replace(job, destination=product), destination)
            watched = Stoppable(progress or Silent(), stop)
            watched.look()
            report = Beside(destination, watched, clock).make(job, product)
    return replace(report, seconds=clock.rounded())

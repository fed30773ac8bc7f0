"""One machine, streaming: reader thread -> batched network -> register -> writer thread."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import PurePath

from georsr.config import SRConfig
from georsr.device import cpu_threads, place
from georsr.engine.inference import Inference, TileTooLargeError, choose_batch
from georsr.engine.pipeline import WriteBehind
from georsr.engine.preflight import check_bands, check_size, check_space, plan_for
from georsr.engine.stream import Clock, TileStream
from georsr.errors import ResourceError
from georsr.models.load import Model
from georsr.progress import Progress, Silent
from georsr.provenance import RunReport, product_tags
from georsr.raster.destination import check_destination
from georsr.raster.layout import ProductLayout, product_layout
from georsr.raster.reader import RasterReader
from georsr.raster.stretch import choose_stretch
from georsr.raster.writer import RasterWriter, Written
from georsr.tiling.plan import ceil_to
from georsr.types import AnyArray, Window

log = logging.getLogger(__name__)

SMALLEST_TILE = 32
"""Below this, running out of memory is an error: halos would be most of the work."""
WAITING_BLOCKS = 32
"""Finished blocks that may wait for the writer."""


def _write(
    stream: TileStream, layout: ProductLayout, destination: str, config: SRConfig
) -> Written:
    """Stream every block into a new file and publish it."""
    stream.progress.start(len(stream.plan), "tiles")
    with RasterWriter(
        destination, layout, overwrite=config.overwrite, verify=config.verify
    ) as writer:

        def put(item: tuple[Window, AnyArray]) -> None:
            writer.write(item[0], *layout.split(item[1]))

        with WriteBehind(put, WAITING_BLOCKS) as sink, closing(stream.blocks()) as blocks:
            for item in blocks:
                with stream.clock.stage("write"):
                    sink.put(item)
        with stream.clock.stage("verify"):
            return writer.commit()


def run(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    progress: Progress | None = None,
) -> RunReport:
    """Super-resolve an open raster into a new file.

    Parameters
    ----------
    reader
        The source; read from another thread until this returns.
    destination
        Path of the product; it appears whole and verified, or not at all.
    model, config, progress
        What to run, how, and whom to tell.

    Raises
    ------
    UsageError, InputError, OutputError, ModelError, ResourceError
        As their names say; the destination is then as it was.
    """
    progress = progress or Silent()
    info = reader.info
    check_destination(destination, [info.path, *info.files], overwrite=config.overwrite)
    check_size(info, config)
    check_bands(info, model.spec)
    placement = place(config.device, config.precision)
    clock = Clock()
    with clock.stage("read"):
        stretch = choose_stretch(reader, config.stretch)
    layout = product_layout(
        info,
        model.spec.scale,
        dtype=config.dtype,
        nodata=config.dst_nodata,
        blocksize=config.blocksize,
        creation_options=config.creation_options,
        cog=config.cog,
        tags=product_tags(
            model=model.spec.name,
            model_sha256=model.sha256,
            scale=model.spec.scale,
            source_name=PurePath(info.path).name,
            stretch=stretch.to_json(),
        ),
    )
    fixed_tile, tried = config.tile is not None, list[int]()
    with cpu_threads(config.jobs), clock.stage("total"):
        inference = Inference(
            model,
            placement,
            choose_batch(placement, config.batch),
            compiled=config.compile,
        )
        log.info("%s on %s", model.spec.name, placement.describe())
        while True:
            plan = plan_for(info, model.spec, config)
            check_space(info, plan, destination, config)
            attempt = TileStream(
                read=reader.read,
                bands=len(info.bidx),
                plan=plan,
                stretch=stretch,
                form=layout,
                inference=inference,
                progress=progress,
                clock=clock,
            )
            tried.append(plan.tile)
            try:
                written = _write(attempt, layout, destination, config)
                break
            except TileTooLargeError as error:
                smaller = ceil_to(plan.tile // 2, plan.multiple_of)
                if fixed_tile or smaller < SMALLEST_TILE or smaller == plan.tile:
                    raise ResourceError(
                        f"{error} (tiles tried: {', '.join(map(str, tried))})"
                    ) from error
                log.warning("out of memory: starting again with tiles of %d pixels", smaller)
                config = replace(config, tile=smaller)
    return RunReport(
        source=info.path,
        output=destination,
        model=model.spec.name,
        model_sha256=model.sha256,
        scale=plan.scale,
        width=plan.out_width,
        height=plan.out_height,
        bands=len(info.bidx),
        dtype=str(layout.dtype),
        device=str(placement.device),
        precision=placement.precision,
        tile=plan.tile,
        halo=plan.halo,
        overlap=plan.overlap,
        batch=inference.batch,
        tiles=len(plan),
        tiles_skipped=attempt.skipped,
        stretch=stretch.to_json(),
        seconds={k: round(v, 3) for k, v in clock.seconds.items()},
        bytes=written.bytes,
        checksum=written.checksum,
    )

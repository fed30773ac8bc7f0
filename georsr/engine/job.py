"""Job: everything that is decided about a run before its first tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath

from georsr.config import SRConfig
from georsr.device import Placement, place
from georsr.engine.fingerprint import fingerprint
from georsr.engine.journal import Journal
from georsr.engine.preflight import check_bands, check_size, check_space, plan_for
from georsr.models.load import Model
from georsr.provenance import product_tags
from georsr.raster.destination import workplace
from georsr.raster.env import is_remote
from georsr.raster.layout import ProductLayout, product_layout
from georsr.raster.reader import RasterReader
from georsr.raster.stretch import Stretch, choose_stretch
from georsr.tiling.plan import TilePlan


@dataclass(frozen=True)
class Job:
    """A run that may begin: made by `prepare`, carried out by `georsr.engine.run` or others.

    Attributes
    ----------
    reader : RasterReader
        The source; it pickles as path and options.
    destination : str
    model : Model
    config : SRConfig
    placement : Placement
        Device and precision the options led to.
    stretch : Stretch
        One for the whole scene.
    layout : ProductLayout
        The product; its blocks are what is written and noted.
    plan : TilePlan
        The tiles, anchored to the source.
    key : dict of str to str
        The run's `fingerprint`.
    """

    reader: RasterReader
    destination: str
    model: Model
    config: SRConfig
    placement: Placement
    stretch: Stretch
    layout: ProductLayout
    plan: TilePlan
    key: dict[str, str]

    def with_tile(self, tile: int) -> Job:
        """The same run in tiles of another size."""
        config = replace(self.config, tile=tile)
        return replace(self, plan=plan_for(self.reader.info, self.model.spec, config))

    def journal(self) -> Journal:
        """The run's journal; nothing is read or written yet."""
        return Journal(
            workplace(self.destination).journal,
            self.destination,
            self.key,
            self.plan.tile,
            resume=self.config.resume,
            remote=is_remote(self.reader.info.path),
        )


def prepare(reader: RasterReader, destination: str, model: Model, config: SRConfig) -> Job:
    """Check, plan and lay out a run; writes nothing and does not load the network's device.

    An unfinished run of the same fingerprint decides about the size of tiles, if they were made
    smaller than asked for after running out of memory.

    Raises
    ------
    UsageError, InputError, ResourceError
        What cannot be done is refused here; but for the destination, which is the writer's.
    """
    info = reader.info
    check_size(info, config)
    check_bands(info, model.spec)
    placement = place(config.device, config.precision)
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
    plan = plan_for(info, model.spec, config)
    key = fingerprint(reader, model, config, placement)
    job = Job(reader, destination, model, config, placement, stretch, layout, plan, key)
    if config.tile is None and (tile := job.journal().left_tile()) is not None:
        job = job.with_tile(tile)
    check_space(info, job.plan, destination, config)
    return job

"""Job: everything that is decided about a run before its first tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np

from georsr.config import SRConfig
from georsr.device import Placement
from georsr.engine.consistency import asked_kernel
from georsr.engine.fingerprint import fingerprint
from georsr.engine.fitting import scene_kernel
from georsr.engine.hints import hint_noise, hint_repeats
from georsr.engine.inference import choose_batch, place_model
from georsr.engine.journal import Journal
from georsr.engine.lanes import tiles_at_once
from georsr.engine.preflight import (
    check_bands,
    check_memory,
    check_size,
    check_space,
    memory_bytes,
    plan_for,
)
from georsr.engine.sensing import description_of, told_of_scene
from georsr.kernels import Kernel
from georsr.models.load import Model
from georsr.models.zoo import COMPUTED_ARCHITECTURES
from georsr.provenance import product_tags
from georsr.raster.aoi import Area, find_area
from georsr.raster.content import check_content
from georsr.raster.destination import workplace
from georsr.raster.env import is_remote
from georsr.raster.georef import crop
from georsr.raster.info import RasterInfo
from georsr.raster.layout import ProductLayout, product_layout
from georsr.raster.reader import Patch, RasterReader
from georsr.raster.stretch import Stretch, choose_stretch
from georsr.tiling.plan import TilePlan
from georsr.types import Window


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
    area : Area or None
        The part of the source that becomes the product; None: all of it.
    kernel : Kernel or None
        What shrinks the product to its source; None: it need not.
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
    area: Area | None = None
    kernel: Kernel | None = None

    def with_tile(self, tile: int) -> Job:
        """The same run in tiles of another size."""
        config = replace(self.config, tile=tile)
        return replace(self, plan=plan_for(self.reader.info, self.model.spec, config, self.area))

    def part(self, window: Window) -> Job:
        """The same run on a part of the product: its tiles, which make the same pixels.

        Parameters
        ----------
        window
            In source pixels, counted as the plan does. The part's plan counts from its corner;
            the layout remains that of the whole product.
        """
        info = self.reader.info
        whole = self.area or Area(Window(0, 0, info.height, info.width))
        return replace(self, plan=self.plan.crop(window), area=whole.part(window))

    def alone(self, window: Window) -> Job:
        """A part, as `part`, that is laid out as a product of its own."""
        part = self.part(window)
        assert part.area is not None, "a part has a window"
        return replace(
            part,
            layout=_layout(
                crop(self.reader.info, part.area.window),
                self.reader.info,
                self.model,
                self.config,
                self.stretch,
                self.kernel,
                partial=part.area.outline is not None,
            ),
        )

    def read(self, window: Window) -> Patch:
        """Read a window as the plan counts it: from the corner of the area.

        Where the area does not touch, nothing is read and nothing is valid.
        """
        if self.area is None:
            return self.reader.read(window)
        if self.area.touches(window):
            return self.reader.read(window.moved(self.area.window.top, self.area.window.left))
        info = self.reader.info
        size = (window.height, window.width)
        values = np.zeros((info.count, *size), info.dtype)
        alpha = np.zeros(size, info.dtype) if info.alpha_band else None
        return Patch(values, np.zeros(values.shape, bool), alpha)

    def bytes_left(self) -> int:
        """Size of what an interrupted run has left for this one."""
        part = workplace(self.destination).part
        left = self.journal().left_tile() is not None and part.exists()
        return part.stat().st_size if left else 0

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


def area_of(info: RasterInfo, config: SRConfig) -> Area | None:
    """The part of a raster that the options ask for; None: all of it."""
    return find_area(
        info,
        bbox=config.bbox,
        bbox_crs=config.bbox_crs,
        aoi=config.aoi,
        masked=config.aoi_mask,
    )


def memory_of(job: Job) -> int:
    """Peak memory of a process that carries out a job, in bytes."""
    batch = choose_batch(job.placement, job.config.batch)
    at_once = tiles_at_once(job.placement, job.model.spec, job.config, len(job.plan), batch)
    on_cpu = job.placement.device.type == "cpu"
    return memory_bytes(job.reader, job.plan, job.layout, at_once, on_cpu)


def prepare(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    placement: Placement | None = None,
    memory: Callable[[Job], int] = memory_of,
) -> Job:
    """Plan a run, and refuse what the machine cannot hold.

    Parameters
    ----------
    reader, destination, model, config, placement
        As for `plan_job`.
    memory
        What the run takes on this machine.

    Raises
    ------
    ResourceError
        Disk or memory will not do.
    UsageError, InputError
        As `plan_job`.
    """
    job = plan_job(reader, destination, model, config, placement)
    check_space(job.layout, destination, config, job.bytes_left())
    check_memory(memory(job), config)
    return job


def plan_job(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    placement: Placement | None = None,
    *,
    tell: bool = True,
) -> Job:
    """Check, plan and lay out a run; writes nothing and does not touch the network's device.

    An unfinished run of the same fingerprint decides about the size of tiles, if they were made
    smaller than asked for after running out of memory.

    Parameters
    ----------
    reader, destination, model, config
        What to run, where to, and how.
    placement
        Where others than this process compute; None lets ``config`` decide.
    tell
        Say what was decided by looking at the scene; of a product that is there it is known.

    Raises
    ------
    UsageError, InputError
        What cannot be done is refused here; but for the destination, which is the writer's.
    """
    info = reader.info
    area = area_of(info, config)
    part = info if area is None else crop(info, area.window)
    check_size(part, config)
    check_bands(info, model.spec)
    if not config.force and model.spec.architecture not in COMPUTED_ARCHITECTURES:
        check_content(info, model.spec.name)
    placement = placement or place_model(model, config)
    stretch = choose_stretch(reader, config.stretch)
    model = told_of_scene(reader.read, info.height, info.width, stretch, model, config)
    kernel = scene_kernel(reader.read, info.height, info.width, stretch, model, config)
    partial = area is not None and area.outline is not None
    layout = _layout(part, info, model, config, stretch, kernel, partial=partial)
    plan = plan_for(info, model.spec, config, area)
    key = fingerprint(reader, model, config, placement, area)
    if tell and kernel is None and asked_kernel(model.spec, config) is not None:
        hint_noise(reader, model.spec.name)
    if tell and model.spec.architecture not in COMPUTED_ARCHITECTURES:
        hint_repeats(reader)
    job = Job(
        reader, destination, model, config, placement, stretch, layout, plan, key, area, kernel
    )
    if config.tile is None and (tile := job.journal().left_tile()) is not None:
        job = job.with_tile(tile)
    return job


def _told(kernel: Kernel | None, asked: str | None) -> str:
    """Consistency as a product's tag tells it."""
    if kernel is not None:
        return str(kernel)
    return "off" if asked is None else "off: noise"


def _layout(
    part: RasterInfo,
    info: RasterInfo,
    model: Model,
    config: SRConfig,
    stretch: Stretch,
    kernel: Kernel | None,
    *,
    partial: bool,
) -> ProductLayout:
    """The product of a part of a raster."""
    return product_layout(
        part,
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
            consistency=_told(kernel, asked_kernel(model.spec, config)),
            options=config.told(),
            sensor=description_of(model),
        ),
        partial=partial,
    )

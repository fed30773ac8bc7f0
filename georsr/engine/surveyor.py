"""Surveyor: makes the layers of a product as another product is made, beside it."""

from __future__ import annotations

import math
from dataclasses import replace

from georsr.config import SRConfig
from georsr.engine.consistency import asked_kernel, known_kernel
from georsr.engine.ensemble import MEMBERS
from georsr.engine.inference import Inference
from georsr.engine.job import Job, memory_of
from georsr.engine.lanes import tiles_at_once
from georsr.engine.layers import LayerStream, Recipe, check_pair, layer_bands, layer_names
from georsr.engine.maker import OneMachine, infer
from georsr.engine.preflight import check_memory, check_space
from georsr.engine.sounding import Sounding, guidance_count, planes_of
from georsr.engine.stream import Clock, TileStream
from georsr.kernels import Kernel
from georsr.models.calibration import calibration_of
from georsr.progress import Progress, Stoppable
from georsr.raster.georef import crop
from georsr.raster.layout import ProductLayout, product_layout
from georsr.raster.product import open_product
from georsr.raster.reader import RasterReader
from georsr.raster.writer import RasterWriter

COST = MEMBERS
"""Passes of the network for one tile of layers."""


def recipe_of(job: Job) -> Recipe:
    """How the layers of a run's product are made."""
    return Recipe(calibration_of(job.model.spec), kernel_of(job), guidance_count(job.model.network))


def kernel_of(job: Job) -> Kernel:
    """What made the source of the ground, as far as is known: what the product was held to."""
    declared = known_kernel(asked_kernel(job.model.spec, SRConfig()))
    return job.kernel or declared or Kernel("bicubic")


def layers_layout(job: Job) -> ProductLayout:
    """The file of layers: the product's grid and georeferencing, NaN where it has no pixel."""
    info = job.reader.info if job.area is None else crop(job.reader.info, job.area.window)
    recipe, spec = recipe_of(job), job.model.spec
    tags = dict(job.layout.tags.get("", {}))
    ours = {name: value for name, value in tags.items() if name.startswith("GEORSR_")}
    layers = replace(
        info,
        dtype="float32",
        bands=layer_bands(job.layout.bands, recipe.maps),
        alpha_band=None,
        carries_alpha=False,
        mask_kind="nodata",
        tags={},
    )
    return product_layout(
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


def layers_job(job: Job, destination: str, product: str) -> Job:
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
    key = job.key | {"layers": str(recipe_of(job)), "product": product}
    # a run that must be gone on with may have ended before its layers began
    config = replace(job.config, resume=None) if job.config.resume else job.config
    layers = replace(
        job, destination=destination, layout=layers_layout(job), key=key, config=config
    )
    if job.config.tile is None and (tile := layers.journal().left_tile()) is not None:
        return layers.with_tile(tile)
    return layers


def check_layers(job: Job) -> None:
    """Refuse layers that the machine cannot hold, once their product is there.

    Raises
    ------
    ResourceError
        Disk or memory will not do.
    """
    check_space(job.layout, job.destination, job.config, job.bytes_left())
    check_memory(Surveyor("").memory(job), job.config)


class Surveyor(OneMachine):
    """Asks the network about every tile in eight orientations; see `georsr.engine.sounding`.

    Parameters
    ----------
    product
        Path of the finished product.
    """

    def __init__(self, product: str) -> None:
        super().__init__()
        self.product = product
        self._reader: RasterReader | None = None

    def memory(self, job: Job) -> int:
        """Peak memory of this machine, in bytes."""
        plan, s = job.plan, job.plan.scale
        planes = planes_of(len(job.stretch.lo), guidance_count(job.model.network))
        zone = plan.overlap * s * plan.strip(0).width * s * 4 * planes
        at_once = tiles_at_once(job.placement, job.model.spec, job.config, len(plan), batch=1)
        tiles = at_once * 4 * (plan.tile * s) ** 2 * 4 * (planes + job.layout.count)
        return memory_of(job) + zone + tiles

    def fill(self, job: Job, writer: RasterWriter, progress: Stoppable, clock: Clock) -> None:
        """Write the blocks that the writer has not."""
        allowed = job.config.allow_drivers
        with open_product(self.product, allow_drivers=allowed) as reader:
            check_pair(reader, len(job.reader.info.bidx), job.plan.out_height, job.plan.out_width)
            self._reader = reader
            super().fill(job, writer, progress, clock)

    def _infer(self, job: Job) -> Inference:
        inference = infer(job)
        inference.ask = Sounding(inference.network, job.plan.scale)
        return inference

    def _stream(
        self, job: Job, inference: Inference, progress: Progress, clock: Clock, top: int
    ) -> TileStream:
        assert self._reader is not None, "streams are made while the product is open"
        recipe = recipe_of(job)
        return LayerStream(
            read=job.read,
            bands=planes_of(len(job.stretch.lo), recipe.maps),
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

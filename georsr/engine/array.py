"""The streaming engine on an array in memory."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np

from georsr.config import SRConfig
from georsr.device import cpu_threads, place
from georsr.engine.inference import Inference, choose_batch
from georsr.engine.stream import Clock, TileStream
from georsr.errors import UsageError
from georsr.models.load import Model
from georsr.progress import Silent
from georsr.raster.reader import Patch
from georsr.raster.stretch import stretch_of_sample
from georsr.tiling.plan import make_plan
from georsr.types import AnyArray, BoolArray, Window


@dataclass(frozen=True)
class ArrayForm:
    """The form of a product that stays in memory."""

    dtype: str
    planes: int
    blocksize: int
    nodata: float | None = None
    alpha: bool = False
    mask: bool = False


def run_array(
    values: AnyArray, valid: BoolArray | None, model: Model, config: SRConfig
) -> AnyArray:
    """See :func:`georsr.api.super_resolve_array`."""
    if values.ndim != 3:
        raise UsageError(f"array of {values.ndim} axes, expected (bands, rows, columns)")
    if values.dtype.kind not in "uif" or (values.dtype.kind != "f" and values.dtype.itemsize > 4):
        raise UsageError(f"array of {values.dtype}, expected a real dtype of at most 32 bits")
    bands, height, width = values.shape
    spec = model.spec
    if spec.bands and bands != spec.bands:
        raise UsageError(f"model {spec.name} takes {spec.bands} bands, the array has {bands}")
    good = np.isfinite(values)
    if valid is not None:
        good &= valid
    plan = make_plan(
        height,
        width,
        scale=spec.scale,
        tile=config.tile or spec.tile,
        halo=spec.halo if config.halo is None else config.halo,
        overlap=spec.overlap if config.overlap is None else config.overlap,
        multiple_of=spec.multiple_of,
    )

    def read(window: Window) -> Patch:
        rows, columns = window.slices
        return Patch(values[:, rows, columns], good[:, rows, columns], None)

    form = ArrayForm(config.dtype or str(values.dtype), bands, config.blocksize)
    product = np.empty((bands, plan.out_height, plan.out_width), form.dtype)
    placement = place(config.device, config.precision)
    with cpu_threads(config.jobs):
        stream = TileStream(
            read=read,
            bands=bands,
            plan=plan,
            stretch=stretch_of_sample(values, good, config.stretch),
            form=form,
            inference=Inference(
                model,
                placement,
                choose_batch(placement, config.batch),
                compiled=config.compile,
            ),
            progress=Silent(),
            clock=Clock(),
        )
        with closing(stream.blocks()) as blocks:
            for window, pixels in blocks:
                product[(slice(None), *window.slices)] = pixels
    return product

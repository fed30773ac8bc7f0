"""The streaming engine on an array in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from georsr.config import SRConfig
from georsr.device import cpu_threads
from georsr.engine.bands import arrange_array
from georsr.engine.chunks import make_chunk, read_from
from georsr.engine.ensemble import way_of_asking
from georsr.engine.fitting import scene_kernel
from georsr.engine.inference import Inference, choose_batch, place_model
from georsr.engine.preflight import plan_of
from georsr.engine.sensing import told_of_scene
from georsr.errors import UsageError
from georsr.models.load import Model
from georsr.models.spec import ModelSpec
from georsr.raster.mask import valid_pixels
from georsr.raster.sampling import sample_indices
from georsr.raster.stretch import stretch_of_sample
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


def check_count(bands: int, spec: ModelSpec, remedy: str = "") -> None:
    """Refuse a band count the model was not made for.

    Raises
    ------
    UsageError
        Ends with ``remedy``.
    """
    if spec.bands and bands != spec.bands:
        names = f" ({', '.join(spec.band_names)})" if spec.band_names else ""
        raise UsageError(
            f"model {spec.name} takes {spec.bands} bands{names}, the array has {bands}{remedy}"
        )


def run_array(
    values: AnyArray,
    valid: BoolArray | None,
    model: Model,
    config: SRConfig,
    nodata: float | None = None,
) -> AnyArray:
    """See :func:`georsr.api.super_resolve_array`.

    ``nodata`` is the value that invalid pixels of the result get; None: they keep their own.
    """
    if values.ndim != 3:
        raise UsageError(f"array of {values.ndim} axes, expected (bands, rows, columns)")
    if values.dtype.kind not in "uif" or (values.dtype.kind != "f" and values.dtype.itemsize > 4):
        raise UsageError(f"array of {values.dtype}, expected a real dtype of at most 32 bits")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    bands, height, width = values.shape
    model = arrange_array(model, bands, config)
    check_count(bands, model.spec)
    good = np.isfinite(values)
    if valid is not None:
        good &= valid
    plan = plan_of(height, width, model.spec, config)
    rows, columns = sample_indices(height, width)
    placement = place_model(model, config)
    whole = Window(0, 0, height, width)
    stretch = stretch_of_sample(
        values[:, rows][:, :, columns], good[:, rows][:, :, columns], config.stretch
    )
    read = read_from(values, good, whole)
    model = told_of_scene(read, height, width, stretch, model, config)
    with cpu_threads(config.jobs):
        return make_chunk(
            read,
            whole,
            bands=bands,
            plan=plan,
            stretch=stretch,
            form=ArrayForm(config.dtype or str(values.dtype), bands, config.blocksize, nodata),
            inference=Inference(
                model,
                placement,
                choose_batch(placement, config.batch),
                compiled=config.compile,
                ask=way_of_asking(config.tta),
            ),
            kernel=scene_kernel(read, height, width, stretch, model, config),
            flat_tiles=config.flat_tiles,
        )


def run_scenes(
    values: AnyArray,
    model: Model,
    config: SRConfig,
    *,
    source_nodata: float | None = None,
    nodata: float | None = None,
    limits: tuple[float, float] | None = None,
) -> AnyArray:
    """Super-resolve scenes in memory, each by itself.

    Parameters
    ----------
    values
        (..., C, h, w).
    model, config
        What to run and how.
    source_nodata, nodata
        Value of invalid pixels in the source and in the product; None in the product: they keep
        their own.
    limits
        Lowest and highest value of the product, if it has such.

    Returns
    -------
    ndarray
        (..., C, s * h, s * w).
    """
    s = model.spec.scale
    *scenes, bands, height, width = values.shape
    product = np.empty((*scenes, bands, height * s, width * s), config.dtype or values.dtype.name)
    for scene in np.ndindex(*scenes):
        valid = valid_pixels(values[scene], source_nodata)
        product[scene] = run_array(values[scene], valid, model, config, nodata)
    return product if limits is None else np.clip(product, *limits, out=product)

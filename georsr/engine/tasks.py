"""Tasks: what Dask's workers run. They pickle small: a model travels by name and checksum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from georsr.config import SRConfig
from georsr.device import cpu_threads
from georsr.engine.array import ArrayForm
from georsr.engine.chunks import make_chunk, read_from
from georsr.engine.consistency import asked_kernel, known_kernel, softened, yields_to_noise
from georsr.engine.fitting import fit_kernel
from georsr.engine.resident import ModelReference, load, resident
from georsr.engine.sensing import scene_sensor, told
from georsr.kernels import Kernel
from georsr.models.spec import SCENE
from georsr.raster.mask import valid_pixels
from georsr.raster.reader import Patch
from georsr.raster.stretch import Stretch, stretch_of_sample
from georsr.tiling.plan import TilePlan
from georsr.types import AnyArray, Window

Selection = slice | npt.NDArray[np.int64]
"""Rows or columns: a range, or ascending numbers."""


@dataclass(frozen=True)
class Recipe:
    """What the chunks of all scenes have in common.

    Attributes
    ----------
    model : ModelReference
    plan : TilePlan
        The tiles of a whole scene.
    form : ArrayForm
        What pixels become.
    config : SRConfig
    axes : int
        Axes of the array before the bands.
    banded : bool
        Whether there is an axis of bands.
    nodata : float or None
        Value of invalid pixels in the source.
    limits : (float, float) or None
        Lowest and highest value of the product.
    """

    model: ModelReference
    plan: TilePlan
    form: ArrayForm
    config: SRConfig
    axes: int
    banded: bool
    nodata: float | None = None
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cut:
    """Takes pixels of one scene out of a chunk of the source."""

    scene: tuple[int, ...]
    """Index in the chunk along the axes before the bands."""
    banded: bool
    """Whether there is an axis of bands."""
    rows: Selection
    columns: Selection

    def __call__(self, chunk: AnyArray) -> AnyArray:
        """(..., C, h, w) or (..., h, w) -> (C, rows, columns)."""
        pixels = np.asarray(chunk)[self.scene]
        pixels = pixels if self.banded else pixels[None]
        return pixels[:, self.rows][:, :, self.columns]


@dataclass(frozen=True)
class FindStretch:
    """Finds the stretch of a scene from its sample."""

    mode: str
    nodata: float | None

    def __call__(self, cuts: list[list[list[AnyArray]]]) -> Stretch:
        """From cuts (C, h, w) nested as bands, rows, columns."""
        values: AnyArray = np.block(cuts)
        return stretch_of_sample(values, valid_pixels(values, self.nodata), self.mode)


@dataclass(frozen=True)
class Found:
    """What was found of a scene.

    Attributes
    ----------
    kernel : Kernel or None
        What its product is to be consistent with.
    sensor : tuple of float or None
        What the network is told, normalised; None: it is not told.
    """

    kernel: Kernel | None = None
    sensor: tuple[float, ...] | None = None


@dataclass(frozen=True)
class FindScene:
    """Finds sensor and kernel of a scene from its probes."""

    def __call__(
        self, recipe: Recipe, stretch: Stretch, cuts: list[list[list[list[AnyArray]]]]
    ) -> Found:
        """From cuts (C, h, w) of each probe, nested as bands, rows, columns."""
        patches = [patch_of(np.block(probe), recipe.nodata) for probe in cuts]
        model = load(recipe.model)
        with cpu_threads(recipe.config.jobs):
            sensor = scene_sensor(patches, stretch, model, recipe.config)
            asked = asked_kernel(model.spec, recipe.config)
            if asked != SCENE:
                known = softened(known_kernel(asked), model.spec, recipe.config)
                return Found(known, sensor)
            kernel = fit_kernel(
                patches,
                stretch,
                told(model, sensor),
                unless_noise=yields_to_noise(recipe.config),
            )
        return Found(softened(kernel, model.spec, recipe.config), sensor)


def patch_of(values: AnyArray, nodata: float | None) -> Patch:
    """Pixels (C, h, w) in the machine's byte order, with their validity."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return Patch(values, valid_pixels(values, nodata), None)


@dataclass(frozen=True)
class MakeChunk:
    """Makes one chunk of the product."""

    window: Window
    """Of the scene, in source pixels."""
    reach: Window
    """What the tiles that touch it read."""

    def __call__(self, recipe: Recipe, stretch: Stretch, found: Found, cuts: list[Any]) -> AnyArray:
        """From cuts (C, h, w) of the reach, nested as bands, rows, columns: (1, ..., C, H, W)."""
        patch = patch_of(np.block(cuts), recipe.nodata)
        read = read_from(patch.values, patch.valid, self.reach)
        reference = replace(recipe.model, sensor=found.sensor)
        with resident(reference, recipe.config) as inference:
            pixels = make_chunk(
                read,
                self.window,
                bands=len(patch.values),
                plan=recipe.plan,
                stretch=stretch,
                form=recipe.form,
                inference=inference,
                kernel=found.kernel,
                flat_tiles=recipe.config.flat_tiles,
            )
        if recipe.limits is not None:
            np.clip(pixels, *recipe.limits, out=pixels)
        pixels = pixels if recipe.banded else pixels[0]
        return pixels[(np.newaxis,) * recipe.axes]

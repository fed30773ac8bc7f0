"""Chunks: any window of a product, from the tiles that touch it.

The tiles are those of the whole product, so that every pixel is the same expression of the same
tiles as in one pass over the raster, whoever makes it and however the product is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from georsr.engine.inference import Inference
from georsr.engine.patch import Form
from georsr.engine.stream import Clock, TileStream
from georsr.kernels import Kernel
from georsr.progress import Silent
from georsr.raster.reader import Patch
from georsr.raster.stretch import Stretch
from georsr.tiling.plan import TilePlan
from georsr.types import AnyArray, BoolArray, Window


def make_chunk(
    read: Callable[[Window], Patch],
    window: Window,
    *,
    bands: int,
    plan: TilePlan,
    stretch: Stretch,
    form: Form,
    inference: Inference,
    kernel: Kernel | None = None,
    flat_tiles: bool = False,
) -> AnyArray:
    """Super-resolve a window of a scene.

    Parameters
    ----------
    read
        Gives the pixels of a window of the scene; asked only inside of ``plan.crop(window).reach``,
        from another thread, one window at a time.
    window
        Of the scene, in source pixels.
    bands
        Bands that ``read`` gives.
    plan, stretch
        Of the whole scene.
    form, inference
        What the pixels become, and the network that makes them.
    kernel
        What shrinks the product to its source; None: it need not.
    flat_tiles
        Tiles of one value keep it, without the network.

    Returns
    -------
    ndarray
        (form.planes, s * window.height, s * window.width) of ``form.dtype``.
    """
    part = plan.crop(window)
    stream = TileStream(
        read=lambda strip: read(strip.moved(window.top, window.left)),
        bands=bands,
        plan=part,
        stretch=stretch,
        form=form,
        inference=inference,
        progress=Silent(),
        clock=Clock(),
        kernel=kernel,
        flat_tiles=flat_tiles,
    )
    product = np.empty((form.planes, part.out_height, part.out_width), form.dtype)
    with closing(stream.blocks()) as blocks:
        for block, pixels in blocks:
            product[(slice(None), *block.slices)] = pixels
    return product


def read_from(values: AnyArray, valid: BoolArray, origin: Window) -> Callable[[Window], Patch]:
    """What `make_chunk` reads with, of pixels in memory.

    Parameters
    ----------
    values, valid
        (C, h, w).
    origin
        Where they lie in the scene.
    """

    def read(window: Window) -> Patch:
        rows, columns = window.relative_to(origin).slices
        return Patch(values[:, rows, columns], valid[:, rows, columns], None)

    return read

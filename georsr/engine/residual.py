"""Residual: how well a written product gives its source back, measured on the file itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from georsr.engine.evidence import shrink_valid
from georsr.engine.job import Job
from georsr.engine.maker import Tally
from georsr.engine.pipeline import read_ahead
from georsr.provenance import ConsistencyReport
from georsr.raster.product import open_product
from georsr.raster.reader import Patch, RasterReader
from georsr.types import Window

SIDE = 128
"""Height and width, in source pixels, of what is compared at a time."""
GRID = 4
"""Most windows along each axis; they are spread over the product."""


def consistency_report(job: Job, tally: Tally) -> ConsistencyReport | None:
    """What consistency did to a product that is there; None where none was asked for.

    Parameters
    ----------
    job
        The run that made it.
    tally
        What the network gave.
    """
    if job.kernel is None:
        return None
    bands = len(job.layout.bands)
    total, count, largest = np.zeros(bands), np.zeros(bands, int), np.zeros(bands)
    with (
        open_product(job.destination, allow_drivers=("VRT",)) as product,
        closing(read_ahead(_pairs(job, product))) as pairs,
    ):
        for inner, made, source in pairs:
            image = np.where(made.valid, made.values, 0).astype(np.float32)
            low, good = shrink_valid(image, made.valid, job.kernel, job.plan.scale)
            both = source.valid & good[inner]
            apart = np.abs(low[inner] - np.where(both, source.values, 0).astype(np.float32))
            apart[~both] = 0
            total += apart.sum((1, 2), dtype=np.float64)
            count += both.sum((1, 2))
            largest = np.maximum(largest, apart.max((1, 2)))
    before = tally.deviation
    return ConsistencyReport(
        kernel=str(job.kernel),
        network_mean=before.mean,
        network_max=before.largest,
        product_mean=float(total.sum() / max(1, count.sum())),
        product_max=float(largest.max()),
        pixels=int(count.sum()),
        band_mean=tuple((total / np.maximum(1, count)).tolist()),
        band_max=tuple(largest.tolist()),
    )


Inner = tuple[slice, slice, slice]


def _pairs(job: Job, product: RasterReader) -> Iterator[tuple[Inner, Patch, Patch]]:
    """Windows of the source, in product and source, and where the second lies in the first."""
    assert job.kernel is not None, "without a kernel nothing is compared"
    plan, s = job.plan, job.plan.scale
    reach, whole = job.kernel.reach(s), Window(0, 0, plan.height, plan.width)
    step, rest = divmod(job.layout.blocksize, s)
    for window in _windows(plan.height, plan.width, reach, 1 if rest else step):
        around = _around(window, reach, whole)
        inner = (slice(None), *window.relative_to(around).slices)
        yield inner, product.read(around.scaled(s)), job.read(window)


def _windows(height: int, width: int, reach: int, step: int) -> Iterator[Window]:
    for top, bottom in _spread(height, reach, step):
        for left, right in _spread(width, reach, step):
            yield Window(top, left, bottom - top, right - left)


def _spread(length: int, reach: int, step: int) -> list[tuple[int, int]]:
    """(begin, end) of windows along an axis, from end to end.

    Those that leave something out are as large as they can be without a look, ``reach`` pixels
    round them, into another block of the product than they have to: all of a block is decoded
    for a single pixel of it.

    Parameters
    ----------
    length, reach
        Of the axis, and of the kernel, in source pixels.
    step
        Source pixels to a block.
    """
    if length <= GRID * SIDE:
        return [(begin, min(begin + SIDE, length)) for begin in range(0, length, SIDE)]
    step = step if step <= length // GRID else 1
    starts = [(length - SIDE) * i // (GRID - 1) // step * step for i in range(GRID)]
    ends = [start + SIDE for start in starts]
    return [
        (start + reach if start else 0, end - reach if end < length else length)
        for start, end in zip(starts, ends, strict=True)
    ]


def _around(window: Window, reach: int, whole: Window) -> Window:
    grown = Window(
        window.top - reach,
        window.left - reach,
        window.height + 2 * reach,
        window.width + 2 * reach,
    )
    inside = grown.intersection(whole)
    assert inside is not None, "windows lie in the product"
    return inside

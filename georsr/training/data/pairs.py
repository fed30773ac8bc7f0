"""Two rasters of one place by two sensors: the coarse one is LR, the fine one HR."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.raster.georef import scale_transform
from georsr.raster.reader import RasterReader
from georsr.raster.stretch import choose_stretch
from georsr.training.data.aligned import AlignedReader, Grid, moved_transform
from georsr.training.data.raster_crops import LEAST_VALID, Cut
from georsr.training.data.reader_pool import ReaderPool
from georsr.training.data.registration import (
    Overlap,
    Radiometry,
    block_mean,
    fit_radiometry,
    measure_shift,
)
from georsr.training.data.scenes import on_unit_scale
from georsr.types import Window

log = logging.getLogger(__name__)

FINER, COARSER = 2.0, 1.1
"""How many times finer or coarser than LR / scale the HR raster may be."""
PARTS = (256, 128, 64, 32)
"""LR pixels per side of the parts of the overlap that registration looks at: the largest size
of which one is all but valid."""
LEAST_CORRELATION = 0.3
"""Of a band, between HR and LR, below which they do not show the same thing."""


class SensorPair:
    """A coarse and a fine raster of one place; a `Site`.

    HR is read on the ``scale`` times finer grid of the LR raster, resampled where it has another
    one. The stretch is that of the LR raster for both, since super-resolution keeps its units.

    Parameters
    ----------
    hr, lr
        The rasters, with as many bands selected.
    scale
        Factor.
    stretch
        What maps to 0..1, decided on the LR raster.
    match_radiometry
        Bring HR to the radiometry of LR by an affine map per band, fitted to their overlap.
    max_shift
        LR pixels by which they may lie apart.
    correct_shift
        Move HR by the shift that is measured; what then remains must be within ``max_shift``.
    pool
        Keeps rasters open.

    Attributes
    ----------
    area
        What both cover, LR pixels.
    moved
        (rows, columns) in LR pixels by which HR was moved.
    shift, radiometry
        What was measured, None where nothing could be measured or nothing is matched.

    Raises
    ------
    UsageError
        They differ in bands, have no georeferencing, or their resolutions do not fit the scale.
    InputError
        They do not overlap, are shifted, or do not show the same thing.
    """

    margin = 0

    def __init__(
        self,
        hr: RasterReader,
        lr: RasterReader,
        scale: int,
        *,
        stretch: str = "auto",
        match_radiometry: bool = True,
        max_shift: float = 0.5,
        correct_shift: bool = False,
        pool: ReaderPool,
    ) -> None:
        self.lr, self.scale, self.pool = lr, scale, pool
        self.name, self.bands = hr.info.path, lr.info.count
        self._title = f"{hr.info.path} and {lr.info.path}"
        if hr.info.count != lr.info.count:
            raise UsageError(
                f"{self._title} have {hr.info.count} and {lr.info.count} bands; "
                "choose as many of each (bands, lr_bands)"
            )
        self.moved = 0.0, 0.0
        parts = self._lay(hr)
        self.shift = measure_shift(parts)
        if correct_shift and self.shift is not None:
            log.info("%s: %s; the first is moved there", self._title, self.shift.describe())
            self.moved = self.shift.dy, self.shift.dx
            parts = self._lay(hr)
            self.shift = measure_shift(parts)
        self._check_shift(max_shift)
        self.stretch = choose_stretch(lr, stretch)
        self.radiometry = self._match(parts) if match_radiometry else None
        hr.close()
        lr.close()

    def _lay(self, hr: RasterReader) -> list[Overlap]:
        """Lay HR over LR, moved by `moved`; returns parts of what they have in common."""
        coarse = Grid.of(self.lr.info)
        # content moves down where the grid that it is read on moves up
        coarse = Grid(coarse.crs, moved_transform(coarse.transform, *(-n for n in self.moved)))
        fine = Grid(coarse.crs, scale_transform(coarse.transform, self.scale))
        self.hr = AlignedReader(hr, fine, self.pool)
        self._check_resolution(coarse)
        self.area = self._overlap(coarse)
        return self._parts()

    def _check_resolution(self, coarse: Grid) -> None:
        info = self.lr.info
        ratio = coarse.pixels_of(self.hr.source, info.height / 2, info.width / 2)
        least, most = self.scale / COARSER, self.scale * FINER
        if not least <= min(ratio) <= max(ratio) <= most:
            raise UsageError(
                f"{self._title}: one pixel of the second is {ratio[0]:.3g} x {ratio[1]:.3g} of "
                f"the first, for scale {self.scale} it must be {least:.3g} to {most:.3g}; "
                "choose another scale, or resample the first"
            )

    def _overlap(self, coarse: Grid) -> Window:
        """Rows and columns of the LR raster that the HR raster can cover."""
        top, left, bottom, right = self.hr.source.bounds_on(coarse, self.hr.extent)
        # within a hundredth of a pixel the edge is the edge
        first = math.ceil(top - 0.01), math.ceil(left - 0.01)
        last = math.floor(bottom + 0.01), math.floor(right + 0.01)
        whole = Window(0, 0, self.lr.info.height, self.lr.info.width)
        covered = Window(*first, last[0] - first[0], last[1] - first[1])
        common = None
        if min(covered.height, covered.width) > 0:
            common = covered.intersection(whole)
        if common is None:
            raise InputError(f"{self._title} do not overlap")
        return common

    def _parts(self) -> list[Overlap]:
        """Up to nine parts of the overlap, spread evenly."""
        parts: list[Overlap] = []
        for side in PARTS:
            parts = [each for each in self._spread(side) if each.valid.any()] or parts
            if any(each.measurable for each in parts):
                break
        if not parts:
            raise InputError(f"{self._title} have no valid pixels in common")
        return parts

    def _spread(self, side: int) -> Iterator[Overlap]:
        height, width = (min(side, n) for n in (self.area.height, self.area.width))
        spare = self.area.height - height, self.area.width - width
        starts = {(spare[0] * i // 2, spare[1] * j // 2) for i in range(3) for j in range(3)}
        for top, left in sorted(starts):
            window = Window(self.area.top + top, self.area.left + left, height, width)
            lr = self.pool.read(self.lr, window)
            hr = self.hr.read(window.scaled(self.scale))
            whole = hr.valid.all(0).reshape(height, self.scale, width, self.scale).all((1, 3))
            valid = np.asarray(lr.valid.all(0) & whole)
            yield Overlap(lr.values.astype(np.float32), block_mean(hr.values, self.scale), valid)

    def _check_shift(self, most: float) -> None:
        if self.shift is None:
            log.warning("%s: too small, empty or flat to check for a shift", self._title)
            return
        log.info("%s: %s", self._title, self.shift.describe())
        if self.shift.size > most:
            raise InputError(
                f"{self._title}: {self.shift.describe()}, allowed are {most:g} pixels; "
                "co-register them, set correct_shift, or raise max_shift"
            )
        if self.shift.spread > max(1.0, most):
            log.warning("%s: some parts lie %.2f pixels off", self._title, self.shift.spread)

    def _match(self, parts: list[Overlap]) -> Radiometry:
        found = fit_radiometry(parts)
        for number, (gain, offset, correlation) in enumerate(
            zip(found.gain, found.offset, found.correlation, strict=True), 1
        ):
            log.info(
                "%s: selected band %d: gain %.4g, offset %.4g, correlation %.2f",
                *(self._title, number, gain, offset, correlation),
            )
            if correlation < LEAST_CORRELATION:
                raise InputError(
                    f"{self._title}: selected band {number} correlates by {correlation:.2f} only: "
                    "they do not show the same thing; check bands and dates, "
                    "or set match_radiometry to false"
                )
        return found

    def cut(self, window: Window, rng: np.random.Generator) -> Cut | None:
        """Read a window (LR pixels) of both; nothing is drawn from ``rng``."""
        hr = self.hr.read(window.scaled(self.scale))
        lr = self.pool.read(self.lr, window)
        known = np.asarray(lr.valid.all(0)).repeat(self.scale, 0).repeat(self.scale, 1)
        known &= hr.valid.all(0)
        if known.mean() < LEAST_VALID:
            return None
        values = hr.values if self.radiometry is None else self.radiometry.apply(hr.values)
        return Cut(
            on_unit_scale(lr.values, lr.valid, self.stretch),
            on_unit_scale(values, hr.valid, self.stretch),
            None if known.all() else known,
        )

"""Open the rasters that a recipe names, and hold out blocks of them for validation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count

from georsr.errors import InputError, UsageError
from georsr.io.reader import RasterReader
from georsr.radiometry.degradation import Degradation
from georsr.training.data.raster_crops import (
    Blocks,
    CropRegion,
    DegradedRaster,
    RasterCrops,
    RasterPairs,
    ReaderPool,
    divide_area,
    is_validation_block,
    raster_paths,
)
from georsr.training.data.sensor_pairs import SensorPair
from georsr.training.recipe import DataSettings
from georsr.window import Window

log = logging.getLogger(__name__)

MIN_BLOCK = 32
"""Smallest height and width of a validation block in LR pixels: borders are cropped."""


class RasterSource:
    """Regions of a run, opened once for training and for validation.

    Parameters
    ----------
    data, degradation, scale, patch
        As for :func:`georsr.training.data.source.open_source`.
    """

    def __init__(
        self, data: DataSettings, degradation: Degradation, scale: int, patch: int
    ) -> None:
        self.data, self.degradation, self.scale, self.patch = data, degradation, scale, patch
        self.pool = ReaderPool()
        self.regions = self._open(self._files())
        self._held_out = self._hold_out()

    def training(self) -> RasterCrops:
        """Return crops from everything that is not held out."""
        return RasterCrops(self.regions, self._held_out, self.scale, self.patch)

    def validation(self) -> RasterPairs:
        """Return pairs from the blocks held out, or from the rasters given for validation."""
        if self.data.validation_root:
            regions = self._open([(path,) for path in raster_paths(self.data.validation_root)])
            _check_bands([self.regions[0], *regions])
            return RasterPairs(regions, [self._blocks(region) for region in regions])
        if self.data.holdout == 0:
            raise UsageError(
                "data: holdout is 0 and there is no validation_root: nothing to validate on"
            )
        return RasterPairs(self.regions, self._held_out)

    def _blocks(self, region: CropRegion) -> list[Window]:
        # as large as the window that is read for one crop, which then fits beside any block
        size = max(MIN_BLOCK, self.patch + 2 * region.margin)
        return divide_area(region.area, size)

    def _hold_out(self) -> Blocks:
        if self.data.validation_root:
            return [[] for _ in self.regions]
        numbers, fraction = count(), self.data.holdout
        return [
            [w for w in self._blocks(region) if is_validation_block(next(numbers), fraction)]
            for region in self.regions
        ]

    def _files(self) -> list[tuple[str, ...]]:
        """Return the files of each region: a raster, or a fine one and its coarse one."""
        fine = raster_paths(self.data.root)
        if self.data.kind == "scenes":
            return [(path,) for path in fine]
        coarse = raster_paths(self.data.lr)
        if len(fine) != len(coarse):
            raise UsageError(
                f"data: {len(fine)} fine rasters (root) and {len(coarse)} coarse ones (lr); "
                "expected as many, in the same order"
            )
        if self.data.validation_root:
            raise UsageError("data: validation_root is for scenes; pairs hold blocks out")
        return list(zip(fine, coarse, strict=True))

    def _open(self, files: Sequence[tuple[str, ...]]) -> list[CropRegion]:
        opened: list[CropRegion] = []
        for paths in files:
            try:
                opened.append(self._open_one(*paths) if len(paths) == 1 else self._open_two(*paths))
            except InputError as error:
                if not self.data.skip_corrupt:
                    raise
                log.warning("left out: %s", error)
        if len(opened) < len(files):
            log.warning("%d of %d rasters left out", len(files) - len(opened), len(files))
        if not opened:
            raise InputError(f"{files[0][0]}: no usable raster is left")
        _check_bands(opened)
        return opened

    def _open_one(self, path: str) -> CropRegion:
        reader = RasterReader(path, self.data.bands or None, self.data.nodata)
        return DegradedRaster(
            reader, self.degradation, self.scale, stretch=self.data.stretch, pool=self.pool
        )

    def _open_two(self, fine: str, coarse: str) -> CropRegion:
        data = self.data
        return SensorPair(
            RasterReader(fine, data.bands or None, data.nodata),
            RasterReader(coarse, data.lr_bands or data.bands or None, data.nodata),
            self.scale,
            stretch=data.stretch,
            match_radiometry=data.match_radiometry,
            max_shift=data.max_shift,
            correct_shift=data.correct_shift,
            pool=self.pool,
        )


def _check_bands(regions: Sequence[CropRegion]) -> None:
    first = regions[0]
    for region in regions[1:]:
        if region.bands != first.bands:
            raise UsageError(
                f"{region.name} has {region.bands} bands, {first.name} has {first.bands}; "
                "choose bands that all of them have"
            )

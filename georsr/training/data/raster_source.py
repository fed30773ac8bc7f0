"""Open the rasters that a recipe names, and hold out blocks of them for validation."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from itertools import count

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.io.reader import RasterReader
from georsr.radiometry.degradation import Degradation
from georsr.radiometry.normalization import sample_windows
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


CHECKSUM_PIXELS = 2**14
"""Number of pixels by which two copies of a raster are recognized."""


class _DuplicateError(InputError):
    """Raised for a raster with the pixels of another one."""


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
        self._contents: dict[str, str] = {}
        files = self._files()
        held_out = raster_paths(data.validation_root) if data.validation_root else []
        self._validation = self._open([(path,) for path in held_out])
        self.regions = self._open(files)
        self._held_out = self._hold_out()

    def training(self) -> RasterCrops:
        """Return crops from everything that is not held out."""
        return RasterCrops(self.regions, self._held_out, self.scale, self.patch)

    def validation(self) -> RasterPairs:
        """Return pairs from the blocks held out, or from the rasters given for validation."""
        if self.data.validation_root:
            regions = self._validation
            _check_bands([self.regions[0], *regions])
            return RasterPairs(regions, [self._blocks(region) for region in regions])
        if self.data.holdout == 0:
            raise UsageError(
                "data: holdout is 0 and there is no validation_root: nothing to validate on"
            )
        return RasterPairs(self.regions, self._held_out)

    def _blocks(self, region: CropRegion) -> list[Window]:
        # as large as the window that is read for one crop, which then fits next to any block
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
                self._check_content(paths)
                opened.append(self._open_one(*paths) if len(paths) == 1 else self._open_two(*paths))
            except _DuplicateError as error:
                log.warning("left out: %s", error)
            except InputError as error:
                if not self.data.skip_corrupt:
                    raise
                log.warning("left out: %s", error)
        if len(opened) < len(files):
            log.warning("%d of %d rasters left out", len(files) - len(opened), len(files))
        if files and not opened:
            raise InputError(f"{files[0][0]}: no usable raster is left")
        _check_bands(opened)
        return opened

    def _check_content(self, paths: Sequence[str]) -> None:
        """Refuse a raster, or pair, with the pixels of an earlier one, which may be held out."""
        checksums = []
        for path in paths:
            with RasterReader(path, nodata=self.data.nodata, force=True) as reader:
                checksums.append(_content_checksum(reader))
        if not all(checksums):
            return
        content = " ".join(checksums)
        if content in self._contents:
            raise _DuplicateError(
                f"{paths[0]}: has the same pixels as {self._contents[content]}, so that training "
                "and validation might share them"
            )
        self._contents[content] = paths[0]

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


def _content_checksum(reader: RasterReader) -> str:
    """Return a checksum of sample pixels; empty if they are constant, which identifies nothing."""
    info = reader.info
    digest = hashlib.sha256(f"{info.height} {info.width} {info.dtype}".encode())
    constant = True
    for window in sample_windows(info.height, info.width, CHECKSUM_PIXELS):
        values = np.ascontiguousarray(reader.read(window).values)
        constant = constant and bool((values == values.flat[0]).all())
        digest.update(values.tobytes())
    return "" if constant else digest.hexdigest()


def _check_bands(regions: Sequence[CropRegion]) -> None:
    for region in regions[1:]:
        if region.bands != (first := regions[0]).bands:
            raise UsageError(
                f"{region.name} has {region.bands} bands, {first.name} has {first.bands}; "
                "choose bands that all of them have"
            )

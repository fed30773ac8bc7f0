"""Draw crops, and list validation pairs, from windows of rasters."""

from __future__ import annotations

import copy
import logging
import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from georsr._files import is_hidden, read_list
from georsr.errors import InputError, UsageError
from georsr.io.gdal_env import is_remote
from georsr.io.reader import RasterReader, choose_normalization
from georsr.radiometry.degradation import Degradation
from georsr.radiometry.nodata import erode_mask
from georsr.radiometry.normalization import Normalization
from georsr.training.data.crops import Crop, Pair, flip_rotate
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window

log = logging.getLogger(__name__)

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def divide_area(area: Window, size: int) -> list[Window]:
    """Divide an area into blocks of about ``size`` x ``size``, row by row.

    All blocks of an area differ by one pixel at most in height and in width; an area smaller
    than one and a half blocks along an axis is not divided along it.
    """
    rows, columns = _edges(area.height, size), _edges(area.width, size)
    return [
        Window(area.top + top, area.left + left, bottom - top, right - left)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def _edges(length: int, size: int) -> list[int]:
    count = max(1, round(length / size))
    return [length * i // count for i in range(count + 1)]


def is_validation_block(number: int, fraction: float) -> bool:
    """Return whether block ``number`` (from 0) is for validation.

    Multiples of the golden ratio are spread evenly over 0..1. The blocks held out are therefore
    spread over rows and columns, any run of blocks has about ``fraction`` of them, and whether a
    block is held out does not depend on the number of blocks. Block 0 is held out for every
    ``fraction`` above 0.
    """
    return (number * GOLDEN_RATIO) % 1.0 < fraction


SUFFIXES = (".tif", ".tiff", ".jp2")
"""Suffixes of the rasters that are read from a folder."""


def raster_paths(entries: Sequence[str]) -> list[str]:
    """Return paths of rasters without duplicates, in the order of the entries.

    Parameters
    ----------
    entries
        - a folder: every ``.tif``, ``.tiff`` and ``.jp2`` in and below it, sorted, except hidden
          files;
        - a pattern with ``*``, ``?``, ``[`` or ``**``: every file it matches, sorted, except
          hidden files;
        - a ``.txt`` file: one path a line, relative to the list's folder; ``#`` begins a comment at
          the beginning of a line or after a space;
        - anything else: a name that GDAL opens, unchanged.

    Raises
    ------
    UsageError
        There is no entry, or a pattern or a list without any raster.
    InputError
        A folder has no rasters, or a list cannot be read.
    """
    if not entries:
        raise UsageError("data: no raster is given; name a folder, a pattern, a list or a file")
    return list(dict.fromkeys(path for entry in entries for path in _expand(entry)))


def _expand(entry: str) -> list[str]:
    path = Path(entry)
    if path.is_dir():
        inside = sorted(
            str(p)
            for p in path.rglob("*")
            if p.suffix.lower() in SUFFIXES and not is_hidden(p, path) and p.is_file()
        )
        if not inside:
            raise InputError(f"{entry}: no rasters in this folder ({', '.join(SUFFIXES)})")
        return inside
    if path.suffix.lower() == ".txt":
        return _read_list(path)
    if any(sign in entry for sign in "*?[") and not path.exists() and not is_remote(entry):
        start = Path(path.anchor)
        matched = sorted(
            str(p)
            for p in start.glob(str(path.relative_to(start)))
            if p.is_file() and (is_hidden(path, start) or not is_hidden(p, start))
        )
        if not matched:
            raise UsageError(f"{entry}: no file matches this pattern")
        return matched
    return [entry]


def _read_list(path: Path) -> list[str]:
    names = [_without_comment(line, path.parent) for line in read_list(path)]
    if not names:
        raise UsageError(f"{path}: the list names no raster")
    return [name if "://" in name else str(path.parent / name) for name in names]


def _without_comment(line: str, folder: Path) -> str:
    """Return a line without the comment after a space, unless it is the name of a file."""
    return line if os.path.lexists(folder / line) else re.split(r"\s#", line)[0].strip()


MAX_OPEN = 32


class ReaderPool:
    """Reads windows of many rasters and keeps the most recently used ones open.

    Handles are not shared between processes: after a fork, and after unpickling, each process
    opens the rasters that it reads.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._open: OrderedDict[int, tuple[RasterReader, RasterReader]] = OrderedDict()

    def read(self, reader: RasterReader, window: Window) -> PixelBlock:
        """Read a window through a copy of ``reader`` that belongs to this process."""
        if self._process != os.getpid():
            self._process, self._open = os.getpid(), OrderedDict()
        key = id(reader)
        if key not in self._open:
            # a copy has no handle; while the original is referenced, its id is not reused
            self._open[key] = reader, copy.copy(reader)
        self._open.move_to_end(key)
        while len(self._open) > MAX_OPEN:
            _, (_, oldest) = self._open.popitem(last=False)
            oldest.close()
        return self._open[key][1].read(window)

    def __len__(self) -> int:
        return len(self._open)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}


MIN_VALID = 0.5
"""Fraction of valid HR pixels below which a window is not used."""
MAX_DRAWS = 1000
"""Windows drawn before an error: with one usable window in fifty, it fails once in 600 million."""
MAX_PAIRS = 400
"""Most validation windows; of more, evenly spread ones are used."""
VALIDATION_SEED = 30_000
"""First number of the seed of each validation window, the same in every run."""


class CropRegion(Protocol):
    """An area of one or two rasters from which windows, in LR pixels, are read."""

    @property
    def name(self) -> str:
        """Path of the HR raster, for messages."""

    @property
    def bands(self) -> int:
        """Number of bands."""

    @property
    def area(self) -> Window:
        """Area that contains every window."""

    @property
    def margin(self) -> int:
        """LR pixels round a window that are read, too."""

    def read(self, window: Window, rng: np.random.Generator) -> Crop | None:
        """Read a window inside `area`; None if less than `MIN_VALID` of it is valid."""


Blocks = Sequence[Sequence[Window]]
"""Windows of each region."""


class RasterCrops:
    """Random windows of rasters, each position with the same probability; a `CropSource`.

    Parameters
    ----------
    regions
        Regions to draw from.
    excluded
        Blocks of each region of which no pixel is read.
    scale
        Super-resolution factor.
    patch
        Height and width of an LR crop in pixels.

    Raises
    ------
    InputError
        A region has no window with enough valid pixels, or no region has room for a window outside
        the excluded blocks.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self, regions: Sequence[CropRegion], excluded: Blocks, scale: int, patch: int
    ) -> None:
        self.scale, self.patch, self.bands = scale, patch, regions[0].bands
        self.regions, self.excluded = list(regions), [list(blocks) for blocks in excluded]
        positions = [self._count_positions(i) for i in range(len(regions))]
        if not any(positions):
            raise InputError(
                f"{regions[0].name}{_n_more(regions)}: no room for a window of {patch} LR pixels "
                f"(and {regions[0].margin} around it) outside the blocks held out; set a smaller "
                "patch in a recipe of your own (`georsr train --show NAME > mine.yaml`), or take "
                "other rasters for validation"
            )
        self._cumulative = np.cumsum(positions) / sum(positions)

    @property
    def count(self) -> int:
        """Number of rasters, or pairs of rasters, that crops come from."""
        return int(np.count_nonzero(np.diff(self._cumulative, prepend=0.0)))

    def _count_positions(self, index: int) -> int:
        """Return the positions of a window in a region; 0 if all read excluded blocks."""
        region = self.regions[index]
        rows, columns = region.area.height - self.patch + 1, region.area.width - self.patch + 1
        if min(rows, columns) < 1:
            return 0
        rng = np.random.default_rng([VALIDATION_SEED, index])
        drawn = (self._draw_window(index, rng) for _ in range(MAX_DRAWS))
        allowed = [window for window in drawn if window is not None]
        if not allowed:
            log.info("%s: not trained on, too small without its held-out blocks", region.name)
            return 0
        if all(region.read(window, rng) is None for window in allowed):
            raise InputError(
                f"{region.name}: in {len(allowed)} windows of {self.patch} LR pixels none has "
                f"{MIN_VALID:.0%} of valid pixels; leave the raster out, or crop its empty part"
            )
        return rows * columns

    def _draw_window(self, index: int, rng: np.random.Generator) -> Window | None:
        """Draw a window of a region; None if it reads an excluded block."""
        region = self.regions[index]
        top = region.area.top + int(rng.integers(region.area.height - self.patch + 1))
        left = region.area.left + int(rng.integers(region.area.width - self.patch + 1))
        window = Window(top, left, self.patch, self.patch)
        padded = window.grow(region.margin)
        if any(padded.intersection(block) is not None for block in self.excluded[index]):
            return None
        return window

    def crop(self, rng: np.random.Generator) -> Crop:
        """Draw a raster, a window, an orientation and the random part of the degradation.

        Raises
        ------
        InputError
            A raster cannot be read, or too few windows have enough valid pixels.
        """
        index = 0
        for _ in range(MAX_DRAWS):
            index = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
            window = self._draw_window(index, rng)
            crop = None if window is None else self.regions[index].read(window, rng)
            if crop is not None:
                return _flip_rotate_crop(crop, int(rng.integers(8)))
        raise InputError(
            f"{self.regions[index].name}{_n_more(self.regions)}: {MAX_DRAWS} windows drawn in a "
            f"row had less than {MIN_VALID:.0%} of valid pixels; crop the empty parts of the "
            "rasters"
        )


def _flip_rotate_crop(crop: Crop, element: int) -> Crop:
    lr, hr = (np.ascontiguousarray(flip_rotate(image, element)) for image in (crop.lr, crop.hr))
    valid = None if crop.valid is None else np.ascontiguousarray(flip_rotate(crop.valid, element))
    return replace(crop, lr=lr, hr=hr, valid=valid)


def _n_more(regions: Sequence[CropRegion]) -> str:
    return "" if len(regions) == 1 else f" and {len(regions) - 1} others"


class RasterPairs:
    """Fixed windows of rasters, read at every iteration; a `PairSource`.

    Parameters
    ----------
    regions
        Regions to read from.
    blocks
        Windows of each region; those with too few valid pixels are left out.

    Raises
    ------
    InputError
        No window is left.
    """

    def __init__(self, regions: Sequence[CropRegion], blocks: Blocks) -> None:
        self.regions = list(regions)
        listed = [(i, window) for i, windows in enumerate(blocks) for window in windows]
        if len(listed) > MAX_PAIRS:
            log.info("%d of %d validation blocks are used", MAX_PAIRS, len(listed))
            listed = [listed[i * len(listed) // MAX_PAIRS] for i in range(MAX_PAIRS)]
        self.windows = [
            (index, window) for index, window in listed if self._read(index, window) is not None
        ]
        if not self.windows:
            raise InputError(
                f"{regions[0].name}{_n_more(regions)}: none of {len(listed)} validation blocks "
                f"has {MIN_VALID:.0%} of valid pixels; give other rasters for validation"
            )

    def _read(self, index: int, window: Window) -> Crop | None:
        rng = np.random.default_rng([VALIDATION_SEED, index, window.top, window.left])
        return self.regions[index].read(window, rng)

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Pair]:
        for index, window in self.windows:
            crop, name = self._read(index, window), self.regions[index].name
            if crop is None:
                raise InputError(f"{name}: has changed since training began: {window} is empty")
            yield Pair(Path(name).stem, crop.hr, crop.lr, crop.valid)


class DegradedRaster:
    """A raster that is degraded window by window; a `CropRegion`.

    Parameters
    ----------
    reader
        Raster and its selected bands.
    degradation
        Degradation from HR to LR.
    scale
        Super-resolution factor.
    normalization
        Normalization to 0..1, chosen once for the full raster as ``georsr sr`` does.
    pool
        Pool that reads the raster.
    """

    def __init__(
        self,
        reader: RasterReader,
        degradation: Degradation,
        scale: int,
        *,
        stretch: str = "auto",
        pool: ReaderPool,
    ) -> None:
        self.reader, self.degradation, self.scale, self.pool = reader, degradation, scale, pool
        self.name, self.bands = reader.info.path, reader.info.count
        self.area = Window(0, 0, reader.info.height // scale, reader.info.width // scale)
        self.margin = degradation.margin(scale) // scale
        if min(self.area.height, self.area.width) < 1:
            raise InputError(f"{self.name}: has less than {scale} x {scale} pixels")
        self.normalization = choose_normalization(reader, stretch)
        reader.close()

    def read(self, window: Window, rng: np.random.Generator) -> Crop | None:
        """Read a window (LR pixels) with the margin of its degradation, and degrade it.

        Invalid pixels are filled from valid ones before the degradation, as before super-
        resolution. HR pixels under an LR pixel that depends on filled ones do not count.
        """
        padded = window.grow(self.margin).intersection(self.area) or window
        block = self.pool.read(self.reader, padded.scaled(self.scale))
        inner = window.relative_to(padded)
        valid = valid_after_degradation(np.asarray(block.valid.all(0)), self.scale, self.margin)
        if valid is not None:
            valid = np.ascontiguousarray(valid[inner.scaled(self.scale).slices])
            if valid.mean() < MIN_VALID:
                return None
        hr = normalize_filled(block.values, block.valid, self.normalization)
        lr = self.degradation(hr, self.scale, rng)
        return Crop(
            np.ascontiguousarray(lr[:, *inner.slices]),
            np.ascontiguousarray(hr[:, *inner.scaled(self.scale).slices]),
            None if valid is None or valid.all() else valid,
        )


def normalize_filled(
    values: AnyArray, valid: BoolArray, normalization: Normalization
) -> FloatArray:
    """Fill invalid pixels of (C, h, w), normalize to 0..1 and clip, as for networks."""
    x = normalization.forward_filled(values, normalization.usable(values, valid))
    return np.clip(x, np.float32(0), np.float32(1), out=x)


def valid_after_degradation(valid: BoolArray, scale: int, margin: int) -> BoolArray | None:
    """Find the HR pixels whose LR pixel depends on valid pixels alone.

    Parameters
    ----------
    valid
        (s * h, s * w), True for valid HR pixels.
    scale
        s.
    margin
        LR pixels round an LR pixel on which it depends.

    Returns
    -------
    ndarray or None
        Same shape, True in complete blocks of s x s; None where everything is valid.
    """
    if valid.all():
        return None
    height, width = (n // scale for n in valid.shape)
    cells = np.asarray(valid.reshape(height, scale, width, scale).all((1, 3)))
    return erode_mask(cells, margin).repeat(scale, 0).repeat(scale, 1)

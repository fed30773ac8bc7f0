"""Crops and validation pairs from windows of rasters, wherever their LR comes from.

Rasters of any type and number of bands, degraded window by window.

Blocks of a raster kept out of training: pure arithmetic on windows.

Which rasters are meant: folders, patterns, lists and paths.

Open rasters of one process, a bounded number of them.
"""

from __future__ import annotations

import copy
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from georsr.errors import InputError, UsageError
from georsr.io.gdal_env import is_remote
from georsr.io.normalization import choose_normalization
from georsr.io.reader import RasterReader
from georsr.radiometry.degradation import Degradation
from georsr.radiometry.nodata import fill_invalid
from georsr.radiometry.normalization import Normalization
from georsr.training.data.crops import Crop, Pair, flip_rotate
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window

GOLDEN = (math.sqrt(5) - 1) / 2


def blocks_of(area: Window, side: int) -> list[Window]:
    """Divide an area into blocks of about ``side`` x ``side``, row by row.

    All blocks of an area differ by one pixel at most in height and in width; an area smaller
    than one and a half blocks along an axis is not divided along it.
    """
    rows, columns = _edges(area.height, side), _edges(area.width, side)
    return [
        Window(area.top + top, area.left + left, bottom - top, right - left)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def _edges(length: int, side: int) -> list[int]:
    count = max(1, round(length / side))
    return [length * i // count for i in range(count + 1)]


def is_validation_block(number: int, share: float) -> bool:
    """Whether block ``number`` (from 0) is for validation.

    Multiples of the golden ratio fall evenly over 0..1, so the blocks held out are spread over
    rows and columns, their part of any run of blocks is near ``share``, and a block's fate does
    not depend on how many come after it. Block 0 is held out for every ``share`` above 0.
    """
    return (number * GOLDEN) % 1.0 < share


SUFFIXES = (".tif", ".tiff", ".jp2")
"""Of the rasters taken from a folder."""


def raster_paths(entries: Sequence[str]) -> list[str]:
    """Paths of rasters, each once, in the order of the entries.

    Parameters
    ----------
    entries
        - a folder: every ``.tif``, ``.tiff`` and ``.jp2`` in and below it, sorted;
        - a pattern with ``*``, ``?``, ``[`` or ``**``: every file it matches, sorted;
        - a ``.txt`` file: one path a line, relative to the list's folder, ``#`` begins a comment;
        - anything else: what GDAL opens, taken as it is.

    Raises
    ------
    UsageError
        No entry at all, or a pattern or a list without any raster.
    InputError
        A folder without rasters, or a list that cannot be read.
    """
    if not entries:
        raise UsageError("data: no raster is given; name a folder, a pattern, a list or a file")
    found = [path for entry in entries for path in _expand(entry)]
    return list(dict.fromkeys(found))


def _expand(entry: str) -> list[str]:
    path = Path(entry)
    if path.is_dir():
        inside = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise InputError(f"{entry}: no rasters in this folder ({', '.join(SUFFIXES)})")
        return inside
    if path.suffix.lower() == ".txt":
        return _listed(path)
    if any(sign in entry for sign in "*?[") and not path.exists() and not is_remote(entry):
        start = Path(path.anchor)
        matched = sorted(str(p) for p in start.glob(str(path.relative_to(start))) if p.is_file())
        if not matched:
            raise UsageError(f"{entry}: no file matches this pattern")
        return matched
    return [entry]


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a list of rasters: {error}") from error
    names = [line.split("#")[0].strip() for line in lines]
    paths = [name if "://" in name else str(path.parent / name) for name in names if name]
    if not paths:
        raise UsageError(f"{path}: the list names no raster")
    return paths


MAX_OPEN = 32


class ReaderPool:
    """Reads windows of many rasters and keeps the most recently used ones open.

    Handles are never shared between processes: after a fork, and after unpickling, every raster
    is opened anew by whoever reads it.
    """

    def __init__(self, limit: int = MAX_OPEN) -> None:
        self.limit = limit
        self._process = os.getpid()
        self._open: OrderedDict[int, tuple[RasterReader, RasterReader]] = OrderedDict()

    def read(self, reader: RasterReader, window: Window) -> PixelBlock:
        """Read through a copy of ``reader`` that belongs to this process."""
        if self._process != os.getpid():
            self._process, self._open = os.getpid(), OrderedDict()
        key = id(reader)
        if key not in self._open:
            # a copy comes without the handle; the original is kept so that its id stays its own
            self._open[key] = reader, copy.copy(reader)
        self._open.move_to_end(key)
        while len(self._open) > self.limit:
            _, (_, oldest) = self._open.popitem(last=False)
            oldest.close()
        return self._open[key][1].read(window)

    def __len__(self) -> int:
        return len(self._open)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}


log = logging.getLogger(__name__)

MIN_VALID = 0.5
"""Share of valid HR pixels below which a window is not used."""
DRAWS = 1000
"""Windows drawn before giving up: with one usable window in fifty, once in 600 million crops."""
MAX_PAIRS = 400
"""Validation windows; of more, evenly spread ones are taken."""
VALIDATION_SEED = 30_000
"""First word of the seed of validation window i, the same in every run."""


@dataclass(frozen=True)
class RasterCrop:
    """The pixels of one window: LR (C, h, w), HR (C, s * h, s * w) float32 in 0..1."""

    lr: FloatArray
    hr: FloatArray
    valid: BoolArray | None
    """(s * h, s * w) where HR is known and its LR saw valid pixels only; None: everywhere."""


class CropRegion(Protocol):
    """A place that windows are cut from; windows are in LR pixels."""

    @property
    def name(self) -> str:
        """Path of the HR raster, for messages."""

    @property
    def bands(self) -> int:
        """Number of bands."""

    @property
    def area(self) -> Window:
        """Where windows may lie."""

    @property
    def margin(self) -> int:
        """LR pixels round a window that are read, too."""

    def cut(self, window: Window, rng: np.random.Generator) -> RasterCrop | None:
        """Read a window inside `area`; None with less than `MIN_VALID` of valid pixels."""


Blocks = Sequence[Sequence[Window]]
"""For each site, the windows kept out of training."""


class RasterCrops:
    """Random windows, every place of every raster as likely as any other; a `CropSource`.

    Parameters
    ----------
    sites
        Where from.
    kept_out
        Blocks of each site of which no pixel is read.
    scale, patch
        Factor, height and width of an LR crop in pixels.

    Raises
    ------
    InputError
        A site has no window with enough valid pixels, or no site has room for one beside the
        blocks kept out.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self, sites: Sequence[CropRegion], kept_out: Blocks, scale: int, patch: int
    ) -> None:
        self.scale, self.patch, self.bands = scale, patch, sites[0].bands
        self.sites, self.kept_out = list(sites), [list(each) for each in kept_out]
        places = [self._regions(i) for i in range(len(sites))]
        if not any(places):
            raise InputError(
                f"{sites[0].name}{_n_more(sites)}: no room for a window of {patch} LR pixels "
                f"(and {sites[0].margin} round it) beside the blocks held out; choose a smaller "
                "patch, or other rasters for validation"
            )
        self._chances = np.cumsum(places) / sum(places)

    @property
    def count(self) -> int:
        """Number of rasters, or pairs of them, that crops come from."""
        return int(np.count_nonzero(np.diff(self._chances, prepend=0.0)))

    def _regions(self, index: int) -> int:
        """Number of places for a window in a site, 0 if all of them touch what is kept out."""
        area = self.sites[index].area
        rows, columns = area.height - self.patch + 1, area.width - self.patch + 1
        if min(rows, columns) < 1:
            return 0
        rng = np.random.default_rng([VALIDATION_SEED, index])
        free = [w for w in (self._place(index, rng) for _ in range(DRAWS)) if w is not None]
        if not free:
            log.info("%s: not trained on, too small beside its held-out blocks", self._name(index))
            return 0
        if all(self.sites[index].cut(window, rng) is None for window in free):
            raise InputError(
                f"{self._name(index)}: in {len(free)} windows of {self.patch} LR pixels none has "
                f"{MIN_VALID:.0%} of valid pixels; leave the raster out, or crop its empty part"
            )
        return rows * columns

    def _name(self, index: int) -> str:
        return self.sites[index].name

    def _place(self, index: int, rng: np.random.Generator) -> Window | None:
        """A window somewhere in a site; None if it would read what is kept out."""
        site = self.sites[index]
        top = site.area.top + int(rng.integers(site.area.height - self.patch + 1))
        left = site.area.left + int(rng.integers(site.area.width - self.patch + 1))
        window = Window(top, left, self.patch, self.patch)
        read = window.grow(site.margin)
        if any(read.intersection(block) is not None for block in self.kept_out[index]):
            return None
        return window

    def crop(self, rng: np.random.Generator) -> Crop:
        """Draw raster, place, orientation and what the degradation leaves to chance.

        Raises
        ------
        InputError
            A raster cannot be read, or far too few windows have enough valid pixels.
        """
        index = 0
        for _ in range(DRAWS):
            index = int(np.searchsorted(self._chances, rng.random(), side="right"))
            window = self._place(index, rng)
            cut = None if window is None else self.sites[index].cut(window, rng)
            if cut is not None:
                return _oriented(cut, int(rng.integers(8)))
        raise InputError(
            f"{self._name(index)}{_n_more(self.sites)}: {DRAWS} windows drawn in a row had "
            f"less than {MIN_VALID:.0%} of valid pixels; crop the empty parts of the rasters"
        )


def _oriented(cut: RasterCrop, element: int) -> Crop:
    lr, hr = (np.ascontiguousarray(flip_rotate(image, element)) for image in (cut.lr, cut.hr))
    valid = None if cut.valid is None else np.ascontiguousarray(flip_rotate(cut.valid, element))
    return Crop(lr, hr, valid)


def _n_more(sites: Sequence[CropRegion]) -> str:
    return "" if len(sites) == 1 else f" and {len(sites) - 1} others"


class RasterPairs:
    """Fixed windows of rasters, read at every iteration; a `PairSource`.

    Parameters
    ----------
    sites
        Where from.
    blocks
        Windows of each site; those with too few valid pixels are left out.

    Raises
    ------
    InputError
        None is left.
    """

    def __init__(self, sites: Sequence[CropRegion], blocks: Blocks) -> None:
        self.sites = list(sites)
        listed = [(i, window) for i, windows in enumerate(blocks) for window in windows]
        if len(listed) > MAX_PAIRS:
            log.info("%d of %d validation blocks are used", MAX_PAIRS, len(listed))
            listed = [listed[i * len(listed) // MAX_PAIRS] for i in range(MAX_PAIRS)]
        self.windows = [
            (index, window) for index, window in listed if self._cut(index, window) is not None
        ]
        if not self.windows:
            raise InputError(
                f"{sites[0].name}{_n_more(sites)}: none of {len(listed)} validation blocks "
                f"has {MIN_VALID:.0%} of valid pixels; give other rasters for validation"
            )

    def _cut(self, index: int, window: Window) -> RasterCrop | None:
        rng = np.random.default_rng([VALIDATION_SEED, index, window.top, window.left])
        return self.sites[index].cut(window, rng)

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Pair]:
        for index, window in self.windows:
            cut = self._cut(index, window)
            if cut is None:
                name = self.sites[index].name
                raise InputError(f"{name}: has changed since training began: {window} is empty")
            yield Pair(Path(self.sites[index].name).stem, cut.hr, cut.lr, cut.valid)


class DegradedRaster:
    """A raster whose LR version a degradation makes; a `Site`.

    Parameters
    ----------
    reader
        The raster and its selected bands.
    degradation, scale
        How and by how much it is degraded.
    stretch
        What maps to 0..1, decided once for the whole scene as ``georsr sr`` does.
    pool
        Keeps rasters open.
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
        self.stretch = choose_normalization(reader, stretch)
        reader.close()

    def cut(self, window: Window, rng: np.random.Generator) -> RasterCrop | None:
        """Read a window (LR pixels) with what its degradation reaches, and degrade it.

        Invalid pixels are filled from valid ones before the degradation, as before super-
        resolution; HR pixels under an LR pixel that the fill has reached do not count.
        """
        around = window.grow(self.margin).intersection(self.area) or window
        patch = self.pool.read(self.reader, around.scaled(self.scale))
        inner = window.relative_to(around)
        valid = valid_after_degradation(np.asarray(patch.valid.all(0)), self.scale, self.margin)
        if valid is not None:
            valid = np.ascontiguousarray(valid[inner.scaled(self.scale).slices])
            if valid.mean() < MIN_VALID:
                return None
        hr = on_unit_scale(patch.values, patch.valid, self.stretch)
        lr = self.degradation(hr, self.scale, rng)
        return RasterCrop(
            np.ascontiguousarray(lr[(slice(None), *inner.slices)]),
            np.ascontiguousarray(hr[(slice(None), *inner.scaled(self.scale).slices)]),
            None if valid is None or valid.all() else valid,
        )


def on_unit_scale(values: AnyArray, valid: BoolArray, stretch: Normalization) -> FloatArray:
    """(C, h, w) in the file's units to float32 0..1, filled and clipped, as networks see it."""
    filled = values.astype(np.float32)
    if not valid.all():
        filled = fill_invalid(filled, valid)
    x = stretch.forward(filled)
    return np.clip(x, np.float32(0), np.float32(1), out=x)


def valid_after_degradation(good: BoolArray, scale: int, margin: int) -> BoolArray | None:
    """HR pixels whose LR pixel depends on valid pixels alone.

    Parameters
    ----------
    good
        (s * h, s * w), True for valid HR pixels.
    scale
        s.
    margin
        LR pixels that the degradation reaches beyond an LR pixel.

    Returns
    -------
    ndarray or None
        Same shape, True in whole blocks of s x s; None where everything is valid.
    """
    if good.all():
        return None
    height, width = (n // scale for n in good.shape)
    bad = np.asarray(~good.reshape(height, scale, width, scale).all((1, 3)))
    for axis in (0, 1):
        bad = _dilated(bad, margin, axis)
    return ~bad.repeat(scale, 0).repeat(scale, 1)


def _dilated(bad: BoolArray, margin: int, axis: int) -> BoolArray:
    """True wherever ``bad`` is within ``margin`` pixels along an axis."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (margin, margin)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(bad, padding), 2 * margin + 1, axis)
    return np.asarray(windows.any(-1))

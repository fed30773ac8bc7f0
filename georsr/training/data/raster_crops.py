"""Crops and validation pairs from windows of rasters, wherever their LR comes from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from georsr.errors import InputError
from georsr.training.data.crops import Crop, Pair, dihedral, grown
from georsr.types import BoolArray, FloatArray, Window

log = logging.getLogger(__name__)

LEAST_VALID = 0.5
"""Share of valid HR pixels below which a window is not used."""
DRAWS = 1000
"""Windows drawn before giving up: with one usable window in fifty, once in 600 million crops."""
MOST_PAIRS = 400
"""Validation windows; of more, evenly spread ones are taken."""
WHOLE = 30_000
"""First word of the seed of validation window i, the same in every run."""


@dataclass(frozen=True)
class Cut:
    """The pixels of one window: LR (C, h, w), HR (C, s * h, s * w) float32 in 0..1."""

    lr: FloatArray
    hr: FloatArray
    valid: BoolArray | None
    """(s * h, s * w) where HR is known and its LR saw valid pixels only; None: everywhere."""


class Site(Protocol):
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

    def cut(self, window: Window, rng: np.random.Generator) -> Cut | None:
        """Read a window inside `area`; None with less than `LEAST_VALID` of valid pixels."""


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

    def __init__(self, sites: Sequence[Site], kept_out: Blocks, scale: int, patch: int) -> None:
        self.scale, self.patch, self.bands = scale, patch, sites[0].bands
        self.sites, self.kept_out = list(sites), [list(each) for each in kept_out]
        places = [self._places(i) for i in range(len(sites))]
        if not any(places):
            raise InputError(
                f"{sites[0].name}{_and_others(sites)}: no room for a window of {patch} LR pixels "
                f"(and {sites[0].margin} round it) beside the blocks held out; choose a smaller "
                "patch, or other rasters for validation"
            )
        self._chances = np.cumsum(places) / sum(places)

    @property
    def count(self) -> int:
        """Number of rasters, or pairs of them, that crops come from."""
        return int(np.count_nonzero(np.diff(self._chances, prepend=0.0)))

    def _places(self, index: int) -> int:
        """Number of places for a window in a site, 0 if all of them touch what is kept out."""
        area = self.sites[index].area
        rows, columns = area.height - self.patch + 1, area.width - self.patch + 1
        if min(rows, columns) < 1:
            return 0
        rng = np.random.default_rng([WHOLE, index])
        free = [w for w in (self._place(index, rng) for _ in range(DRAWS)) if w is not None]
        if not free:
            log.info("%s: not trained on, too small beside its held-out blocks", self._name(index))
            return 0
        if all(self.sites[index].cut(window, rng) is None for window in free):
            raise InputError(
                f"{self._name(index)}: in {len(free)} windows of {self.patch} LR pixels none has "
                f"{LEAST_VALID:.0%} of valid pixels; leave the raster out, or crop its empty part"
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
        read = grown(window, site.margin)
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
            f"{self._name(index)}{_and_others(self.sites)}: {DRAWS} windows drawn in a row had "
            f"less than {LEAST_VALID:.0%} of valid pixels; crop the empty parts of the rasters"
        )


def _oriented(cut: Cut, element: int) -> Crop:
    lr, hr = (np.ascontiguousarray(dihedral(image, element)) for image in (cut.lr, cut.hr))
    valid = None if cut.valid is None else np.ascontiguousarray(dihedral(cut.valid, element))
    return Crop(lr, hr, valid)


def _and_others(sites: Sequence[Site]) -> str:
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

    def __init__(self, sites: Sequence[Site], blocks: Blocks) -> None:
        self.sites = list(sites)
        listed = [(i, window) for i, windows in enumerate(blocks) for window in windows]
        if len(listed) > MOST_PAIRS:
            log.info("%d of %d validation blocks are used", MOST_PAIRS, len(listed))
            listed = [listed[i * len(listed) // MOST_PAIRS] for i in range(MOST_PAIRS)]
        self.windows = [
            (index, window) for index, window in listed if self._cut(index, window) is not None
        ]
        if not self.windows:
            raise InputError(
                f"{sites[0].name}{_and_others(sites)}: none of {len(listed)} validation blocks "
                f"has {LEAST_VALID:.0%} of valid pixels; give other rasters for validation"
            )

    def _cut(self, index: int, window: Window) -> Cut | None:
        rng = np.random.default_rng([WHOLE, index, window.top, window.left])
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

"""Real pairs: a coarse and a fine raster of the same ground, listed, opened and aligned.

How much real detail enlargements of a coarse image have: gain over bicubic against a fine one.

The two images differ in more than resolution: in sensor, bands, gain, offset and a part of a pixel.
All that is fitted alike for every enlargement, so that what is left tells them apart.

Evaluation on real pairs: open the models and the pairs that fit them, enlarge, measure.
"""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from affine import Affine
from scipy.ndimage import fourier_shift, gaussian_filter
from scipy.optimize import nnls

from georsr.errors import GeoreferenceWarning, InputError, UsageError
from georsr.evaluation.registration import phase_shift
from georsr.io.metadata import RasterInfo, format_pixel_size
from georsr.io.reader import RasterReader, open_raster
from georsr.window import AnyArray, Window

LIST = "pairs.tsv"
COLUMNS = ("name", "scale", "rgb")
"""Columns that the list must have; others are for people."""
SCALES = range(2, 9)
SIDE = 160
"""Most coarse pixels along each axis that are measured, from the corner that both share."""
SMALLEST = 24
"""Fewest coarse pixels along each axis."""
TOLERANCE = 0.01
"""How far the ratio of pixel sizes may be from the scale, as a share of it, and sin(rotation)."""


@dataclass(frozen=True)
class Pair:
    """One line of the list."""

    name: str
    scale: int
    rgb: tuple[int, ...]
    """Bands of the coarse raster, from 1, that are red, green and blue; empty: it has no colour."""
    coarse: str
    """Path."""
    fine: str


@dataclass(frozen=True)
class Ground:
    """Pixels of a pair, on grids that share their top left corner.

    Attributes
    ----------
    coarse : float64 (C, h, w)
        All bands of the coarse raster.
    fine : float64 (scale * h, scale * w)
        First band of the fine one.
    rgb : tuple of int
        Positions of red, green and blue in ``coarse``; empty: there are none.
    """

    coarse: AnyArray
    fine: AnyArray
    rgb: tuple[int, ...]


def read_pairs(folder: Path) -> list[Pair]:
    """Read the list of a folder of pairs.

    Parameters
    ----------
    folder
        Holds ``pairs.tsv``, and ``NAME_lr.tif`` and ``NAME_hr.tif`` for each line of it.

    Raises
    ------
    InputError
        The list or a raster is not there, or a line of the list is not as it should be.
    """
    path = folder / LIST
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            pairs = list(_rows(folder, csv.DictReader(file, delimiter="\t")))
    except OSError as error:
        raise (
            error
            if isinstance(error, InputError)
            else InputError(
                f"{path}: cannot be read ({error.strerror}); expected a list of pairs with the "
                f"columns {', '.join(COLUMNS)}"
            )
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not tab-separated text in UTF-8 ({error})") from error
    if not pairs:
        raise InputError(f"{path}: lists no pair")
    return pairs


def _rows(folder: Path, reader: csv.DictReader[str]) -> Iterator[Pair]:
    path, seen = folder / LIST, set()
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f"{path}: has no column {missing[0]}; expected {', '.join(COLUMNS)}, separated by tabs"
        )
    for row in reader:
        name, scale, rgb = ((row[column] or "").strip() for column in COLUMNS)
        where = f"{path}, line {reader.line_num}"
        if not name or name in seen:
            raise InputError(f"{where}: name {name!r}, expected one that no other line has")
        if not re.fullmatch("[1-9]", scale) or int(scale) not in SCALES:
            raise InputError(f"{where}: scale {scale!r}, expected a whole number from 2 to 8")
        if not re.fullmatch("-|[1-9][0-9]*(,[1-9][0-9]*){2}", rgb):
            raise InputError(
                f"{where}: rgb {rgb!r}, expected three band numbers such as 3,2,1, or -"
            )
        seen.add(name)
        files = [folder / f"{name}_{end}.tif" for end in ("lr", "hr")]
        for file in files:
            if not file.is_file():
                raise InputError(f"{where}: {file} does not exist")
        bands = () if rgb == "-" else tuple(int(number) for number in rgb.split(","))
        yield Pair(name, int(scale), bands, str(files[0]), str(files[1]))


def open_pair(pair: Pair) -> Ground:
    """Read what both rasters of a pair show.

    Raises
    ------
    UsageError
        They do not belong together: other CRS, rotated, pixel sizes of another ratio, no common
        ground, or bands that are not there.
    InputError
        Pixels of the common ground are invalid, or one value fills it.
    """
    with (
        warnings.catch_warnings(action="ignore", category=GeoreferenceWarning),  # none is needed
        open_raster(pair.coarse) as lr,
        open_raster(pair.fine) as hr,
    ):
        try:
            rgb = tuple(lr.info.indexes.index(number) for number in pair.rgb)
        except ValueError:
            wanted = ",".join(map(str, pair.rgb))
            raise UsageError(
                f"{pair.coarse}: bands {wanted} are red, green and blue by the list; "
                f"available: {', '.join(lr.info.selectable_bands)}"
            ) from None
        ours, theirs = common_ground(lr.info, hr.info, pair.scale)
        return Ground(_valid(lr, ours), _valid(hr, theirs)[0], rgb)


def common_ground(lr: RasterInfo, hr: RasterInfo, scale: int) -> tuple[Window, Window]:
    """Find the ground that both rasters show, at most `SIDE` coarse pixels along each axis.

    Corners of the two windows lie at most half a fine pixel apart. Rasters without geotransform
    share their top left corner.

    Returns
    -------
    coarse, fine
        The window of each, the second ``scale`` times the size of the first.

    Raises
    ------
    UsageError
        As for :func:`open_pair`.
    """
    down, right = _corner(lr, hr, scale)
    top, left = max(0, math.ceil(-down / scale)), max(0, math.ceil(-right / scale))
    down, right = down + top * scale, right + left * scale
    height = min(SIDE, lr.height - top, (hr.height - down) // scale)
    width = min(SIDE, lr.width - left, (hr.width - right) // scale)
    if min(height, width) <= 0:
        raise UsageError(f"{lr.path} and {hr.path} do not overlap")
    if min(height, width) < SMALLEST:
        raise UsageError(
            f"{lr.path} and {hr.path} share {width} x {height} coarse pixels, expected at least "
            f"{SMALLEST} along each axis"
        )
    coarse = Window(top, left, height, width)
    return coarse, Window(down, right, height * scale, width * scale)


def _corner(lr: RasterInfo, hr: RasterInfo, scale: int) -> tuple[int, int]:
    """(rows, columns) of the coarse raster's corner in the fine one's grid."""
    if lr.transform is None or hr.transform is None:
        return 0, 0
    if lr.crs != hr.crs:
        raise UsageError(f"{lr.path} and {hr.path} differ in CRS: {lr.crs} and {hr.crs}")
    relative = ~hr.transform @ lr.transform @ Affine.scale(1 / scale)
    turned = math.hypot(relative.b, relative.d) / math.hypot(relative.a, relative.e, 1e-9)
    if turned > TOLERANCE:
        raise UsageError(
            f"{lr.path} and {hr.path} are rotated against each other by "
            f"{math.degrees(math.atan(turned)):.2g} degrees; warp one of them to the other's grid"
        )
    if max(abs(relative.a - 1), abs(relative.e - 1)) > TOLERANCE:
        raise UsageError(
            f"{lr.path} has pixels of {format_pixel_size(lr)}, "
            f"{hr.path} of {format_pixel_size(hr)}: expected a "
            f"ratio of {scale}, the scale in the list"
        )
    return round(relative.f), round(relative.c)


def _valid(reader: RasterReader, window: Window) -> AnyArray:
    """Read a window in which every pixel must be valid, as float64."""
    patch = reader.read(window)
    invalid = int(np.count_nonzero(~patch.valid.all(0)))
    if invalid:
        raise InputError(
            f"{reader.info.path}: {invalid} of {window.height * window.width} pixels that are "
            "measured are nodata or not finite; cut the pair to ground without such"
        )
    values = patch.values.astype(np.float64)
    if not np.ptp(values, axis=(1, 2)).any():
        raise InputError(f"{reader.info.path}: all pixels that are measured have one value")
    return values


FRAME = 4
"""Coarse pixels that are left out along every edge."""
SIGMAS, NOISES = (0.3, 0.45, 0.6), (0.03, 0.1, 0.3)
"""Wiener filters: gaussian blur in coarse pixels, noise as a share of the signal's power."""
FIXED = (0.45, 0.1)
"""Sigma and noise of the one filter for all."""
RANGE = (1.0, 99.0)
"""Percentiles of the fine image between which PSNR takes its peak."""
LEAST_DETAIL = 0.15
"""Correlation of detail below which the two images do not show the same ground."""
BICUBIC = "bicubic"
ONE_FILTER, BEST_FILTER = "one Wiener filter", "best Wiener filter"

Enlarge = Callable[[AnyArray], AnyArray]
"""(C, h, w) uint16 -> (C, s * h, s * w)."""


@dataclass(frozen=True)
class Score:
    """How close one image comes to the fine one."""

    psnr: float
    """dB, after the best gain and offset; the peak is the range of the fine image."""
    detail: float
    """Correlation with the fine image, once a gaussian of ``scale`` pixels is taken from both."""

    def __sub__(self, other: Score) -> Score:
        return Score(self.psnr - other.psnr, self.detail - other.detail)


@dataclass(frozen=True)
class Gains:
    """What was measured on one pair."""

    weights: tuple[float, ...]
    """Of the coarse bands, whose sum is 1; they fit the fine image."""
    shift: tuple[float, float]
    """Of the fine image against bicubic, (down, right) in fine pixels; it was taken away."""
    bicubic: Score
    gains: dict[str, Score]
    """Over bicubic: of each model, then of the Wiener filters."""
    best_filter: tuple[float, float]
    """Sigma and noise of the best one."""
    images: dict[str, AnyArray] = field(repr=False)
    """Bicubic, then as ``gains``: (s * h, s * w), registered, gain and offset fitted."""


def measure_gains(
    ground: Ground, scale: int, bicubic: Enlarge, models: Mapping[str, Enlarge], *, colour: bool
) -> Gains:
    """Measure enlargements of the coarse image against the fine one.

    Parameters
    ----------
    ground
        The two.
    scale
        Fine pixels per coarse pixel.
    bicubic
        Baseline; it also tells how far the fine image is shifted.
    models
        What is judged.
    colour
        Enlarge red, green and blue and mix the results as the fine image has them; otherwise mix
        all bands and enlarge the mixture.

    Raises
    ------
    InputError
        The two images do not show the same ground, or there is nothing to see.
    """
    bands = ground.coarse[list(ground.rgb)] if colour else ground.coarse
    weights = band_weights(bands, ground.fine, scale)
    given = _as_uint16(bands if colour else _mixed(bands, weights)[None])

    def enlarged(enlarge: Enlarge) -> AnyArray:
        out = enlarge(given).astype(np.float64)
        return _mixed(out, weights) if colour else out[0]

    plain = enlarged(bicubic)
    shift = phase_shift(ground.fine, plain, scale)
    if not max(map(abs, shift)) < FRAME * scale:  # NaN: nothing to see
        raise InputError(
            f"the rasters cannot be registered: shift {shift[0]:.1f} pixels down, {shift[1]:.1f} "
            f"right, expected less than {FRAME * scale}; do both show the same ground?"
        )
    judge = _Judge(ground.fine, scale)
    plain = moved(plain, shift, FRAME * scale)
    base = judge.score(plain)
    if not base.detail >= LEAST_DETAIL:
        raise InputError(
            f"the rasters do not show the same ground: correlation of detail {base.detail:.2f}, "
            f"expected at least {LEAST_DETAIL}"
        )
    images = {
        name: moved(enlarged(enlarge), shift, FRAME * scale) for name, enlarge in models.items()
    }
    filtered = {
        (sigma, noise): wiener(plain, sigma * scale, noise) for sigma in SIGMAS for noise in NOISES
    }
    best = max(filtered, key=lambda key: judge.score(filtered[key]).psnr)
    images |= {ONE_FILTER: filtered[FIXED], BEST_FILTER: filtered[best]}
    return Gains(
        tuple(map(float, weights)),
        shift,
        base,
        {name: judge.score(image) - base for name, image in images.items()},
        best,
        {name: judge.fitted(image) for name, image in {BICUBIC: plain, **images}.items()},
    )


def band_weights(bands: AnyArray, fine: AnyArray, scale: int) -> AnyArray:
    """Fit weights, none negative and 1 in sum, that mix coarse bands to what the fine one shows.

    Parameters
    ----------
    bands
        (C, h, w).
    fine
        (scale * h, scale * w).

    Raises
    ------
    InputError
        No mixture follows it.
    """
    count, height, width = bands.shape
    shrunk = gaussian_filter(fine, scale / 2).reshape(height, scale, width, scale).mean((1, 3))
    ones = np.ones(height * width)
    basis = np.stack([*bands.reshape(count, -1), ones, -ones], axis=1)
    weights = np.asarray(nnls(basis, shrunk.ravel())[0][:count])
    if not weights.sum() > 0:
        raise InputError(
            "the rasters do not show the same ground: no mixture of the coarse bands follows the "
            "fine one"
        )
    return np.asarray(weights / weights.sum())


def _mixed(bands: AnyArray, weights: AnyArray) -> AnyArray:
    return np.asarray(np.tensordot(weights, bands, 1))


def _as_uint16(bands: AnyArray) -> AnyArray:
    """All bands on one scale, so that they can still be mixed."""
    ends = np.array([np.percentile(band, (0.1, 99.9)) for band in bands])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    if not high > low:
        raise InputError("the coarse raster has next to no contrast")
    return np.round((np.clip(bands, low, high) - low) / (high - low) * 60000 + 500).astype("uint16")


def moved(image: AnyArray, shift: tuple[float, float], margin: int) -> AnyArray:
    """Move an image (down, right) by parts of pixels; its edges are mirrored."""
    padded = np.pad(image, margin, mode="reflect")
    inside = (slice(margin, -margin),) * 2
    return np.asarray(np.fft.ifft2(fourier_shift(np.fft.fft2(padded), shift)).real[inside])


def wiener(image: AnyArray, sigma: float, noise: float) -> AnyArray:
    """Undo a gaussian blur as far as noise allows.

    Parameters
    ----------
    image
        (H, W).
    sigma
        Of the blur, in pixels.
    noise
        Its power as a share of the signal's.
    """
    margin = 32
    padded = np.pad(image, margin, mode="reflect")
    fy, fx = np.fft.fftfreq(padded.shape[0])[:, None], np.fft.fftfreq(padded.shape[1])
    blur = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
    gain = blur * (1 + noise) / (blur**2 + noise)  # 1 at frequency 0
    inside = (slice(margin, -margin),) * 2
    return np.asarray(np.fft.ifft2(np.fft.fft2(padded) * gain).real[inside])


class _Judge:
    """Compares images with the fine one, a frame left out."""

    def __init__(self, fine: AnyArray, scale: int) -> None:
        self._inside = (slice(FRAME * scale, -FRAME * scale),) * 2
        self._scale = scale
        self._truth = fine[self._inside]
        self._detail = self._high(fine)
        low, high = np.percentile(self._truth, RANGE)
        if not high > low:
            raise InputError("the fine raster has next to no contrast")
        self._peak = high - low

    def _high(self, image: AnyArray) -> AnyArray:
        return np.asarray((image - gaussian_filter(image, self._scale))[self._inside])

    def fitted(self, image: AnyArray) -> AnyArray:
        """The whole image with the gain and offset that suit the fine one best."""
        values = image[self._inside]
        spread = np.square(values - values.mean()).sum()
        shared = ((values - values.mean()) * (self._truth - self._truth.mean())).sum()
        gain = shared / spread if spread > 0 else 0.0
        return np.asarray((image - values.mean()) * gain + self._truth.mean())

    def score(self, image: AnyArray) -> Score:
        """PSNR and correlation of detail."""
        error = np.mean(np.square(self.fitted(image)[self._inside] - self._truth))
        psnr = 10 * np.log10(self._peak**2 / error) if error > 0 else np.inf
        high = self._high(image)
        flat = not np.ptp(high) or not np.ptp(self._detail)
        both = np.corrcoef(high.ravel(), self._detail.ravel())[0, 1]
        return Score(float(psnr), 0.0 if flat else float(both))

"""Evaluate models on real pairs: a coarse and a fine raster of the same ground."""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from georsr._files import refuse_pipe
from georsr.api import super_resolve_array
from georsr.config import SRConfig
from georsr.errors import GeoreferenceWarning, InputError, UsageError, redact_url
from georsr.evaluation.benchmark import ModelFacts, unique_models
from georsr.evaluation.metrics import psnr_of_mse
from georsr.evaluation.pair_gains import (
    BICUBIC,
    PEAK_PERCENTILES,
    Gains,
    PairPixels,
    measure_gains,
)
from georsr.evaluation.reports.figures import Example, Panel, draw_box, max_error_crop
from georsr.evaluation.reports.pairs_report import PairRow, PairsReport, summarize
from georsr.inference.predictor import place_model
from georsr.io.metadata import RasterInfo, format_pixel_size
from georsr.io.reader import RasterReader, open_raster
from georsr.models.io import Model, open_model
from georsr.models.registry import resolve_name
from georsr.progress import NullProgress, Progress
from georsr.window import AnyArray, Window

LIST = "pairs.tsv"
REQUIRED_COLUMNS = ("name", "scale", "rgb")
"""Columns that the list must have; others are ignored."""
MAX_SIZE = 160
"""Most coarse pixels along each axis that are measured, from the corner that both share."""
MIN_SIZE = 24
"""Fewest coarse pixels along each axis."""
TOLERANCE = 0.01
"""Relative error of the ratio of pixel sizes, and sine of the rotation, that are accepted."""
OVERVIEW_SIZE = 320
"""Largest height and width of the picture of a full pair, in pixels."""


@dataclass(frozen=True)
class Pair:
    """One line of the list."""

    name: str
    scale: int
    """Fine pixels per coarse pixel."""
    rgb: tuple[int, ...]
    """Band numbers, from 1, of red, green and blue in the coarse raster; empty: no colour."""
    coarse: str
    fine: str
    """Paths."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Ways to measure the pair: ``grey``, one band; ``rgb``, if it has colour."""
        return ("grey", "rgb") if self.rgb else ("grey",)


def read_pairs(folder: Path) -> list[Pair]:
    """Read ``pairs.tsv`` of a folder, which has ``NAME_lr.tif`` and ``NAME_hr.tif`` for each line.

    Raises
    ------
    InputError
        The list or a raster is missing, or a line of the list is malformed.
    """
    path = folder / LIST
    refuse_pipe(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            pairs = list(_rows(folder, csv.DictReader(file, delimiter="\t")))
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected a list of pairs with the "
            f"columns {', '.join(REQUIRED_COLUMNS)}"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not tab-separated text in UTF-8 ({error})") from error
    if not pairs:
        raise InputError(f"{path}: lists no pair")
    return pairs


def _rows(folder: Path, reader: csv.DictReader[str]) -> Iterator[Pair]:
    path, names = folder / LIST, set()
    missing = [name for name in REQUIRED_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f"{path}: has no column {missing[0]}; expected {', '.join(REQUIRED_COLUMNS)}, "
            "separated by tabs"
        )
    for row in reader:
        name, scale, rgb = ((row[column] or "").strip() for column in REQUIRED_COLUMNS)
        context = f"{path}, line {reader.line_num}"
        if not name or name in names:
            raise InputError(f"{context}: name {name!r}, expected one that no other line has")
        if not re.fullmatch("[2-8]", scale):
            raise InputError(f"{context}: scale {scale!r}, expected a whole number from 2 to 8")
        if not re.fullmatch("-|[1-9][0-9]{0,4}(,[1-9][0-9]{0,4}){2}", rgb):
            raise InputError(
                f"{context}: rgb {rgb!r:.80}, expected three band numbers such as 3,2,1, or -"
            )
        names.add(name)
        files = [folder / f"{name}_{suffix}.tif" for suffix in ("lr", "hr")]
        for file in files:
            if not file.is_file():
                raise InputError(f"{context}: {file} does not exist")
        bands = () if rgb == "-" else tuple(int(number) for number in rgb.split(","))
        yield Pair(name, int(scale), bands, str(files[0]), str(files[1]))


def open_pair(pair: Pair) -> PairPixels:
    """Read the ground that both rasters of a pair show.

    Raises
    ------
    UsageError
        The rasters do not belong together: they differ in CRS, are rotated, their pixel sizes have
        another ratio, they do not overlap, or bands are missing.
    InputError
        Pixels of the common ground are invalid, or all have one value.
    """
    with (
        # pairs need no georeference
        warnings.catch_warnings(action="ignore", category=GeoreferenceWarning),
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
        lr_window, hr_window = common_ground(lr.info, hr.info, pair.scale)
        return PairPixels(_read_valid(lr, lr_window), _read_valid(hr, hr_window)[0], rgb)


def common_ground(lr: RasterInfo, hr: RasterInfo, scale: int) -> tuple[Window, Window]:
    """Find the ground that both rasters show, at most `MAX_SIZE` coarse pixels along each axis.

    Corners of the two windows are at most half a fine pixel apart, and the fine one has ``scale``
    times the size of the coarse one. Rasters without geotransform share their top left corner.

    Raises
    ------
    UsageError
        As for :func:`open_pair`.
    """
    down, right = _corner(lr, hr, scale)
    top, left = max(0, math.ceil(-down / scale)), max(0, math.ceil(-right / scale))
    down, right = down + top * scale, right + left * scale
    height = min(MAX_SIZE, lr.height - top, (hr.height - down) // scale)
    width = min(MAX_SIZE, lr.width - left, (hr.width - right) // scale)
    if min(height, width) <= 0:
        raise UsageError(f"{lr.path} and {hr.path} do not overlap")
    if min(height, width) < MIN_SIZE:
        raise UsageError(
            f"{lr.path} and {hr.path} share {width} x {height} coarse pixels, expected at least "
            f"{MIN_SIZE} along each axis"
        )
    coarse = Window(top, left, height, width)
    return coarse, Window(down, right, height * scale, width * scale)


def _corner(lr: RasterInfo, hr: RasterInfo, scale: int) -> tuple[int, int]:
    """Return (row, column) of the coarse raster's corner in the fine raster's grid."""
    if lr.transform is None or hr.transform is None:
        return 0, 0
    if lr.crs != hr.crs:
        raise UsageError(f"{lr.path} and {hr.path} differ in CRS: {lr.crs} and {hr.crs}")
    relative = ~hr.transform @ lr.transform @ Affine.scale(1 / scale)
    rotation = math.hypot(relative.b, relative.d) / math.hypot(relative.a, relative.e, 1e-9)
    if rotation > TOLERANCE:
        raise UsageError(
            f"{lr.path} and {hr.path} are rotated against each other by "
            f"{math.degrees(math.atan(rotation)):.2g} degrees; warp one of them to the other's grid"
        )
    if max(abs(relative.a - 1), abs(relative.e - 1)) > TOLERANCE:
        raise UsageError(
            f"{lr.path} has pixels of {format_pixel_size(lr)}, {hr.path} of "
            f"{format_pixel_size(hr)}: expected a ratio of {scale}, the scale in the list"
        )
    return round(relative.f), round(relative.c)


def _read_valid(reader: RasterReader, window: Window) -> AnyArray:
    """Read a window in which every pixel must be valid, as float64."""
    block = reader.read(window)
    invalid = int(np.count_nonzero(~block.valid.all(0)))
    if invalid:
        raise InputError(
            f"{reader.info.path}: {invalid} of {window.height * window.width} pixels that are "
            "measured are nodata or not finite; cut the pair to ground without such"
        )
    values = block.values.astype(np.float64)
    if not np.ptp(values, axis=(1, 2)).any():
        raise InputError(f"{reader.info.path}: all pixels that are measured have one value")
    return values


@dataclass(frozen=True)
class PairsEvaluation:
    """A folder of pairs and the models to measure on it."""

    folder: Path
    pairs: tuple[Pair, ...]
    models: dict[str, Model]
    """Name in the report -> model."""
    options: dict[str, Any]
    """Fields of :class:`georsr.config.SRConfig` for the models."""
    command: str = ""
    """Command line, for the report."""
    examples: list[tuple[PairRow, Example]] = field(default_factory=list)
    """Rows and pictures, filled by :meth:`run` with ``pictures``."""

    @property
    def files(self) -> dict[str, list[str]]:
        """Kind -> names of the files that are read."""
        return {
            "list of pairs": [str(self.folder / LIST)],
            "raster": [path for pair in self.pairs for path in (pair.coarse, pair.fine)],
            "model": [model.file for model in self.models.values() if model.file is not None],
        }

    def run(self, progress: Progress | None = None, *, pictures: bool = False) -> PairsReport:
        """Measure every model on every pair of its scale.

        ``progress`` is advanced once per pair and kind. With ``pictures``, pictures of every pair
        are kept in ``examples``.

        Raises
        ------
        InputError
            The two rasters of a pair do not show the same ground.
        """
        progress = progress or NullProgress()
        work = [(pair, kind) for pair in self.pairs for kind in pair.kinds]
        progress.start(len(work), "pairs")
        rows = []
        for pair, kind in work:
            pixels = open_pair(pair)
            result = self._measure(pair, pixels, kind)
            row = PairRow(
                pair.name,
                pair.scale,
                kind,
                result.weights,
                result.shift,
                result.bicubic,
                result.gains,
                result.best_filter,
            )
            rows.append(row)
            if pictures:
                self.examples.append((row, make_example(row, result, pixels.fine)))
            progress.advance()
        names = ("device", "precision", "fast")
        chosen = SRConfig(**{name: self.options[name] for name in names if name in self.options})
        device = place_model(next(iter(self.models.values())), chosen)
        return PairsReport(
            redact_url(str(self.folder)),
            summarize(rows),
            tuple(rows),
            tuple(ModelFacts.of(name, model) for name, model in self.models.items()),
            self.options["consistency"],
            str(device.device),
            device.precision,
            self.command,
        )

    def _measure(self, pair: Pair, pixels: PairPixels, kind: str) -> Gains:
        models = {
            name: partial(super_resolve_array, model=model, force=True, **self.options)
            for name, model in self.models.items()
            if model.spec.scale == pair.scale
        }
        bicubic = partial(super_resolve_array, model=open_model(BICUBIC, pair.scale), force=True)
        try:
            return measure_gains(pixels, pair.scale, bicubic, models, colour=kind == "rgb")
        except InputError as error:
            raise InputError(f"{pair.coarse} and {pair.fine}: {error}") from error


def prepare_pairs(
    folder: Path, models: Sequence[str | None], *, command: str = "", **options: Any
) -> PairsEvaluation:
    """Open a folder of pairs and models, and check that they belong together.

    Parameters
    ----------
    folder
        As for :func:`read_pairs`.
    models
        Names or files; a name without scale stands for one model of each scale of the pairs.
        Empty: the default models.
    command
        Command line, for the report.
    **options
        Fields of :class:`georsr.config.SRConfig`: consistency, device, precision...

    Raises
    ------
    UsageError
        No model has the scale of a pair, or no pair that of a model; a model does not take RGB;
        the rasters of a pair do not belong together.
    InputError
        The list or a raster is missing, damaged or has invalid pixels.
    """
    pairs = read_pairs(folder)
    opened = _open_models(models, sorted({pair.scale for pair in pairs}))
    scales = sorted({model.spec.scale for model in opened.values()})
    for pair in pairs:
        if pair.scale not in scales:
            raise UsageError(
                f"{folder / LIST}: {pair.name} has scale {pair.scale}, the models have "
                f"{', '.join(map(str, scales))}; name one of that scale with --model"
            )
        open_pair(pair)
    for name, model in opened.items():
        if model.spec.scale not in {pair.scale for pair in pairs}:
            raise UsageError(f"model {name} enlarges x{model.spec.scale}, as no pair in {folder}")
        if model.spec.bands not in (0, 3):
            raise UsageError(
                f"model {name} takes {model.spec.bands} bands; pairs give it red, green and blue, "
                "or one band three times"
            )
    return PairsEvaluation(folder, tuple(pairs), opened, options, command)


def _open_models(names: Sequence[str | None], scales: Sequence[int]) -> dict[str, Model]:
    opened = []
    for name in names or [None]:
        needs_scale = resolve_name(name, None) != name
        opened += [open_model(name, s) for s in scales] if needs_scale else [open_model(name)]
    return unique_models(opened)


def make_example(row: PairRow, result: Gains, fine: AnyArray) -> Example:
    """Draw the part of a pair where bicubic differs most from the fine raster."""
    low, high = np.percentile(fine, PEAK_PERCENTILES)

    def picture(image: AnyArray) -> AnyArray:
        grey = np.rint(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        return np.stack([grey] * 3)

    truth = picture(fine)
    window = max_error_crop(picture(result.images[BICUBIC]), truth, row.scale)
    panels = []
    for name, image in result.images.items():
        gain = row.gains[name].psnr if name in row.gains else 0.0
        error = np.mean(np.square((image - fine)[window.slices])) / (high - low) ** 2
        crop_psnr = psnr_of_mse(max(error, 1e-20), 1.0)
        crop = picture(image)[:, *window.slices]
        panels.append(Panel(name, crop, row.bicubic.psnr + gain, crop_psnr))
    panels.append(Panel("fine raster", truth[:, *window.slices]))
    step = -(-max(truth.shape) // OVERVIEW_SIZE)
    overview = draw_box(truth, window)[:, ::step, ::step]
    return Example((f"x{row.scale} {row.kind}",), row.name, "", overview, tuple(panels))

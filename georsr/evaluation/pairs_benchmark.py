"""Evaluation on real pairs: open the models and the pairs that fit them, enlarge, measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from georsr.api import super_resolve_array
from georsr.device import select_device
from georsr.errors import InputError, UsageError
from georsr.evaluation.benchmark import ModelFacts
from georsr.evaluation.pairs import (
    BICUBIC,
    LIST,
    RANGE,
    Gains,
    Ground,
    Pair,
    measure_gains,
    open_pair,
    read_pairs,
)
from georsr.evaluation.reports.benchmark_report import Example, Panel, draw_box, max_error_crop
from georsr.evaluation.reports.pairs_report import PairRow, PairsReport, summarise
from georsr.models.io import Model, open_model
from georsr.models.registry import resolve_name
from georsr.progress import NullProgress, Progress
from georsr.redact import redact_url
from georsr.window import AnyArray

OVERVIEW = 320
"""Most pixels along each axis of the picture of a whole pair."""


@dataclass(frozen=True)
class PairsEvaluation:
    """A folder of pairs and the models to judge on them, ready to run."""

    folder: Path
    pairs: tuple[Pair, ...]
    models: dict[str, Model]
    """Under the names that the report calls them."""
    options: dict[str, Any]
    """Of :class:`georsr.config.SRConfig`, for the models."""
    command: str = ""
    exhibits: list[tuple[PairRow, Example]] = field(default_factory=list)
    """Filled by :meth:`run` if it is asked to."""

    @property
    def files(self) -> dict[str, list[str]]:
        """Kind -> names of the files that are read."""
        models = [model.file for model in self.models.values()]
        rasters = [path for pair in self.pairs for path in (pair.coarse, pair.fine)]
        return {
            "list of pairs": [str(self.folder / LIST)],
            "raster": rasters,
            "model": [file for file in models if file is not None],
        }

    def run(self, progress: Progress | None = None, *, pictures: bool = False) -> PairsReport:
        """Measure every model on every pair of its scale.

        Parameters
        ----------
        progress
            Whom to tell.
        pictures
            Keep pictures of every pair in ``exhibits``.

        Raises
        ------
        InputError
            The two rasters of a pair do not show the same ground.
        """
        progress = progress or NullProgress()
        work = [(pair, kind) for pair in self.pairs for kind in kinds_of(pair)]
        progress.start(len(work), "pairs")
        rows = []
        for pair, kind in work:
            ground = open_pair(pair)
            found = self._measure(pair, ground, kind)
            row = PairRow(
                pair.name,
                pair.scale,
                kind,
                found.weights,
                found.shift,
                found.bicubic,
                found.gains,
                found.best_filter,
            )
            rows.append(row)
            if pictures:
                self.exhibits.append((row, exhibit(row, found, ground)))
            progress.advance()
        placement = select_device(self.options["device"], self.options["precision"])
        return PairsReport(
            redact_url(str(self.folder)),
            summarise(rows),
            tuple(rows),
            tuple(ModelFacts(n, redact_url(m.source), m.sha256) for n, m in self.models.items()),
            self.options["consistency"],
            str(placement.device),
            placement.precision,
            self.command,
        )

    def _measure(self, pair: Pair, ground: Ground, kind: str) -> Gains:
        models = {
            name: partial(super_resolve_array, model=model, allow_non_image=True, **self.options)
            for name, model in self.models.items()
            if model.spec.scale == pair.scale
        }
        bicubic = partial(
            super_resolve_array, model=open_model(BICUBIC, pair.scale), allow_non_image=True
        )
        try:
            return measure_gains(ground, pair.scale, bicubic, models, colour=kind == "rgb")
        except InputError as error:
            raise InputError(f"{pair.coarse} and {pair.fine}: {error}") from error


def prepare_pairs(
    folder: Path, models: Sequence[str | None], *, command: str = "", **options: Any
) -> PairsEvaluation:
    """Open a folder of pairs and models, and check that all belong together.

    Parameters
    ----------
    folder
        As for :func:`georsr.evaluation.pairs.read_pairs`.
    models
        Names or files; a name that leaves its scale open stands for one model of each scale that
        the pairs have. Empty: the default models.
    command
        For the report.
    **options
        Fields of :class:`georsr.config.SRConfig`: consistency, device, precision...

    Raises
    ------
    UsageError
        A pair has a scale that no model has, or the other way round; a model does not take RGB;
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
        open_scale = resolve_name(name, None) != name
        opened += [open_model(name, s) for s in scales] if open_scale else [open_model(name)]
    distinct = list({model.sha256: model for model in opened}.values())
    called = [model.spec.name for model in distinct]
    # two trainings of one recipe bear one name: their files tell them apart
    return {m.spec.name if called.count(m.spec.name) == 1 else m.source: m for m in distinct}


def kinds_of(pair: Pair) -> tuple[str, ...]:
    """How a pair is measured: as one band, and in colour if it has any."""
    return ("grey", "rgb") if pair.rgb else ("grey",)


def exhibit(row: PairRow, found: Gains, ground: Ground) -> Example:
    """Pictures of the part where bicubic differs most from the fine raster."""
    low, high = np.percentile(ground.fine, RANGE)

    def picture(image: AnyArray) -> AnyArray:
        grey = np.rint(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        return np.stack([grey] * 3)

    truth = picture(ground.fine)
    part = max_error_crop(picture(found.images[BICUBIC]), truth, row.scale)
    panels = []
    for name, image in found.images.items():
        gain = row.gains[name].psnr if name in row.gains else 0.0
        error = np.mean(np.square((image - ground.fine)[part.slices])) / (high - low) ** 2
        panels.append(
            Panel(
                name,
                picture(image)[:, *part.slices],
                row.bicubic.psnr + gain,
                float(-10 * np.log10(max(error, 1e-20))),
            )
        )
    panels.append(Panel("fine raster", truth[:, *part.slices], np.nan, np.nan))
    step = -(-max(truth.shape) // OVERVIEW)
    overview = draw_box(truth, part)[:, ::step, ::step]
    return Example((f"x{row.scale} {row.kind}",), row.name, "", overview, tuple(panels))

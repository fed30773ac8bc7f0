"""Which figures are measured of an image, what they are called and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Figure:
    """One figure: a field of :class:`Scores` and how people meet it."""

    key: str
    title: str
    digits: int
    best: str
    """``high``, ``low``, ``zero`` (either sign) or ``one``."""
    meaning: str

    def text(self, value: float) -> str:
        """The value as printed; ``-`` where it is not defined."""
        if math.isnan(value):
            return "-"
        sign = "+" if self.best == "zero" else ""
        return f"{value:{sign}.{self.digits}f}"


FIGURES = (
    Figure("psnr_y", "PSNR Y", 3, "high", "dB, on BT.601 luma, not rounded"),
    Figure("ssim_y", "SSIM Y", 4, "high", "on the same luma, gaussian window 11, sigma 1.5"),
    Figure("psnr_rgb", "PSNR RGB", 3, "high", "dB, mean of the bands' PSNRs"),
    Figure("sam", "SAM", 3, "low", "mean spectral angle, degrees"),
    Figure("ergas", "ERGAS", 3, "low", "relative global error, with h/l = 1/scale"),
    Figure("consistency", "consist.", 3, "low", "mean |degraded SR - LR| in grey levels"),
    Figure("consistency_psnr", "cons. PSNR", 2, "high", "dB, degraded SR against LR"),
    Figure("shift_y", "shift down", 3, "zero", "of SR against the truth, HR pixels"),
    Figure("shift_x", "shift right", 3, "zero", "of SR against the truth, HR pixels"),
    Figure("detail", "detail", 3, "one", "energy beyond the source's Nyquist frequency / truth's"),
)
"""In the order of the tables."""


@dataclass(frozen=True)
class Scores:
    """Figures of an image, or their means over a set; see :data:`FIGURES` for units."""

    images: int
    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    sam: float
    ergas: float
    consistency: float
    consistency_psnr: float
    shift_y: float
    shift_x: float
    detail: float


def mean_scores(rows: Sequence[Scores]) -> Scores:
    """Means over images; a figure that is not defined for some is the mean over the others."""
    means = {}
    for key in (f.name for f in fields(Scores) if f.name != "images"):
        values = [v for v in (getattr(row, key) for row in rows) if not math.isnan(v)]
        means[key] = float(np.mean(values)) if values else math.nan
    return Scores(images=sum(row.images for row in rows), **means)

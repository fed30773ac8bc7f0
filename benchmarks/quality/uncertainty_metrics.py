"""Measure whether an estimate of errors is ranked and scaled like the errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from georsr.window import AnyArray

REMOVED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Fractions of the pixels that are removed in a sparsification curve."""
PASSES = 5
"""Of the weighted fit; the third changes less than the third digit."""


@dataclass(frozen=True)
class Sparsification:
    """Mean error of the remaining pixels when those of the largest estimate are removed.

    Ilg et al., "Uncertainty estimates and multi-hypotheses networks for optical flow", ECCV 2018.
    """

    removed: tuple[float, ...]
    estimate: tuple[float, ...]
    oracle: tuple[float, ...]
    """Mean error when the pixels of the largest error are removed instead."""

    @property
    def ause(self) -> float:
        """Area between the two curves, in units of the mean error of all pixels."""
        gap = (np.array(self.estimate) - np.array(self.oracle)) / self.estimate[0]
        return float(np.trapezoid(gap, self.removed))


def spearman(a: AnyArray, b: AnyArray) -> float:
    """Compute the rank correlation of two arrays of one shape; NaN where one is constant."""
    if not np.ptp(a) or not np.ptp(b):
        return math.nan
    return float(spearmanr(a, b, axis=None).statistic)


def sparsification(estimate: AnyArray, error: AnyArray) -> Sparsification:
    """Compute the curve of an estimate of errors and the errors, of one shape."""
    kept = [round(error.size * (1 - share)) for share in REMOVED]

    def curve(order: AnyArray) -> tuple[float, ...]:
        means = np.cumsum(error.ravel()[order], dtype=np.float64) / np.arange(1, error.size + 1)
        return tuple(float(means[count - 1]) for count in kept)

    return Sparsification(
        REMOVED,
        curve(np.argsort(estimate, axis=None, kind="stable")),
        curve(np.argsort(error, axis=None, kind="stable")),
    )


def calibration_table(
    estimate: AnyArray, error: AnyArray, groups: int = 10
) -> list[tuple[float, float]]:
    """Return (mean estimate, mean error) of the pixels in each tenth by estimate, ascending."""
    order = np.argsort(estimate, axis=None, kind="stable")
    return [
        (float(estimate.ravel()[part].mean()), float(error.ravel()[part].mean()))
        for part in np.array_split(order, groups)
    ]


def blocks(values: AnyArray, size: int) -> AnyArray:
    """Average squares of ``size`` pixels: (H, W) -> (H // size, W // size)."""
    height, width = (n // size * size for n in values.shape)
    cells = values[:height, :width].reshape(height // size, size, width // size, size)
    return np.asarray(cells.mean((1, 3)))


def fit_roots(features: Sequence[AnyArray], error: AnyArray) -> tuple[float, ...]:
    """Fit weights w >= 0 of E(error) = (w_0 sqrt(f_0) + w_1 sqrt(f_1) + ... + w_n) ** 2.

    Least squares of the roots, each pixel weighted by the inverse of its own estimate so that
    large errors do not dominate; then scaled so that the mean estimate is the mean error.

    Parameters
    ----------
    features, error
        Arrays of one size, at least 0.
    """
    roots = [np.sqrt(np.maximum(f.ravel(), 0)) for f in features]
    columns = np.stack([*roots, np.ones(error.size)], axis=1)
    target = np.sqrt(error.ravel())
    weights = nnls(columns, target)[0]
    for _ in range(PASSES):
        importance = 1 / np.maximum(columns @ weights, 1e-3)
        weights = nnls(columns * importance[:, None], target * importance)[0]
    estimate = (columns @ weights) ** 2
    factor = math.sqrt(float(error.mean() / estimate.mean()))
    return tuple(float(w) * factor for w in weights)

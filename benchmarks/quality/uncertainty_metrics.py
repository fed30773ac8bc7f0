"""Uncertainty: whether an estimate of errors knows where the errors are, and how large they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from georsr.window import AnyArray

REMOVED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the pixels that are taken away in a sparsification curve."""
PASSES = 5
"""Of the weighted fit; the third changes less than the third digit."""


@dataclass(frozen=True)
class Sparsification:
    """Mean error of what is left when the pixels of largest estimate are taken away.

    Ilg et al., "Uncertainty estimates and multi-hypotheses networks for optical flow", ECCV 2018.
    """

    removed: tuple[float, ...]
    estimate: tuple[float, ...]
    oracle: tuple[float, ...]
    """When the pixels of largest error are taken away instead."""

    @property
    def ause(self) -> float:
        """Area between the two curves, in units of the mean error of all pixels."""
        gap = (np.array(self.estimate) - np.array(self.oracle)) / self.estimate[0]
        return float(np.trapezoid(gap, self.removed))


def ranks(values: AnyArray) -> AnyArray:
    """Position of each value in the order of all, from 0, equal ones sharing their mean: (n,)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse])


def spearman(a: AnyArray, b: AnyArray) -> float:
    """Rank correlation of two arrays of one shape; NaN where one is constant."""
    first, second = ranks(a.ravel()), ranks(b.ravel())
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale > 0 else math.nan


def sparsification(estimate: AnyArray, error: AnyArray) -> Sparsification:
    """The curve of an estimate of errors and the errors themselves, of one shape."""
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
    """(mean estimate, mean error) of the pixels in each tenth by estimate, ascending."""
    order = np.argsort(estimate, axis=None, kind="stable")
    return [
        (float(estimate.ravel()[part].mean()), float(error.ravel()[part].mean()))
        for part in np.array_split(order, groups)
    ]


def blocks(values: AnyArray, side: int) -> AnyArray:
    """Means of squares of ``side`` pixels: (H, W) -> (H // side, W // side)."""
    height, width = (n // side * side for n in values.shape)
    cells = values[:height, :width].reshape(height // side, side, width // side, side)
    return np.asarray(cells.mean((1, 3)))


def fit_roots(features: Sequence[AnyArray], error: AnyArray) -> tuple[float, ...]:
    """Weights w >= 0 with E(error) = (w_0 sqrt(f_0) + w_1 sqrt(f_1) + ... + w_n) ** 2.

    Least squares of the roots, each pixel weighted by the inverse of its own estimate so that
    large errors do not drown small ones; then scaled so that the mean estimate is the mean error.

    Parameters
    ----------
    features, error
        Arrays of one size, at least 0.
    """
    roots = [np.sqrt(np.maximum(f.ravel(), 0)) for f in features]
    columns = np.stack([*roots, np.ones(error.size)], axis=1)
    target = np.sqrt(error.ravel())
    weights = _not_negative(columns, target)
    for _ in range(PASSES):
        importance = 1 / np.maximum(columns @ weights, 1e-3)
        weights = _not_negative(columns * importance[:, None], target * importance)
    estimate = (columns @ weights) ** 2
    factor = math.sqrt(float(error.mean() / estimate.mean()))
    return tuple(float(w) * factor for w in weights)


def _not_negative(columns: AnyArray, target: AnyArray) -> AnyArray:
    """Least squares in which columns whose weight would be negative take no part."""
    used = list(range(columns.shape[1]))
    while True:
        part = columns[:, used]
        solved = np.linalg.solve(part.T @ part, part.T @ target)
        if (solved >= 0).all():
            weights = np.zeros(columns.shape[1])
            weights[used] = solved
            return weights
        used.pop(int(solved.argmin()))

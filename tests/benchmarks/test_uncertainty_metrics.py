"""Figures of uncertainty, on errors whose size is known."""

import numpy as np
import pytest

from benchmarks.quality.uncertainty_metrics import (
    blocks,
    calibration_table,
    fit_roots,
    sparsification,
    spearman,
)


@pytest.fixture
def known():
    """An estimate, and errors drawn with that mean."""
    rng = np.random.default_rng(0)
    estimate = rng.uniform(0.5, 8, 20_000)
    return estimate, rng.exponential(estimate)


def test_spearman_of_a_monotonic_function_is_1_and_of_a_constant_nan(known):
    estimate, _ = known
    assert spearman(estimate, 2 * estimate**3) == pytest.approx(1)
    assert np.isnan(spearman(np.ones(10), np.arange(10)))


def test_sparsification_falls_and_the_oracle_lies_below(known):
    estimate, error = known
    curve = sparsification(estimate, error)
    assert curve.estimate[0] == pytest.approx(error.mean())
    assert all(np.diff(curve.estimate) < 0)
    assert all(a <= b + 1e-9 for a, b in zip(curve.oracle, curve.estimate, strict=True))
    chance = sparsification(np.random.default_rng(1).permutation(estimate), error)
    assert 0 < curve.ause < chance.ause
    assert sparsification(error, error).ause == pytest.approx(0, abs=1e-12)


def test_calibration_of_a_true_estimate_is_one(known):
    table = calibration_table(*known)
    assert len(table) == 10
    for expected, found in table:
        assert found == pytest.approx(expected, rel=0.1)


def test_block_means_are_means():
    values = np.arange(30.0).reshape(5, 6)
    np.testing.assert_allclose(blocks(values, 2), [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]])


def test_fit_roots_recovers_the_weights():
    rng = np.random.default_rng(2)
    first, second, noise = rng.uniform(0, 1, (3, 30_000))
    error = (1.5 * np.sqrt(first) + 0.4 * np.sqrt(second) + 0.3) ** 2
    np.testing.assert_allclose(fit_roots([first, second], error), (1.5, 0.4, 0.3), rtol=1e-6)
    weights = fit_roots([first, noise], (1 - np.sqrt(noise) + np.sqrt(first)) ** 2)
    assert weights[1] == 0
    drawn = rng.exponential(error)
    a, b, c = fit_roots([first, second], drawn)
    estimate = (a * np.sqrt(first) + b * np.sqrt(second) + c) ** 2
    assert estimate.mean() == pytest.approx(drawn.mean())
    assert spearman(estimate, error) > 0.99

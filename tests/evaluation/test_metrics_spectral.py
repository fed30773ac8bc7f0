import math

import numpy as np
import pytest

from georsr.evaluation.metrics import ergas, spectral_angle, spectral_angles


def test_spectral_angle_of_known_spectra():
    a = np.array([[1, 1, 0, 5, 0], [0, 1, 3, 5, 0], [0, 0, 0, 5, 0]], float)
    b = np.array([[0, 1, 0, 9, 1], [2, 0, 1, 9, 0], [0, 0, 0, 9, 0]], float)
    assert spectral_angles(a, b) == pytest.approx([90, 45, 0, 0, math.nan], nan_ok=True)
    assert spectral_angle(a, b) == pytest.approx(135 / 4)


def test_spectral_angle_ignores_brightness():
    image = np.random.default_rng(0).integers(1, 255, (5, 8, 9)).astype("uint8")
    assert spectral_angle(image, image * 0.3) == pytest.approx(0, abs=1e-6)


def test_ergas_equals_its_formula():
    truth = np.stack([np.full((4, 4), m) for m in (10.0, 20.0, 40.0)])
    output = truth + np.array([1.0, -2.0, 2.0])[:, None, None]
    by_hand = 100 / 4 * math.sqrt((0.1**2 + 0.1**2 + 0.05**2) / 3)
    assert ergas(output, truth, 4) == pytest.approx(by_hand)


def test_spectral_metrics_agree_with_a_second_implementation():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.image")
    rng = np.random.default_rng(1)
    truth = rng.uniform(10, 200, (4, 16, 20))
    output = truth + rng.normal(0, 9, truth.shape)
    a, b = torch.from_numpy(output)[None], torch.from_numpy(truth)[None]
    sam = functional.spectral_angle_mapper(a, b)
    assert spectral_angle(output, truth) == pytest.approx(math.degrees(sam), rel=1e-6)
    theirs = functional.error_relative_global_dimensionless_synthesis(a, b, ratio=4)
    assert ergas(output, truth, 4) == pytest.approx(float(theirs), rel=1e-6)


def test_spectral_metrics_below_three_bands_are_nan():
    two = np.ones((2, 4, 4))
    assert math.isnan(spectral_angle(two, two))
    assert math.isnan(ergas(two, two, 2))
    dark = np.zeros((3, 4, 4))
    assert math.isnan(spectral_angle(dark, dark))
    assert math.isnan(ergas(dark, dark, 2))

import math

import numpy as np
import pytest

from georsr.evaluation.metrics import detail_ratio, radial_power


def test_radial_power_of_white_noise_is_its_variance():
    image = np.random.default_rng(0).normal(50, 3, (256, 256))
    frequency, power = radial_power(image, 8)
    np.testing.assert_allclose(power[1:], 9, rtol=0.1)  # the first ring has few coefficients
    assert frequency[0] == 1 / 32
    assert frequency[-1] == pytest.approx(0.5 - 1 / 32)


def test_radial_power_of_a_wave_is_in_its_ring():
    y, x = np.indices((128, 128))
    image = np.cos(2 * np.pi * 0.2 * (x * 0.6 + y * 0.8))
    frequency, power = radial_power(image, 16)
    assert abs(frequency[power.argmax()] - 0.2) < 1 / 64


def test_detail_ratio_counts_frequencies_beyond_the_source():
    x = np.indices((64, 64))[1]
    coarse = 40 * np.cos(2 * np.pi * x / 16)
    fine = 10 * np.cos(2 * np.pi * x * 0.3)
    truth = coarse + fine
    assert detail_ratio(truth, truth, 4) == pytest.approx(1)
    assert detail_ratio(coarse, truth, 4) < 1e-4
    assert detail_ratio(coarse + 0.5 * fine, truth, 4) == pytest.approx(0.25, rel=1e-3)
    assert math.isnan(detail_ratio(np.ones((64, 64)), np.ones((64, 64)), 2))
    assert math.isnan(detail_ratio(truth, truth, 1))

"""The imaging chain: what it measures of itself is what it did."""

from dataclasses import replace

import numpy as np
import pytest

from georsr.errors import UsageError
from georsr.radiometry.degradation import (
    ImagingChain,
    degradation_from_dict,
    filter_matrix,
    jpeg2000_roundtrip,
    matrix_mtf,
    noise_statistics,
    resampling_matrix,
)
from georsr.radiometry.kernels import (
    bicubic_matrix,
    mtfc_matrix,
    psf_matrix,
    psf_sigma,
    sampling_matrix,
)

PLAIN = ImagingChain(
    bicubic=0, mtf=(0.2, 0.2), quiet=1, warped=0, filtered=0, coded=0, levels=(65536, 65536)
)
"""Nothing but optics."""


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def hr():
    return 0.2 + 0.6 * rng(3).random((3, 160, 192), dtype=np.float32)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_simulate_optics_have_the_reported_mtf(scale, seed, hr):
    lr, sensor = PLAIN.simulate(hr, scale, rng(seed))
    assert lr.shape == (3, 160 // scale, 192 // scale)
    assert lr.dtype == np.float32
    # the axes differ by up to 15 %; half way, a gaussian leaves the fourth root
    assert sensor.mtf == pytest.approx(0.2, abs=0.03)
    assert sensor.mtf_half == pytest.approx(sensor.mtf**0.25, abs=0.04)
    assert sensor.noise < 1e-4


@pytest.mark.parametrize("scale", [2, 4])
def test_matrix_mtf_of_bicubic_equals_a_measured_wave(scale):
    matrix = bicubic_matrix(64 * scale, scale)
    angle = np.pi / 2 / scale * (np.arange(64 * scale) + 0.5 - scale / 2)
    made = matrix[8:-8] @ np.cos(angle)
    assert matrix_mtf(matrix, scale, 0.25) == pytest.approx(np.abs(made).max(), rel=0.01)


@pytest.mark.parametrize("sigma", [0.003, 0.02])
def test_simulate_noise_is_reported(sigma, hr):
    chain = replace(PLAIN, quiet=0, noise=(sigma, sigma), striped=0, grainy=0)
    _, sensor = chain.simulate(hr, 4, rng(1))
    assert sensor.noise == pytest.approx(sigma, rel=0.1)
    assert abs(sensor.grain) < 0.05


def test_simulate_warped_noise_is_grainy_and_weaker(hr):
    chain = replace(PLAIN, quiet=0, noise=(0.02, 0.02), striped=0, grainy=0, warped=1)
    sensors = [chain.simulate(hr, 4, rng(seed))[1] for seed in range(8)]
    assert np.mean([t.grain for t in sensors]) > 0.1
    assert np.mean([t.noise for t in sensors]) < 0.018


def test_simulate_sharpening_is_reported(hr):
    chain = replace(PLAIN, filtered=1, sharpen=(1.0, 1.0))
    _, sensor = chain.simulate(hr, 4, rng(1))
    assert sensor.mtf == pytest.approx(0.4, abs=0.08)
    noisy = replace(chain, quiet=0, noise=(0.01, 0.01), striped=0, grainy=0)
    _, sensor = noisy.simulate(hr, 4, rng(1))
    assert sensor.noise > 0.015
    assert sensor.grain < -0.05


@pytest.mark.parametrize("warped", [0, 1])
@pytest.mark.parametrize("scale", [2, 4])
def test_simulate_has_no_shift(scale, warped):
    chain = replace(PLAIN, warped=warped)
    size = 32 * scale
    x = np.broadcast_to(np.arange(size, dtype=np.float32) / size, (1, size, size))
    centres = ((np.arange(32) + 0.5) * scale - 0.5) / size
    for seed in range(6):
        lr, _ = chain.simulate(np.ascontiguousarray(x), scale, rng(seed))
        np.testing.assert_allclose(lr[0, 16, 8:-8], centres[8:-8], atol=2e-4)


def test_simulate_bicubic_fraction_is_bicubic(hr):
    chain = ImagingChain(bicubic=1)
    lr, sensor = chain.simulate(hr, 4, rng())
    assert np.array_equal(lr, np.rint(lr * 255) / np.float32(255))
    rows, columns = bicubic_matrix(160, 4), bicubic_matrix(192, 4)
    np.testing.assert_allclose(lr, rows @ hr @ columns.T, atol=0.51 / 255)
    assert sensor.noise == pytest.approx(1 / 255 / np.sqrt(12), rel=0.1)


def test_sampling_matrix_at_the_centres_equals_the_psf():
    sigma = psf_sigma(0.2, 4)
    made = sampling_matrix(np.arange(16.0), 64, 4, sigma)
    np.testing.assert_allclose(made, psf_matrix(64, 4, sigma), atol=1e-6)


@pytest.mark.parametrize("cubic", [False, True])
def test_resampling_matrix_keeps_linear_ramps(cubic):
    row = np.arange(20) * 0.5
    places = np.array([5.0, 6.25, 7.5])
    matrix = resampling_matrix(places, 20, cubic)
    np.testing.assert_allclose(matrix @ row, places * 0.5, rtol=1e-6)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
    assert matrix[0, 5] == 1


def test_noise_statistics_of_zeros_are_zero():
    assert noise_statistics(np.zeros((1, 8, 8), np.float32)) == (0.0, 0.0)


@pytest.mark.parametrize(("near", "far"), [(1.0, 0.0), (0.5, 0.2), (-0.4, 0.1)])
@pytest.mark.parametrize("frequency", [0.25, 0.5])
def test_filter_matrix_has_its_frequency_response(near, far, frequency):
    matrix = filter_matrix(32, near, far)
    angle = 2 * np.pi * frequency
    expected = 1 + near * (1 - np.cos(angle)) / 2 + far * (1 - np.cos(2 * angle)) / 2
    assert matrix_mtf(matrix, 1, frequency) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    if far == 0:
        np.testing.assert_allclose(matrix, mtfc_matrix(32, near), atol=1e-6)


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_jpeg2000_roundtrip_loses_more_at_higher_ratios(bands, hr):
    small = hr[:bands, :48, :56]
    lost = [np.abs(jpeg2000_roundtrip(small, ratio) - small).mean() for ratio in (1.5, 6, 20)]
    assert lost == sorted(lost)
    assert jpeg2000_roundtrip(small, 6).shape == small.shape
    assert 0.001 < lost[0] < 0.02


def test_simulate_coding_is_reported_as_noise(hr):
    chain = replace(PLAIN, coded=1, jpeg2000=(12.0, 12.0), jpeg=(50, 50))
    assert min(chain.simulate(hr, 4, rng(seed))[1].noise for seed in range(4)) > 0.01


def test_imaging_chain_mapping_round_trips():
    chain = ImagingChain(mtf=(0.2, 0.3), jpeg=(50, 60))
    assert degradation_from_dict(chain.to_dict(), "recipe") == chain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bicubic": 2}, "bicubic is 2, expected a fraction from 0 to 1"),
        ({"mtf": [0.3, 0.2]}, r"mtf is \[0.3, 0.2\], expected lowest and highest in"),
        ({"noise": 0.1}, "noise is 0.1, expected two numbers"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_imaging_chain_bad_values_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        degradation_from_dict({"kind": "imaging-chain", **values}, "recipe")

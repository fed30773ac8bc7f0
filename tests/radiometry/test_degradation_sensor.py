from dataclasses import replace

import numpy as np
import pytest

from georsr.errors import UsageError
from georsr.radiometry.degradation import (
    BicubicDegradation,
    SensorDegradation,
    degradation_from_dict,
)
from georsr.radiometry.kernels import mtfc_matrix, psf_matrix, psf_sigma

QUIET = SensorDegradation(mtf=(0.2, 0.2), noise=(0.0, 0.0), bits=None)
"""Nothing but the PSF."""


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def hr():
    return rng(3).random((3, 96, 120), dtype=np.float32)


def response(weights, frequency):
    """Modulus of a kernel's Fourier transform at ``frequency`` cycles per sample."""
    phases = np.exp(-2j * np.pi * frequency * np.arange(len(weights)))
    return abs((weights * phases).sum())


@pytest.mark.parametrize("pixel", [False, True])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("mtf", [0.05, 0.1, 0.25, 0.35])
def test_psf_matrix_has_the_requested_mtf(scale, mtf, pixel):
    kernel = psf_matrix(64 * scale, scale, psf_sigma(mtf, scale, pixel), pixel)[32]
    assert response(kernel.astype(float), 1 / (2 * scale)) == pytest.approx(mtf, rel=0.01)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)


def test_sensor_degradation_sine_at_nyquist_keeps_the_mtf():
    scale = 4
    wave = np.cos(np.pi * (np.arange(256) + 0.5 - scale / 2) / scale)  # crests on LR centres
    hr = np.broadcast_to(0.5 + 0.4 * wave, (1, 256, 256)).astype(np.float32)
    lr = QUIET(hr, scale, rng())[0, 32, 16:48]
    assert np.ptp(lr) / 0.8 == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("pixel", [False, True])
def test_sensor_degradation_has_no_shift(scale, pixel):
    sensor = replace(QUIET, pixel=pixel)
    size = 32 * scale
    for row, column in ((size // 2, size // 2), (size // 2 + 1, size // 2 - 3)):
        impulse = np.zeros((1, size, size), np.float32)
        impulse[0, row, column] = 1
        lr = sensor(impulse, scale, rng())[0].astype(float)
        # centres of LR pixels in HR coordinates: any half-pixel shift would show as 0.5
        centres = (np.arange(size // scale) + 0.5) * scale - 0.5
        centroid = lr.sum(1) @ centres / lr.sum(), lr.sum(0) @ centres / lr.sum()
        assert centroid == pytest.approx((row, column), abs=0.5 * 0.2 * scale)
    ramp = np.broadcast_to(np.linspace(0.1, 0.9, size, dtype=np.float32), (1, size, size))
    blocks = ramp.reshape(1, size // scale, scale, size // scale, scale).mean((2, 4))
    inner = slice(8, -8)
    np.testing.assert_allclose(
        sensor(ramp, scale, rng())[0, inner, inner], blocks[0, inner, inner], atol=1e-5
    )


@pytest.mark.parametrize("sensor", [QUIET, replace(QUIET, pixel=True), BicubicDegradation()])
def test_sensor_degradation_of_a_constant_is_constant(sensor):
    flat = np.full((2, 48, 64), 0.3, np.float32)
    np.testing.assert_allclose(sensor(flat, 4, rng()), 0.3, atol=1e-6)


def test_sensor_degradation_noise_has_the_requested_sigma():
    flat = np.full((1, 512, 512), 0.36, np.float32)
    read = replace(QUIET, noise=(0.02, 0.02))(flat, 2, rng(1))
    assert read.std() == pytest.approx(0.02, rel=0.02)
    assert read.mean() == pytest.approx(0.36, abs=3e-4)
    shot = replace(QUIET, shot=(0.05, 0.05))(flat, 2, rng(1))
    assert shot.std() == pytest.approx(0.05 * 0.6, rel=0.02)
    both = replace(QUIET, noise=(0.02, 0.02), shot=(0.05, 0.05))(flat, 2, rng(1))
    assert both.std() == pytest.approx(np.hypot(0.02, 0.03), rel=0.02)


def test_sensor_degradation_draws_from_the_full_range():
    flat = np.full((1, 128, 128), 0.5, np.float32)
    sensor = replace(QUIET, noise=(0.0, 0.04))
    levels = [sensor(flat, 2, rng(seed)).std() for seed in range(200)]
    assert min(levels) < 0.004
    assert max(levels) > 0.036
    assert np.mean(levels) == pytest.approx(0.02, abs=0.003)


def test_sensor_degradation_same_seed_gives_the_same_bytes(hr):
    sensor = SensorDegradation(shot=(0, 0.02), jpeg=(60, 95))
    first, again, other = (sensor(hr, 4, rng(seed)) for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_sensor_degradation_bits_quantize(hr, bits):
    lr = replace(QUIET, bits=bits)(hr, 2, rng())
    levels = lr.astype(float) * (2**bits - 1)
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    half = 0.5 / (2**bits - 1) + 1e-6
    assert np.abs(lr - QUIET(hr, 2, rng())).max() <= half


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_sensor_degradation_jpeg_loses_more_at_lower_quality(hr, bands):
    hr = np.resize(hr, (bands, 96, 120))
    clean = replace(QUIET, bits=8)(hr, 2, rng())
    errors = []
    for quality in (95, 60):
        lr = replace(QUIET, bits=8, jpeg=(quality, quality))(hr, 2, rng())
        assert (lr.shape, lr.dtype) == ((bands, 48, 60), np.float32)
        errors.append(np.abs(lr - clean).mean())
    assert 0 < errors[0] < errors[1] < 0.1


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("degradation", [QUIET, replace(QUIET, pixel=True), BicubicDegradation()])
def test_degradation_of_a_window_with_margin_equals_the_image(degradation, scale):
    hr = rng(8).random((3, 64 * scale, 80 * scale), dtype=np.float32)
    whole = degradation(hr, scale, rng())
    margin = degradation.margin(scale)
    assert margin % scale == 0
    skip = margin // scale
    top, left, size = 21, 33, 16
    window = hr[
        :,
        scale * top - margin : scale * (top + size) + margin,
        scale * left - margin : scale * (left + size) + margin,
    ]
    inner = degradation(window, scale, rng())[:, skip:-skip, skip:-skip]
    expected = whole[:, top : top + size, left : left + size]
    np.testing.assert_allclose(inner, expected, atol=2e-7)


def test_degradation_stays_in_range(hr):
    binary = np.rint(hr)
    for degradation in (BicubicDegradation(), SensorDegradation(noise=(0.2, 0.2), bits=None)):
        lr = degradation(binary, 4, rng())
        assert lr.min() >= 0
        assert lr.max() <= 1
        assert lr.dtype == np.float32


def test_degradation_fixed_without_random_parameters():
    assert BicubicDegradation().fixed
    assert QUIET.fixed
    assert replace(QUIET, jpeg=(80, 80), bits=8).fixed
    assert not replace(QUIET, mtf=(0.1, 0.2)).fixed
    assert not replace(QUIET, shot=(0.1, 0.1)).fixed
    assert not replace(QUIET, jpeg=(60, 80), bits=8).fixed


@pytest.mark.parametrize(
    "degradation",
    [
        BicubicDegradation(),
        SensorDegradation(),
        SensorDegradation(shot=(0, 0.1), jpeg=(50, 90), pixel=True),
    ],
)
def test_degradation_mapping_round_trips(degradation):
    mapping = degradation.to_dict()
    assert degradation_from_dict(mapping, "recipe") == degradation
    assert mapping["kind"] == degradation.name
    assert degradation.name in degradation.describe()


def test_degradation_from_dict_number_is_a_range_of_one_value():
    assert degradation_from_dict(
        {"kind": "sensor", "mtf": 0.3, "noise": 0, "bits": None}, "recipe"
    ) == SensorDegradation(mtf=(0.3, 0.3), noise=(0, 0), bits=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("sensor", "recipe: expected 'kind: ' with one of bicubic, sensor"),
        ({"kind": "blur"}, "got {'kind': 'blur'}"),
        ({"kind": ["sensor"]}, "with one of bicubic, sensor"),
        ({"kind": "bicubic", "mtf": 0.3}, "recipe: unknown key 'mtf'"),
        ({"kind": "sensor", "psf": 1}, "unknown key 'psf'; known: mtf, noise"),
        ({"kind": "sensor", "mtf": [0.3, 0.1]}, "recipe: mtf is .* lowest and highest"),
        ({"kind": "sensor", "mtf": 0.9}, r"expected lowest and highest in 0\.01\.\.0\.5"),
        ({"kind": "sensor", "mtf": [0.1, 0.45], "pixel": True}, r"0\.01\.\.0\.4"),
        ({"kind": "sensor", "noise": "much"}, "noise is 'much', expected two numbers"),
        ({"kind": "sensor", "noise": [-0.1, 0]}, "noise is"),
        ({"kind": "sensor", "bits": 1}, "bits is 1, expected 2 to 16"),
        ({"kind": "sensor", "bits": 8.0}, "bits is 8.0"),
        ({"kind": "sensor", "jpeg": [60.5, 95]}, "integers"),
        ({"kind": "sensor", "jpeg": [60, 95], "bits": 12}, "jpeg needs bits: 8"),
        ({"kind": "sensor", "pixel": "yes"}, "pixel is 'yes'"),
    ],
)
def test_degradation_from_dict_bad_values_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        degradation_from_dict(values, "recipe")


def test_sensor_degradation_size_not_a_multiple_raises():
    with pytest.raises(ValueError, match="30x32 is not a multiple of 4"):
        QUIET(np.zeros((1, 30, 32), np.float32), 4, rng())


@pytest.mark.parametrize("grain", [0.5, 1.0])
def test_sensor_degradation_grain_smooths_noise_and_keeps_sigma(grain):
    flat = np.full((1, 512, 512), 0.5, np.float32)
    sensor = replace(QUIET, noise=(0.02, 0.02), grain=(grain, grain))
    noise = sensor(flat, 2, rng(1))[0] - 0.5
    assert noise.std() == pytest.approx(0.02, rel=0.03)
    # two gaussians of variance s^2 meet at lag 1 as exp(-1 / (4 s^2)), sampled ones nearly so
    taps = np.exp(-0.5 * (np.arange(-9, 10) / grain) ** 2)
    expected = (taps[1:] * taps[:-1]).sum() / (taps**2).sum()
    for axis in (0, 1):
        neighbours = np.roll(noise, 1, axis) * noise
        assert neighbours.mean() / noise.var() == pytest.approx(expected, abs=0.03)
    assert "grain" in sensor.describe()
    with pytest.raises(UsageError, match="grain"):
        replace(QUIET, grain=(0, 9))


def test_sensor_degradation_sharpen_applies_mtfc_to_image_and_noise(hr):
    plain = QUIET(hr, 4, rng())
    sharp = replace(QUIET, sharpen=(0.8, 0.8))
    assert sharp.fixed
    rows, columns = (mtfc_matrix(size, 0.8) for size in plain.shape[1:])
    np.testing.assert_allclose(
        sharp(hr, 4, rng()), (rows @ plain @ columns.T).clip(0, 1), atol=1e-6
    )
    flat = np.full((1, 512, 512), 0.5, np.float32)
    noisy = replace(sharp, noise=(0.01, 0.01))(flat, 2, rng(1))
    one_axis = 1.4**2 + 2 * 0.2**2  # of the taps -0.2, 1.4, -0.2
    assert noisy.std() == pytest.approx(0.01 * one_axis, rel=0.02)
    assert sharp.margin(4) == QUIET.margin(4) + 4
    assert "sharpened by 0.8" in sharp.describe()
    same = degradation_from_dict({"kind": "sensor", "sharpen": 0.8, "mtf": 0.2}, "recipe")
    assert same.sharpen == (0.8, 0.8)
    with pytest.raises(UsageError, match="sharpen"):
        replace(QUIET, sharpen=(0, 9))

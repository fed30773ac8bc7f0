"""Known shifts of band-limited texture, found again; scikit-image as a second opinion."""

import math

import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from georsr.geo.registration import phase_shift


def texture(shape, dy=0.0, dx=0.0, seed=0):
    """Smooth random texture moved down and right by any distance: a sum of plane waves."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape, dtype=float)
    image = np.full(shape, 100.0)
    for _ in range(150):
        fy, fx = rng.uniform(-0.12, 0.12, 2)
        phase = 2 * np.pi * (fy * (y - dy) + fx * (x - dx)) + rng.uniform(0, 2 * np.pi)
        image += np.cos(phase) / (0.02 + np.hypot(fy, fx)) / 4
    return image


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, -0.5), (-1.37, 2.81), (0.02, 0.0), (7, -9.4)])
@pytest.mark.parametrize("shape", [(96, 96), (80, 133)])
def test_phase_shift_recovers_known_shifts(shift, shape):
    found = phase_shift(texture(shape, *shift), texture(shape))
    assert found == pytest.approx(shift, abs=0.02)


def test_phase_shift_ignores_noise_and_contrast():
    rng = np.random.default_rng(1)
    reference = texture((128, 128))
    moved = np.rint(0.7 * texture((128, 128), 0.6, -0.3) + rng.normal(0, 2, (128, 128)) + 20)
    assert phase_shift(moved, reference, scale=2) == pytest.approx((0.6, -0.3), abs=0.02)


def test_phase_shift_agrees_with_scikit_image():
    rng = np.random.default_rng(2)
    reference = rng.normal(100, 20, (128, 128))
    fy, fx = np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)
    moved = np.fft.ifft2(np.fft.fft2(reference) * np.exp(-2j * np.pi * (1.3 * fy - 0.8 * fx))).real
    theirs, _, _ = phase_cross_correlation(moved, reference, upsample_factor=100)
    ours = phase_shift(moved, reference)
    assert ours == pytest.approx(theirs, abs=0.02)
    assert ours == pytest.approx((1.3, -0.8), abs=0.02)


def test_phase_shift_ignores_invented_detail():
    rng = np.random.default_rng(3)
    truth = texture((128, 128), seed=4)
    checks = 30 * np.kron(rng.choice([-1, 1], (64, 64)), [[1, -1], [-1, 1]])
    found = phase_shift(truth + checks, truth, scale=4)
    assert found == pytest.approx((0, 0), abs=0.02)


def test_phase_shift_of_flat_images_is_nan():
    flat, other = np.full((32, 32), 7.0), texture((32, 32))
    assert all(math.isnan(v) for v in phase_shift(flat, other))
    with pytest.raises(ValueError, match="expected two alike"):
        phase_shift(other, other[1:])
    with pytest.raises(ValueError, match="at least"):
        phase_shift(other[:8], other[:8])

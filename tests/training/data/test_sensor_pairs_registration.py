import numpy as np
import pytest

from georsr.training.data.sensor_pairs import Overlap, block_mean, fit_radiometry, measure_shift


@pytest.fixture
def ground():
    """ground(top, left, size): texture at any real place, so that shifts are exact."""
    rng = np.random.default_rng(2)
    waves = rng.normal(0, 0.25, (60, 2))
    phases, heights = rng.uniform(0, 2 * np.pi, 60), rng.uniform(0.2, 1, 60)

    def sample(top, left, size):
        y, x = np.mgrid[:size, :size]
        angle = np.multiply.outer(y + top, waves[:, 0]) + np.multiply.outer(x + left, waves[:, 1])
        return (np.cos(angle + phases) @ heights).astype(np.float32)[None]

    return sample


def overlap(lr, hr, valid=None):
    return Overlap(lr, hr, np.ones(lr.shape[1:], bool) if valid is None else valid)


def test_block_mean_is_the_mean():
    image = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    means = block_mean(image, 2)
    assert means.shape == (2, 2, 3)
    assert means[1, 1, 2] == image[1, 2:, 4:].mean()


def test_measure_shift_is_that_of_lr(ground):
    # LR(y) = HR(y - dy): the content of LR lies 1.3 rows below and 0.6 columns left
    parts = [overlap(ground(t - 1.3, 5 + 0.6, 64), ground(t, 5, 64)) for t in (0, 90, 200)]
    found = measure_shift(parts)
    assert (found.dy, found.dx) == pytest.approx((1.3, -0.6), abs=0.05)
    assert found.size == pytest.approx(np.hypot(1.3, 0.6), abs=0.05)
    assert (found.parts, found.spread < 0.1) == (3, True)
    assert "+1.3" in found.describe()


def test_measure_shift_is_robust_to_one_part(ground):
    parts = [overlap(ground(t, 5, 64), ground(t, 5, 64)) for t in (0, 90)]
    parts.append(overlap(ground(200 - 4, 5, 64), ground(200, 5, 64)))
    found = measure_shift(parts)
    assert found.size < 0.05
    assert found.spread == pytest.approx(4, abs=0.2)


def test_measure_shift_ignores_radiometry(ground):
    hr = ground(0, 0, 64)
    lr = np.concatenate([500 + 300 * ground(-2, 0, 64), 1e-3 * ground(-2, 0, 64)])
    found = measure_shift([overlap(lr, np.concatenate([hr, hr]))])
    assert (found.dy, found.dx) == pytest.approx((2, 0), abs=0.05)


def test_measure_shift_of_unsuitable_parts_is_none(ground):
    flat = np.ones((1, 64, 64), np.float32)
    small = ground(0, 0, 15)
    empty = np.zeros((64, 64), bool)
    empty[:32] = True
    textured = ground(0, 0, 64)
    for part in (overlap(flat, flat), overlap(small, small), overlap(textured, textured, empty)):
        assert measure_shift([part]) is None


def test_fit_radiometry_matches_mean_and_spread(ground):
    rng = np.random.default_rng(0)
    hr = np.concatenate([ground(0, 0, 64), ground(7, 3, 64)])
    gain, offset = np.array([2.0, 0.5])[:, None, None], np.array([100.0, -3.0])[:, None, None]
    noisy = hr + rng.normal(0, 0.3 * hr.std(), hr.shape)
    lr = (gain * hr + offset).astype(np.float32)
    valid = np.ones((64, 64), bool)
    valid[10:20] = False
    lr[:, ~valid] = -9999
    parts = [overlap(lr, noisy.astype(np.float32), valid)] * 2
    found = fit_radiometry(parts)
    mapped = found.apply(noisy.astype(np.float32))[:, valid]
    np.testing.assert_allclose(mapped.mean(1), lr[:, valid].mean(1), rtol=1e-4)
    np.testing.assert_allclose(mapped.std(1), lr[:, valid].std(1), rtol=1e-4)
    np.testing.assert_allclose(found.correlation, 1 / np.hypot(1, 0.3), atol=0.01)
    exact = fit_radiometry([overlap(lr, hr, valid)])
    np.testing.assert_allclose(exact.gain, gain.ravel(), rtol=1e-4)
    np.testing.assert_allclose(exact.offset, offset.ravel(), rtol=1e-4)


def test_fit_radiometry_of_a_flat_band_is_an_offset():
    flat = np.full((1, 20, 20), 7.0, np.float32)
    found = fit_radiometry([overlap(flat, flat - 2)])
    assert found.apply(flat - 2)[0, 0, 0] == pytest.approx(7)

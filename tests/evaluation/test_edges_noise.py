import numpy as np
import pytest

from georsr.evaluation.edges import flat_blocks, plane_residual
from georsr.inference.blur_and_noise import BLOCK


def test_plane_residual_on_a_slope_is_the_noise():
    y, x = np.indices((80, 96))
    noise = np.random.default_rng(0).normal(0, 2.5, (80, 96))
    spread = plane_residual(3.0 * x - 5 * y + noise, 8)
    assert spread.shape == (10, 12)
    assert np.sqrt(np.mean(spread**2)) == pytest.approx(2.5, rel=0.03)
    assert plane_residual(3.0 * x - 5 * y, 8).max() < 1e-10


def test_flat_blocks_excludes_saturated_blocks():
    rng = np.random.default_rng(1)
    image = rng.normal(100, 20, (80, 80))
    image[:16, :16] = 100 + rng.normal(0, 1, (16, 16))
    image[40:48, 40:48] = 255
    image[64:72, 64:72] = 0.001 * rng.normal(0, 1, (8, 8))
    valid = np.ones(image.shape, bool)
    valid[70, 70] = False
    chosen = flat_blocks(image, valid, 1)
    assert BLOCK == 8
    assert chosen[:2, :2].all()
    assert not chosen[5, 5]
    assert not chosen[8, 8]
    assert not flat_blocks(image, np.zeros_like(valid), 1).any()

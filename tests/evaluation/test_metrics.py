import math

import numpy as np
import pytest
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from georsr.evaluation.metrics import crop_border, luma, psnr, psnr_rgb, psnr_y, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (3, 40, 53)).astype(np.uint8)
    b = np.clip(a + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8)
    return a, b


def test_luma_agrees_with_matlab(pair):
    expected = rgb2ycbcr(pair[0].transpose(1, 2, 0))[..., 0]
    np.testing.assert_allclose(luma(pair[0]), expected, atol=1e-9)


def test_psnr_agrees_with_scikit_image(pair):
    expected = peak_signal_noise_ratio(pair[0], pair[1], data_range=255)
    assert psnr(*pair) == pytest.approx(expected, abs=1e-10)
    assert psnr(pair[0], pair[0]) == math.inf


def test_ssim_agrees_with_scikit_image(pair):
    a, b = luma(pair[0]), luma(pair[1])
    expected = structural_similarity(
        a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)
    assert ssim(a, a) == pytest.approx(1)


def test_metric_protocols_crop_the_border(pair):
    a, b = pair
    spoiled = b.copy()
    spoiled[:, :4] = 0
    spoiled[:, :, -4:] = 255
    assert psnr_y(a, spoiled, 4) == psnr_y(a, b, 4)
    assert psnr_rgb(a, spoiled, 4) == psnr_rgb(a, b, 4)
    assert psnr_y(a, spoiled, 0) < psnr_y(a, b, 0)


def test_rgb_protocol_is_the_mean_of_bands(pair):
    a, b = pair
    assert psnr_rgb(a, b, 0) == pytest.approx(np.mean([psnr(a[i], b[i]) for i in range(3)]))


def test_crop_border_of_nothing_keeps_all():
    image = np.zeros((2, 5, 6))
    assert crop_border(image, 0).shape == (2, 5, 6)
    assert crop_border(image, 2).shape == (2, 1, 2)

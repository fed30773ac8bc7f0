import numpy as np
import pytest

from georsr.errors import UsageError
from georsr.radiometry.kernels import Kernel, box_mtf, mtfc_matrix, parse_kernel


@pytest.mark.parametrize("name", ["bicubic", "mean", "psf:0.2", "psf:0.3+0.8"])
def test_parse_kernel_name_round_trips(name):
    assert str(parse_kernel(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cubic",
        "psf",
        "psf:",
        "psf:0.9",
        "psf:x",
        "mean:2",
        "psf:nan",
        "psf:0.3+",
        "psf:0.3+9",
        "psf:0.3+-1",
        "bicubic+1",
        "psf:+1",
        "psf:0.3+nan",
    ],
)
def test_parse_kernel_unknown_name_is_refused(name):
    with pytest.raises(UsageError, match="expected bicubic, mean, or psf:MTF"):
        parse_kernel(name)


@pytest.mark.parametrize("name", ["bicubic", "mean", "psf:0.1", "psf:0.1+1"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_kernel_matrix_rows_sum_to_one_within_the_radius(name, scale):
    kernel = parse_kernel(name)
    matrix = kernel.matrix(20 * scale, scale)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    used = np.flatnonzero(matrix[10]) // scale
    assert kernel.radius(scale) - 1 <= 10 - used[0] <= kernel.radius(scale)


def test_kernel_mean_downsample_is_the_block_mean():
    image = np.arange(64, dtype=np.float32).reshape(8, 8)
    expected = image.reshape(2, 4, 2, 4).mean((1, 3))
    np.testing.assert_allclose(Kernel("mean").downsample(image, 4), expected)
    assert box_mtf(4) == pytest.approx(0.653, abs=1e-3)


@pytest.mark.parametrize("mtf", [0.1, 0.3])
def test_kernel_psf_has_its_mtf(mtf):
    # the coarse image's Nyquist frequency: one period in two coarse pixels
    row = Kernel("psf", mtf).matrix(400, 4)[50]
    x = np.arange(400) - (50.5 * 4 - 0.5)
    assert float(row @ np.cos(2 * np.pi * x / 8)) == pytest.approx(mtf, abs=0.01)


@pytest.mark.parametrize("strength", [0.4, 1.5])
def test_mtfc_matrix_multiplies_contrast_at_nyquist(strength):
    alternating = np.where(np.arange(40) % 2, 0.6, 0.4)
    sharp = mtfc_matrix(40, strength) @ alternating
    assert np.ptp(sharp[1:-1]) == pytest.approx(0.2 * (1 + strength), rel=1e-4)
    row = Kernel("psf", 0.3, strength).matrix(400, 4)[50]
    x = np.arange(400) - (50.5 * 4 - 0.5)
    response = float(row @ np.cos(2 * np.pi * x / 8))
    assert response == pytest.approx(0.3 * (1 + strength), abs=0.02)

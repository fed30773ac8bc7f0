"""Operations that NumPy arrays and tensors share give the same on both."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from georsr.inference.consistency import back_project, downsample
from georsr.models.arrays import (
    BLOCK,
    banded,
    box_mean,
    enlarge_bicubic,
    enlarge_nearest,
    interpolate_bicubic,
    resize_bilinear,
    upsample_bilinear,
)
from georsr.models.multiband import MODES, MultiBand
from georsr.models.registry import COMPUTED
from georsr.radiometry.kernels import bicubic_weights, parse_kernel

SIZES = [(1, 1), (1, 7), (5, 4), (30, 141), (97, 64)]


def image(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def test_bicubic_weights_sum_to_one_and_keep_pixels_at_scale_one():
    np.testing.assert_array_equal(bicubic_weights(1), [[0, 0, 1, 0, 0]])
    for scale in range(2, 9):
        np.testing.assert_allclose(bicubic_weights(scale).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_enlarging_numpy_arrays_equals_torch(scale, size):
    x = image(2, 3, *size)
    tensor = torch.from_numpy(x)
    expected = F.interpolate(tensor, scale_factor=scale, mode="bicubic")
    np.testing.assert_allclose(enlarge_bicubic(x, scale), expected, atol=3e-5)
    np.testing.assert_array_equal(enlarge_nearest(x, scale), enlarge_nearest(tensor, scale))
    np.testing.assert_array_equal(upsample_bilinear(x, scale), upsample_bilinear(tensor, scale))
    for target in (size, (4 * size[0] * scale, 3 * size[1] + 1)):
        np.testing.assert_allclose(
            resize_bilinear(x, target), resize_bilinear(tensor, target), atol=3e-5
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_interpolate_bicubic_of_numpy_arrays_and_tensors_has_the_same_bytes(scale, size, dtype):
    x = 5e8 + 50 * np.random.default_rng(0).random((2, 3, *size)).astype(dtype)
    made = interpolate_bicubic(x, scale)
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, interpolate_bicubic(torch.from_numpy(x), scale))
    expected = F.interpolate(torch.from_numpy(x).double(), scale_factor=scale, mode="bicubic")
    np.testing.assert_allclose(made, expected, rtol=1e-14 if dtype == "float64" else 6e-8)


@pytest.mark.parametrize("side", [3, 9])
def test_box_mean_of_numpy_arrays_equals_torch(side):
    x = image(1, 2, 20, 31)
    np.testing.assert_allclose(box_mean(x, side), box_mean(torch.from_numpy(x), side), atol=1e-6)


@pytest.mark.parametrize("length", [BLOCK, 3 * BLOCK, 3 * BLOCK + 5])
@pytest.mark.parametrize("width", [1, 19, 700])
def test_banded_matrix_of_numpy_arrays_equals_the_dense_product(length, width):
    generator = np.random.default_rng(0)
    apart = np.abs(np.subtract.outer(np.arange(length) * 2, np.arange(2 * length)))
    matrix = np.where(apart < 7, generator.normal(size=apart.shape), 0.0)
    x = generator.normal(size=(2, 3, 2 * length, width)).astype(np.float32)
    expected = np.einsum("mn,abnw->abmw", matrix, x)
    np.testing.assert_allclose(banded(matrix, BLOCK)(x), expected, atol=1e-4)
    total = np.ones((2, 3, length, width), np.float32)
    assert banded(matrix, BLOCK).add_to(x, total) is total
    np.testing.assert_allclose(total, expected + 1, atol=1e-4)


@pytest.mark.parametrize("name", ["bicubic", "mean", "psf:0.2"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-13)])
def test_back_project_of_numpy_arrays_equals_torch(name, masked, dtype, tolerance):
    kernel = parse_kernel(name)
    coarse, fine = image(1, 3, 40, 37).astype(dtype), image(1, 3, 160, 148, seed=1).astype(dtype)
    valid = image(1, 3, 40, 37, seed=2) > 0.1 if masked else None
    tensors = [None if a is None else torch.from_numpy(a.copy()) for a in (fine, coarse, valid)]
    expected = back_project(*tensors[:2], kernel, tensors[2])
    made = back_project(fine.copy(), coarse, kernel, valid)
    for ours, theirs in zip(made, expected, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, theirs, atol=tolerance)
    np.testing.assert_allclose(
        downsample(fine, kernel, 4), downsample(torch.from_numpy(fine), kernel, 4), atol=tolerance
    )


@pytest.mark.parametrize("mode", MODES)
def test_multi_band_of_numpy_arrays_equals_torch(mode):
    rule = MultiBand(COMPUTED["nearest-x2"], (2, 1, 0), mode)
    x = image(1, 5, 30, 41)

    def network(seen):  # has detail that bicubic has not
        return enlarge_nearest(seen, 2) * 1.5 - 0.2

    ours = rule.apply(network, x)
    np.testing.assert_allclose(ours, rule.apply(network, torch.from_numpy(x)), atol=1e-4)
    assert ours.shape == (1, 5, 60, 82)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 4), (30, 41)])
def test_upsample_bilinear_equals_torch(scale, size):
    image = torch.from_numpy(np.random.default_rng(0).random((2, *size), np.float32))
    expected = F.interpolate(image[None], scale_factor=scale, mode="bilinear")[0]
    np.testing.assert_allclose(
        upsample_bilinear(image, scale), expected, atol=4e-6
    )  # torch finds its weights in float32


def test_upsample_bilinear_constant_image_stays_exactly_constant():
    image = torch.full((1, 6, 5), 0.1)
    assert (upsample_bilinear(image, 3) == image[0, 0, 0]).all()


PRODUCTS = """
import hashlib
import numpy as np
from georsr.inference.consistency import back_project
from georsr.models.arrays import enlarge_bicubic
from georsr.radiometry.kernels import parse_kernel
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for height, width in ((192, 192), (67, 101)):
    fine = rng.random((1, 3, 4 * height, 4 * width), np.float32)
    coarse = rng.random((1, 3, height, width), np.float32)
    for made in back_project(fine, coarse, parse_kernel("psf:0.2")):
        digest.update(made.tobytes())
    digest.update(enlarge_bicubic(coarse, 4).tobytes())
print(digest.hexdigest())
"""


def test_products_of_numpy_do_not_depend_on_the_threads_of_its_library():
    digests = {
        subprocess.run(
            [sys.executable, "-c", PRODUCTS],
            env=os.environ | {"OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "4")
    }
    assert len(digests) == 1

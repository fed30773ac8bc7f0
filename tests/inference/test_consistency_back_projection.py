import numpy as np
import pytest
import torch

from georsr.inference.consistency import BLOCK, back_project, banded
from georsr.radiometry.kernels import Kernel, parse_kernel

KERNELS = ["bicubic", "mean", "psf:0.2", "psf:0.5"]


def images(scale, height=24, width=37, seed=0):
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 2, height, width, generator=rng)
    coarse = torch.nn.functional.avg_pool2d(coarse, 3, 1, 1, count_include_pad=False)
    fine = coarse.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return fine + 0.2 * torch.rand(fine.shape, generator=rng), coarse


def shrunk(image, kernel, scale):
    return torch.from_numpy(kernel.downsample(image.numpy(), scale))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["bicubic", "mean", "psf:0.5"])
def test_back_project_downsampled_equals_the_source(name, scale):
    fine, coarse = images(scale)
    kernel = parse_kernel(name)
    made, residual = back_project(fine.clone(), coarse, kernel)
    np.testing.assert_allclose(residual, coarse - shrunk(fine, kernel, scale), atol=1e-5)
    left = (coarse - shrunk(made, kernel, scale)).abs()
    assert left.mean() < 0.1 * residual.abs().mean()


@pytest.mark.parametrize("name", KERNELS)
def test_back_project_keeps_the_mean(name):
    fine, coarse = images(4, 64, 64)
    kernel = parse_kernel(name)
    made, _ = back_project(fine + 0.3, coarse, kernel)
    left = (coarse - shrunk(made, kernel, 4))[..., 8:-8, 8:-8]
    assert abs(float(left.mean())) < 1e-3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_back_project_uses_the_memory_of_the_image_unless_masked(layout):
    fine, coarse = (image.contiguous(memory_format=layout) for image in images(2, 30, 20))
    before = fine.clone(), coarse.clone()
    masked, _ = back_project(
        fine, coarse, Kernel("bicubic"), torch.ones(coarse.shape, dtype=torch.bool)
    )
    assert torch.equal(fine, before[0])
    made, _ = back_project(fine, coarse, Kernel("bicubic"))
    assert torch.equal(coarse, before[1])
    taken = layout is torch.contiguous_format
    assert (made.data_ptr() == fine.data_ptr()) is taken
    assert torch.equal(fine, before[0]) is not taken
    np.testing.assert_allclose(made[..., 8:-8, 8:-8], masked[..., 8:-8, 8:-8], atol=0.1)


@pytest.mark.parametrize("name", KERNELS)
def test_back_project_consistent_image_is_unchanged(name):
    fine = torch.full((1, 3, 40, 28), 0.7)
    made, residual = back_project(fine, torch.full((1, 3, 10, 7), 0.7), parse_kernel(name))
    assert residual.abs().max() < 1e-6
    np.testing.assert_allclose(made, fine, atol=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_back_project_ignores_invalid_pixels(name):
    fine, coarse = images(2, 40, 40)
    valid = torch.rand(coarse.shape, generator=torch.Generator().manual_seed(1)) > 0.05
    valid[..., 10:20, 12:30] = False
    inside = valid.repeat_interleave(2, 2).repeat_interleave(2, 3)
    kernel = parse_kernel(name)
    made, first = back_project(fine, coarse, kernel, valid)
    spoilt, other = back_project(
        torch.where(inside, fine, 1e4), torch.where(valid, coarse, -1e4), kernel, valid
    )
    assert torch.equal(first, other)
    assert torch.equal(made[inside], spoilt[inside])
    assert torch.equal(made[~inside], fine[~inside])
    assert first[~valid].abs().max() == 0
    _, left = back_project(made, coarse, kernel, valid)
    assert left.abs().mean() < 0.1 * first.abs().mean()


def test_back_project_edge_of_a_hole_does_not_ring():
    # a constant beside a hole stays a constant, whatever the hole holds
    fine, coarse = torch.full((1, 1, 64, 64), 5.0), torch.full((1, 1, 16, 16), 5.0)
    valid = torch.ones(coarse.shape, dtype=torch.bool)
    valid[..., 4:9, 4:9] = False
    fine[..., 16:36, 16:36], coarse[..., 4:9, 4:9] = 900.0, 900.0
    made, _ = back_project(fine, coarse, Kernel("bicubic"), valid)
    inside = valid.repeat_interleave(4, 2).repeat_interleave(4, 3)
    np.testing.assert_allclose(made[inside], 5.0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (17, 33)])
def test_back_project_any_size_is_finite(size):
    fine, coarse = images(4, *size)
    made, _ = back_project(fine, coarse, Kernel("psf", 0.2))
    assert made.shape == fine.shape
    assert torch.isfinite(made).all()


def test_back_project_does_not_depend_on_threads():
    fine, coarse = images(4, 96, 101)
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            made.append(back_project(fine.clone(), coarse, Kernel("bicubic"))[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, made[0]) for each in made)


@pytest.mark.parametrize("length", [BLOCK, 3 * BLOCK, 3 * BLOCK + 5])
def test_banded_matrix_equals_the_dense_product(length):
    generator = np.random.default_rng(0)
    apart = np.abs(np.subtract.outer(np.arange(length) * 2, np.arange(2 * length)))
    matrix = np.where(apart < 7, generator.normal(size=apart.shape), 0.0)
    image = torch.from_numpy(generator.normal(size=(2, 3, 2 * length, 19)).astype(np.float32))
    made = banded(matrix, BLOCK, (torch.float32, torch.device("cpu")))
    expected = np.einsum("mn,abnw->abmw", matrix, image)
    np.testing.assert_allclose(made(image), expected, atol=1e-4)
    total = torch.ones(2, 3, length, 19)
    assert made.add_to(image, total) is total
    np.testing.assert_allclose(total, expected + 1, atol=1e-4)
    np.testing.assert_allclose(made(image.mT.contiguous().mT), expected, atol=1e-4)
    np.testing.assert_allclose(made.multiply_at_once(image), expected, atol=1e-4)

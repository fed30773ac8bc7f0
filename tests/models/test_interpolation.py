import numpy as np
import pytest
import torch
import torch.nn.functional as F

from georsr.models.interpolation import upsample_bilinear


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

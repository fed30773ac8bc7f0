import numpy as np
import pytest
from PIL import Image

from georsr.radiometry.degradation import (
    bicubic_downsample,
    crop_to_multiple,
    degrade_pair,
    to_uint8,
)


@pytest.fixture
def image():
    return np.random.default_rng(5).integers(0, 256, (3, 48, 60)).astype(np.uint8)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bicubic_downsample_equals_pillow(image, scale):
    ours = bicubic_downsample(image, scale)
    for band, mine in zip(image, ours, strict=True):
        pillow = Image.fromarray(band.astype(np.float32))
        size = (60 // scale, 48 // scale)
        theirs = np.asarray(pillow.resize(size, Image.Resampling.BICUBIC))
        np.testing.assert_allclose(mine, theirs, atol=2e-3)


@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_downsample_differs_from_8_bit_pillow_by_rounding(image, scale):
    image = image // 2 + 60  # Pillow clips between its two passes: keep overshoots inside
    pillow = Image.fromarray(image.transpose(1, 2, 0))
    resized = pillow.resize((60 // scale, 48 // scale), Image.Resampling.BICUBIC)
    theirs = np.asarray(resized).transpose(2, 0, 1).astype(int)
    ours = to_uint8(bicubic_downsample(image, scale)).astype(int)
    assert np.abs(ours - theirs).max() <= 2
    assert np.abs(ours - theirs).mean() < 0.35


def test_bicubic_downsample_commutes_with_rotations(image):
    square = image[:, :48, :48]
    for turn in range(4):
        a = bicubic_downsample(np.rot90(square, turn, (1, 2)), 4)
        b = np.rot90(bicubic_downsample(square, 4), turn, (1, 2))
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_bicubic_downsample_of_a_constant_is_constant():
    flat = np.full((1, 24, 24), 77, np.uint8)
    assert (to_uint8(bicubic_downsample(flat, 4)) == 77).all()


def test_degrade_pair_crops_to_a_multiple_of_the_scale():
    assert crop_to_multiple(np.zeros((3, 257, 242)), 4).shape == (3, 256, 240)
    hr, lr = degrade_pair(np.zeros((3, 257, 242), np.uint8), 4)
    assert (hr.shape, lr.shape) == ((3, 256, 240), (3, 64, 60))
    with pytest.raises(ValueError, match="multiple of 4"):
        bicubic_downsample(np.zeros((5, 8)), 4)


def test_to_uint8_rounds_half_to_even_and_clips():
    np.testing.assert_array_equal(to_uint8(np.array([-3, 0.5, 1.5, 255.6])), [0, 0, 2, 255])

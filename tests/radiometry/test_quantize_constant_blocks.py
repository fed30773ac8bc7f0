import numpy as np
import pytest

from georsr.radiometry.quantize import broadcast_pixel, is_broadcast, is_constant
from georsr.writer.encoder import to_encodable

DTYPES = ["bool", "uint8", "int16", "uint32", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_constant_of_one_value_per_plane_is_true(dtype):
    planes = np.arange(3, dtype="uint8").astype(dtype)[:, None, None] + np.zeros((3, 5, 7), dtype)
    assert is_constant(planes)
    assert is_constant(planes[0])
    assert is_constant(planes[:, 1:, ::2])
    for row, column in ((0, 0), (0, 6), (4, 0), (4, 6), (2, 3)):
        other = planes.copy()
        other[1, row, column] = not other[1, row, column]
        assert not is_constant(other)
        assert is_constant(other[0])


def test_is_constant_compares_bits():
    assert is_constant(np.full((2, 3), np.nan))
    zeros = np.zeros((2, 3), "float32")
    zeros[1, 1] = -0.0
    assert not is_constant(zeros)


def test_broadcast_pixel_takes_no_memory():
    planes = broadcast_pixel(np.arange(12, dtype="uint8").reshape(3, 2, 2), 500, 400)
    assert planes.shape == (3, 500, 400)
    assert planes[:, 499, 399].tolist() == [0, 4, 8]
    assert is_broadcast(planes)
    assert is_constant(planes)
    assert not is_broadcast(planes.copy())
    assert not planes.flags.writeable


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_to_encodable_of_a_broadcast_pixel_is_broadcast(masked, with_alpha):
    values = broadcast_pixel(np.array([1, 2, 3], "uint8")[:, None, None], 40, 50)
    mask = broadcast_pixel(np.full((1, 1), 9, "uint8"), 40, 50) if masked else None
    alpha = broadcast_pixel(np.full((1, 1), 7, "uint8"), 40, 50) if with_alpha else None
    pixels, shade = to_encodable(values, mask, alpha)
    assert is_broadcast(pixels)
    assert shade is None or is_broadcast(shade)
    full = [None if each is None else each.copy() for each in (values, mask, alpha)]
    expected, expected_shade = to_encodable(*full)
    np.testing.assert_array_equal(pixels, expected)
    assert (shade is None) == (not masked)
    if masked:
        np.testing.assert_array_equal(shade, expected_shade)
        assert not is_broadcast(to_encodable(values, mask.copy(), alpha)[1])

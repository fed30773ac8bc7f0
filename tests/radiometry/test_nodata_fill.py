import numpy as np
import pytest

from georsr.radiometry.nodata import MAX_FILL_DISTANCE, fill_invalid
from tests.rasters import ramp


def holes(seed=0, share=0.3):
    rng = np.random.default_rng(seed)
    values = rng.normal(100, 20, (2, 60, 90)).astype("float32")
    return values, rng.random(values.shape) > share


@pytest.mark.parametrize("junk", [np.nan, np.inf, -9999.0, 3.4e38, 0.0])
def test_fill_invalid_does_not_depend_on_invalid_values(junk):
    values, valid = holes()
    reference = fill_invalid(np.where(valid, values, np.float32(1)), valid)
    filled = fill_invalid(np.where(valid, values, np.float32(junk)), valid)
    np.testing.assert_array_equal(filled, reference)
    assert np.isfinite(filled).all()
    assert filled.dtype == np.float32


def test_fill_invalid_keeps_valid_pixels_and_bands_apart():
    values, valid = holes()
    filled = fill_invalid(values, valid)
    assert (filled[valid].view("uint32") == values[valid].view("uint32")).all()
    other = values.copy()
    other[1] *= 7
    np.testing.assert_array_equal(fill_invalid(other, valid)[0], filled[0])


def test_fill_invalid_values_lie_among_the_neighbours():
    values = np.full((1, 20, 20), 5, "float32")
    values[0, :, 10:] = 9
    valid = np.ones(values.shape, bool)
    valid[0, 5:8, 2:5] = False
    values[~valid] = 1000
    np.testing.assert_allclose(fill_invalid(values, valid)[0, 5:8, 2:5], 5, rtol=0.2)


def test_fill_invalid_far_from_valid_pixels_is_the_mean():
    values = np.zeros((1, 4, 200), "float32")
    values[0, :, 0], values[0, :, 1] = 10, 30
    valid = np.zeros(values.shape, bool)
    valid[..., :2] = True
    filled = fill_invalid(values, valid)
    np.testing.assert_array_equal(filled[..., 2 * MAX_FILL_DISTANCE + 2 :], 20)


def test_fill_invalid_band_without_valid_pixels_is_constant():
    values, valid = holes()
    valid[0] = False
    assert (fill_invalid(values, valid)[0] == 0).all()
    assert (fill_invalid(values, valid, empty=0.5)[0] == 0.5).all()


def test_fill_invalid_one_valid_pixel_fills_the_band():
    valid = np.zeros((1, 50, 50), bool)
    valid[0, 25, 25] = True
    filled = fill_invalid(ramp(1, 50, 50, "float32"), valid)
    np.testing.assert_array_equal(filled, ramp(1, 50, 50, "float32")[0, 25, 25])


def test_fill_invalid_without_invalid_pixels_returns_its_input():
    values, valid = holes(share=0)
    assert fill_invalid(values, valid) is values


@pytest.mark.parametrize(("distance", "expected"), [(32, 10.0), (33, 20.0)])
def test_fill_invalid_interpolates_up_to_32_pixels(distance, expected):
    values = np.zeros((1, 1, 400), "float32")
    values[..., 0], values[..., 399] = 10, 30
    valid = values > 0
    assert fill_invalid(values, valid)[0, 0, distance] == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fill_invalid_of_a_wide_or_constant_band_keeps_its_values(dtype):
    """Values that fillnodata cannot hold are moved and scaled for it."""
    values = np.array([[[0, 1.0, 0, 3.0, 0]]], "float64")
    valid = values > 0
    for unit, offset in ((1.0, 0.0), (2.0**100, 0.0), (1.0, 2.0**20), (-(2.0**101), 0.0)):
        moved = (values * unit + offset).astype(dtype)
        filled = fill_invalid(moved, valid)
        middle = 2 * unit + offset
        assert filled[0, 0, 2] == pytest.approx(middle, rel=1e-6)
        assert filled[0, 0, 0] == pytest.approx(unit + offset, rel=0.4)
        np.testing.assert_array_equal(filled[valid], moved[valid])
    constant = np.full((1, 3, 3), 2.0**101, dtype)
    valid = np.ones((1, 3, 3), bool)
    valid[0, 1, 1] = False
    assert fill_invalid(constant, valid)[0, 1, 1] == 2.0**101


def test_fill_invalid_bands_without_holes_are_not_touched():
    values = np.stack([np.full((3, 3), 5.0), np.full((3, 3), np.inf)]).astype("float32")
    valid = np.ones(values.shape, bool)
    valid[0, 1, 1] = False
    np.testing.assert_array_equal(fill_invalid(values, valid), values)

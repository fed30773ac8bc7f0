import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from georsr.errors import GeoreferenceWarning, UsageError
from georsr.xarray.coords import Axis, axis_from_coords, grid_info

origins = st.floats(-1e7, 1e7)
steps = st.one_of(st.floats(1e-5, 1e5), st.floats(-1e5, -1e-5))


@given(origins, steps, st.integers(1, 300), st.integers(1, 5))
def test_axis_refined_has_the_same_edges(origin, step, length, scale):
    coarse = Axis(origin, step, length)
    fine = coarse.refine(scale)
    assert fine.length == length * scale
    assert fine.origin == origin
    end = coarse.origin + coarse.length * coarse.step
    assert fine.origin + fine.length * fine.step == pytest.approx(end, rel=1e-12, abs=1e-9)
    centres = fine.coords().reshape(length, scale).mean(axis=1)
    size = abs(origin) + abs(step) * length
    np.testing.assert_allclose(centres, coarse.coords(), rtol=0, atol=1e-12 * size)


@given(origins, st.floats(1e-3, 1e5), st.integers(2, 300), st.integers(0, 200), st.booleans())
def test_axis_from_coords_of_a_slice_is_exact(origin, step, length, start, corners):
    whole = Axis(origin, step, start + length, 0.0 if corners else 0.5)
    found = axis_from_coords("x", whole.coords()[start:], (origin, step), corners=True)
    assert found.step == step
    assert found.pixel_ref == whole.pixel_ref
    assert found.origin == origin + start * step
    assert found.length == length


def test_axis_from_coords_prefers_coordinates_to_a_stale_transform():
    labels = Axis(100.0, 10.0, 50).coords()
    every_second = axis_from_coords("x", labels[::2], (100.0, 10.0))
    assert (every_second.origin, every_second.step) == (95.0, 20.0)
    elsewhere = axis_from_coords("x", labels + 3.0, (100.0, 10.0))
    assert (elsewhere.origin, elsewhere.step) == (103.0, 10.0)
    # half a pixel off: only those who say that labels are corners are believed
    assert axis_from_coords("x", labels - 5.0, (100.0, 10.0)).origin == 95.0
    assert axis_from_coords("x", labels - 5.0, (100.0, 10.0), corners=True).origin == 100.0


def test_axis_from_coords_rounded_coordinates_are_accepted():
    degrees = (10 + (np.arange(500) + 0.5) * 1e-4).astype("float32")
    axis = axis_from_coords("longitude", degrees, (10.0, 1e-4))
    assert (axis.origin, axis.step) == (10.0, 1e-4)
    assert axis_from_coords("x", np.arange(5)[::-1]) == Axis(4.5, -1.0, 5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0, 3.0], r"'x': is not evenly spaced, its steps go from 1 to 2; resample"),
        ([1.0, 1.0, 1.0], "not evenly spaced"),
        ([0.0, np.nan, 2.0], "not evenly spaced"),
        ([0.0], "the size of one pixel is unknown; .*write_transform"),
        (["a", "b"], "holds <U1, expected numbers"),
    ],
)
def test_axis_from_coords_uneven_coordinates_are_refused(labels, message):
    with pytest.raises(UsageError, match=message):
        axis_from_coords("x", np.asarray(labels))


def test_axis_from_coords_one_pixel_uses_the_transform():
    assert axis_from_coords("y", np.array([95.0]), (100.0, -10.0)) == Axis(100.0, -10.0, 1)


def array_of(values, **attrs):
    axes = {"y": np.arange(values.shape[-2])[::-1] * 10.0, "x": np.arange(values.shape[-1]) * 10.0}
    return xr.DataArray(values, dims=("band", "y", "x"), coords=axes, attrs=attrs)


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"_FillValue": -9999.0, "missing_value": 1e20}, (-9999.0, np.float32(1e20))),
        ({"missing_value": np.array([-9999.0, -8888.0])}, (-9999.0, -8888.0)),
        ({"_FillValue": -9999.0, "missing_value": -9999.0}, (-9999.0,)),
        ({"nodatavals": (-1.0, -1.0)}, (-1.0,)),
        ({}, ()),
    ],
)
def test_grid_info_all_declared_nodata_values_are_read(attrs, expected):
    values = np.arange(128, dtype="float32").reshape(2, 8, 8)
    for i, value in enumerate(expected):
        values[:, i, i] = value
    array = array_of(values, **attrs)
    info = grid_info(array)
    assert info.source_nodata == pytest.approx(expected)
    with pytest.warns(GeoreferenceWarning):
        made = array.georsr.super_resolve("nearest", 2)
    for i in range(len(expected)):
        assert (made.values[:, 2 * i, 2 * i] == np.float32(expected[0])).all()


def test_grid_info_nodata_that_differs_between_bands_is_refused():
    array = array_of(np.ones((2, 8, 8), "float32"), nodatavals=(0.0, -9999.0))
    with pytest.raises(UsageError, match="differs between bands"):
        grid_info(array)


@pytest.mark.parametrize("lazy", [False, True])
def test_accessor_masked_pixels_are_invalid(lazy):
    values = np.ma.array(np.full((2, 8, 8), 50, "float32"), mask=np.zeros((2, 8, 8), bool))
    values[:, :4] = np.ma.array(1e6, mask=True)
    array = array_of(da.from_array(values, chunks=4) if lazy else values)
    with pytest.warns(GeoreferenceWarning):
        made = array.georsr.super_resolve("bicubic", 2).values
    assert np.isnan(made[:, :8]).all()
    assert (made[:, 8:] == 50).all()

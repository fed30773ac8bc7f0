import dask.array as da
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from georsr.errors import GeoreferenceWarning, UsageError
from georsr.xarray.coords import (
    Axis,
    assign_output_coords,
    axis_from_coords,
    band_names,
    encodable_range,
    grid_info,
)

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


def test_axis_coordinates_are_those_worked_out_by_hand():
    assert Axis(100.0, -10.0, 3).coords().tolist() == [95.0, 85.0, 75.0]
    assert Axis(100.0, -10.0, 3, 0.0).coords().tolist() == [100.0, 90.0, 80.0]
    assert Axis(100.0, -10.0, 3).refine(2) == Axis(100.0, -5.0, 6)


@pytest.mark.parametrize(("shift", "even"), [(0.49, True), (0.51, False)])
def test_axis_from_coords_may_be_off_by_a_twentieth_of_a_pixel(shift, even):
    labels = np.arange(0, 100, 10.0)
    labels[3] += shift
    if even:
        assert axis_from_coords("x", labels) == Axis(-5.0, 10.0, 10)
    else:
        with pytest.raises(UsageError, match="not evenly spaced"):
            axis_from_coords("x", labels)


@pytest.mark.parametrize(
    ("declared", "used"),
    [
        ((100.4, 10.0), True),
        ((100.6, 10.0), False),
        ((100.0, 10.04), True),
        ((100.0, 10.06), False),
    ],
)
def test_axis_from_coords_uses_a_transform_near_the_coordinates(declared, used):
    axis = axis_from_coords("x", Axis(100.0, 10.0, 10).coords(), declared)
    assert axis == (Axis(*declared, 10) if used else Axis(100.0, 10.0, 10))


def test_axis_from_coords_float32_far_from_0_is_accepted():
    """float32 holds these only to half a unit: more than a twentieth of a pixel."""
    labels = (5_000_000 + np.arange(8) * 1.25).astype("float32")
    assert axis_from_coords("y", labels).length == 8
    with pytest.raises(UsageError, match="not evenly spaced"):
        axis_from_coords("y", labels.astype("float64"))


def test_grid_info_names_dimensions_grid_and_what_is_missing():
    array = array_of(np.ones((2, 4, 3), "uint8")).expand_dims(time=[0]).rename("scene")
    info = grid_info(array)
    assert (info.name, info.source) == ("array 'scene'", "scene")
    assert (info.y, info.x, info.band, info.scenes) == ("y", "x", "band", ("time",))
    assert info.order == ("time", "band", "y", "x")
    assert info.axes == (Axis(35.0, -10.0, 4), Axis(-5.0, 10.0, 3))
    assert info.transform == Affine(10, 0, -5, 0, -10, 35)
    assert info.missing_georeference == "coordinate reference system"
    plain = grid_info(array.isel(time=0, band=0).rename(None).rio.write_crs("EPSG:32632"))
    assert (plain.name, plain.source, plain.band, plain.order) == (
        "array",
        "array",
        None,
        ("y", "x"),
    )
    assert plain.missing_georeference is None
    bare = array.drop_vars(["y", "x"]).rio.write_crs("EPSG:32632")
    assert (grid_info(bare).transform, grid_info(bare).axes) == (None, None)
    assert grid_info(bare).missing_georeference == "geotransform"
    assert grid_info(array, band="time").order == ("band", "time", "y", "x")


@pytest.mark.parametrize(
    ("selection", "message"),
    [({"y": slice(0)}, "has no rows"), ({"x": slice(0)}, "has no columns")],
)
def test_grid_info_empty_selection_is_refused(selection, message):
    with pytest.raises(UsageError, match=message):
        grid_info(array_of(np.ones((2, 4, 3), "uint8")).isel(selection))


def test_grid_info_requested_nodata_replaces_the_declared():
    array = array_of(np.ones((1, 4, 3), "uint8"), _FillValue=7)
    assert (grid_info(array).nodata, grid_info(array, nodata=9).source_nodata) == (7.0, (9.0,))
    assert (grid_info(array, nodata="none").nodata, grid_info(array, nodata=0).nodata) == (None, 0)
    with pytest.raises(UsageError, match="nodata 300 cannot occur in data of type uint8"):
        grid_info(array, nodata=300)
    assert grid_info(array_of(np.ones((1, 4, 3), "uint8"), missing_value=300)).source_nodata == ()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ({"dtype": "int16"}, (-32768, 32767)),
        ({"dtype": "int16", "_FillValue": -32768}, (-32767, 32767)),
        ({"dtype": "uint8", "_FillValue": 255}, (0, 254)),
        ({"dtype": "uint8", "_FillValue": 9}, (0, 255)),
        ({"dtype": "uint8", "scale_factor": 2, "add_offset": 10}, (10, 520)),
        ({"dtype": "uint8", "scale_factor": -1, "add_offset": 5}, (-250, 5)),
        ({"dtype": "uint8", "scales": (1, 2)}, None),
        ({"dtype": "float32"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_encodable_range_is_that_of_the_stored_type(encoding, expected):
    array = array_of(np.ones((1, 4, 3), "float32"))
    array.encoding = encoding
    assert encodable_range(array) == expected
    assert encodable_range(array.astype("uint8")) is None


@pytest.mark.parametrize(
    ("labels", "long_name", "expected"),
    [
        (["red", "nir"], None, ("red", "nir")), ([1, 2], ("r", "g"), ("r", "g")),
        ([1, 3], ("r", "g", "b"), ("r", "b")), ([1, 4], ("r", "g", "b"), None),
        ([0, 1], ("r", "g", "b"), None), ([1, 2], "reflectance", None), ([1, 2], None, None),
        ([0.5, 1.5], ("r", "g", "b"), None),
    ],
)  # fmt: skip
def test_band_names_are_labels_or_those_of_the_file(labels, long_name, expected):
    array = array_of(np.ones((2, 4, 3), "uint8")).assign_coords(band=labels)
    array.attrs = {} if long_name is None else {"long_name": long_name}
    assert band_names(array, grid_info(array)) == expected
    single = array.isel(band=0, drop=True)
    assert band_names(single, grid_info(single)) is None


def rotated_array():
    transform = Affine.translation(100, 200) @ Affine.rotation(30) @ Affine.scale(2, -3)
    x, y = np.meshgrid(np.arange(5) + 0.5, np.arange(4) + 0.5)
    a, b, c, d, e, f = tuple(transform)[:6]
    coords = {"xc": (("y", "x"), a * x + b * y + c), "yc": (("y", "x"), d * x + e * y + f)}
    array = xr.DataArray(np.ones((4, 5), "uint8"), dims=("y", "x"), coords=coords)
    return array.rio.write_transform(transform).rio.write_crs("EPSG:32632"), transform


def test_grid_info_part_of_a_rotated_grid_is_found():
    array, transform = rotated_array()
    assert grid_info(array).transform == transform
    for rows, columns in ((1, 0), (0, 2), (1, 2)):
        part = grid_info(array.isel(y=slice(rows, None), x=slice(columns, None)))
        np.testing.assert_allclose(
            tuple(part.transform), tuple(transform @ Affine.translation(columns, rows)), atol=1e-9
        )
        assert part.axes is None
    for shift in (0.2, -0.2):
        with pytest.raises(UsageError, match="do not lie on the grid of GeoTransform"):
            grid_info(array.assign_coords(xc=array["xc"] + shift))


def test_assign_output_coords_of_a_rotated_grid_are_pixel_centres():
    array, transform = rotated_array()
    options = {"nodata": None, "recoded": False, "tags": {"A": "b"}}
    made = assign_output_coords(np.ones((8, 10)), array, grid_info(array), 2, **options)
    for row, column in ((0, 0), (7, 9), (3, 6)):
        point = transform @ ((column + 0.5) / 2, (row + 0.5) / 2)
        assert (float(made["xc"][row, column]), float(made["yc"][row, column])) == pytest.approx(
            point
        )
    assert made.rio.transform() == transform @ Affine.scale(0.5)
    assert made.attrs == {"A": "b"}


def test_assign_output_coords_keeps_what_is_still_valid():
    array = array_of(
        np.ones((2, 4, 3), "uint8"), transform=(10, 0, -5, 0, -10, 35), res=(10, 10),
        STATISTICS_MEAN=1, TIFFTAG_XRESOLUTION=7, units="m", _FillValue=3, long_name=("r", "g"),
    )  # fmt: skip
    array.encoding = {"dtype": "uint8", "grid_mapping": "spatial_ref", "chunksizes": (1, 2)}
    array = array.transpose("y", "x", "band").assign_coords(quality=("band", [1, 2]))
    info, pixels = grid_info(array), np.ones((2, 8, 6), "uint8")
    kept = assign_output_coords(pixels, array, info, 2, nodata=3.0, recoded=False, tags={})
    assert kept.dims == ("y", "x", "band")
    assert kept["y"].values.tolist() == [32.5, 27.5, 22.5, 17.5, 12.5, 7.5, 2.5, -2.5]
    assert kept["quality"].values.tolist() == [1, 2]
    assert kept.attrs == {
        "transform": Affine(5, 0, -5, 0, -5, 35), "units": "m", "_FillValue": 3,
        "long_name": ("r", "g"),
    }  # fmt: skip
    assert kept.encoding == {"dtype": "uint8", "grid_mapping": "spatial_ref"}
    recoded = assign_output_coords(
        pixels.astype("float32"), array, info, 2, nodata=9.0, recoded=True, tags={}
    )
    assert (recoded.attrs["_FillValue"], recoded.encoding) == (9.0, {"grid_mapping": "spatial_ref"})

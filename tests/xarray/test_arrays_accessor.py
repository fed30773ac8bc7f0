"""The accessor: a DataArray gets what a file gets, and keeps what it says."""

import subprocess
import sys

import dask
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from rasterio.control import GroundControlPoint

import georsr
import georsr.xarray
from georsr.errors import GeoreferenceWarning, UsageError

pytestmark = [
    # rioxarray still multiplies transforms the old way
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Transform that is non-rectilinear:UserWarning"),
]
SMALL = {"tile_size": 32, "halo": 2, "overlap": 4}
TRANSFORMS = {
    "north-up": Affine(0.5, 0, 400000, 0, -0.5, 5e6),
    "south-up": Affine(10, 0, 500000, 0, 10, 4e6),
    "degrees": Affine(1 / 3600, 0, 10 + 1 / 7, 0, -1 / 3600, 50 + 1 / 3),
    "rotated": Affine.translation(3e5, 6e6) @ Affine.rotation(30) @ Affine.scale(10, -8),
    "sheared": Affine(2, 0.3, 1000, -0.2, -3, 2000),
}


def open_array(path, lazy=False, **options):
    chunks = {"band": 2, "y": 23, "x": 31} if lazy else None
    return rioxarray.open_rasterio(path, chunks=chunks, **options)


def computed(array):
    with dask.config.set(scheduler="synchronous"):
        return array.compute()


@pytest.fixture
def grid():
    """grid(values, *leading dims) -> DataArray on a small grid in UTM."""

    def make(values, *dims, **attrs):
        height, width = values.shape[-2:]
        array = xr.DataArray(
            values,
            dims=(*dims, "y", "x"),
            coords={
                "y": 5e6 - (np.arange(height) + 0.5) * 10,
                "x": 4e5 + (np.arange(width) + 0.5) * 10,
            },
            attrs=attrs,
        )
        return array.rio.write_crs("EPSG:32632")

    return make


def test_import_georsr_xarray_does_not_import_torch():
    code = (
        "import sys, georsr.xarray, xarray; assert 'torch' not in sys.modules; "
        "xarray.DataArray.georsr; xarray.Dataset.georsr"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- what a file gets --------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_accessor_array_equals_its_file(dtype, lazy, lite_file, make_raster, texture, tmp_path):
    image = texture(3, 60, 75, dtype)
    image[:, 20:35, 40:50] = 7
    source = make_raster(image, nodata=7)
    georsr.super_resolve(source, tmp_path / "file.tif", lite_file, **SMALL)
    output = open_array(source, lazy).georsr.super_resolve(lite_file, **SMALL)
    expected = open_array(tmp_path / "file.tif")
    assert output.dtype == dtype
    assert (output.chunks is not None) is lazy
    xr.testing.assert_equal(computed(output), expected)
    for name, coordinate in expected.coords.items():
        np.testing.assert_array_equal(output[name], coordinate)
        assert output[name].attrs == coordinate.attrs
    assert output.rio.nodata == 7
    assert output.rio.crs == expected.rio.crs

    with dask.config.set(scheduler="synchronous"):
        output.rio.to_raster(tmp_path / "array.tif", tiled=True, lock=lazy)
    xr.testing.assert_equal(open_array(tmp_path / "array.tif"), expected)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_accessor_output_covers_the_same_ground(name, lazy, make_raster, texture, tmp_path):
    source = make_raster(texture(1, 20, 30), transform=TRANSFORMS[name])
    georsr.super_resolve(source, tmp_path / "file.tif", "nearest", 4)
    output = open_array(source, lazy).georsr.super_resolve("nearest", 4)
    expected = open_array(tmp_path / "file.tif")
    assert set(output.coords) == set(expected.coords)
    for coordinate in expected.coords:
        np.testing.assert_array_equal(output[coordinate], expected[coordinate])
    if "xc" in output.coords:
        assert (output["xc"].chunks is not None) is lazy
    with rasterio.open(tmp_path / "file.tif") as file:
        np.testing.assert_allclose(
            tuple(output.rio.transform()), tuple(file.transform), rtol=1e-12, atol=1e-9
        )


def test_accessor_sample_equals_that_of_the_file(make_raster, texture, tmp_path):
    """A raster of more than 2**20 pixels is decimated, and not in the way of xarray."""
    image = (texture(1, 1100, 1000, "uint16") ** 0.5 * 200).astype("uint16")
    source = make_raster(image)
    georsr.super_resolve(source, tmp_path / "file.tif", "bicubic", 2)
    with rasterio.open(tmp_path / "file.tif") as file:
        expected = file.read()
    array = open_array(source)
    np.testing.assert_array_equal(array.georsr.super_resolve("bicubic", 2), expected)
    lazy = rioxarray.open_rasterio(source, chunks={"x": 400, "y": 300})
    np.testing.assert_array_equal(computed(lazy.georsr.super_resolve("bicubic", 2)), expected)
    found = lazy.georsr.stretch()
    again = lazy.georsr.super_resolve("bicubic", 2, stretch=found)
    np.testing.assert_array_equal(computed(again), expected)


# -- dimensions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_accessor_other_dimensions_are_scenes(lazy, grid, texture, lite_file):
    values = np.stack([texture(3, 40, 50, "uint16", seed=i) // (i + 1) for i in range(2)])
    times = np.array(["2026-05-01", "2026-06-01"], "datetime64[ns]")
    array = grid(values, "time", "band").assign_coords(
        time=times, band=["red", "green", "blue"], cloud=("time", [0.1, 0.2])
    )
    array = array.chunk(time=2, band=1, y=25) if lazy else array
    output = computed(array.georsr.super_resolve(lite_file, **SMALL))
    assert output.dims == array.dims
    assert "long_name" not in array.attrs
    assert output.attrs["long_name"] == ("red", "green", "blue")  # rioxarray's names of bands
    for name in ("time", "band", "cloud"):
        assert output[name].variable.identical(array[name].variable.compute())
    for scene, original in zip(output.values, values, strict=True):
        np.testing.assert_array_equal(
            scene, georsr.super_resolve_array(original, lite_file, **SMALL)
        )
    turned = array.transpose("y", "x", "band", "time").georsr.super_resolve(lite_file, **SMALL)
    assert turned.dims == ("y", "x", "band", "time")
    assert computed(turned).transpose(*array.dims).identical(output)


@pytest.mark.parametrize("lazy", [False, True])
def test_accessor_2d_array_is_one_band(lazy, grid, texture):
    values = texture(1, 40, 50)[0]
    array = grid(values).chunk(y=16) if lazy else grid(values)
    output = array.georsr.super_resolve("nearest", 3)
    np.testing.assert_array_equal(computed(output), values.repeat(3, 0).repeat(3, 1))


def test_accessor_dimensions_with_other_names_are_found(grid, texture, lite_file):
    values = texture(3, 20, 30)
    array = grid(values, "wavelength").rename(x="easting", y="northing")
    array.rio.set_spatial_dims(x_dim="easting", y_dim="northing")
    output = array.georsr.super_resolve(lite_file, band_dim="wavelength")
    assert output.dims == ("wavelength", "northing", "easting")
    assert output.rio.transform() == Affine(5, 0, 4e5, 0, -5, 5e6)
    np.testing.assert_array_equal(output, georsr.super_resolve_array(values, lite_file))


def test_accessor_slice_keeps_its_place(make_raster, texture):
    for name in ("degrees", "rotated"):
        array = open_array(make_raster(texture(1, 20, 30), transform=TRANSFORMS[name]))
        part = array.isel(x=slice(7, 20), y=slice(4, None))  # spatial_ref still says the whole
        output = part.georsr.super_resolve("nearest", 2)
        corner = TRANSFORMS[name] @ (7, 4)
        transform = output.rio.transform()
        np.testing.assert_allclose((transform.c, transform.f), corner, rtol=1e-14)
        assert transform.a == TRANSFORMS[name].a / 2


@pytest.mark.parametrize("lazy", [False, True])
def test_accessor_slice_of_the_output_in_netcdf_lies_in_its_place(lazy, grid, texture, tmp_path):
    # placed by its coordinates, without GeoTransform; GDAL needs their CF attributes
    array = grid(texture(1, 20, 30, "int16")[0]).rio.write_coordinate_system()
    output = (array.chunk(y=8) if lazy else array).georsr.super_resolve("nearest", 2)
    assert "GeoTransform" not in output.spatial_ref.attrs
    assert output.rio.transform() == Affine(5, 0, 4e5, 0, -5, 5e6)
    part = output.isel(x=slice(14, 40), y=slice(8, None))
    expected = Affine(5, 0, 4e5 + 14 * 5, 0, -5, 5e6 - 8 * 5)
    part.rename("values").to_netcdf(tmp_path / "part.nc")
    part.rio.to_raster(tmp_path / "part.tif")
    for name in ("part.nc", "part.tif"):
        with rioxarray.open_rasterio(tmp_path / name) as read:
            assert read.rio.transform() == expected
            np.testing.assert_array_equal(np.squeeze(read.values), part.values)


def test_accessor_slice_with_its_transform_written_lies_in_its_place(
    make_raster, texture, tmp_path
):
    array = open_array(make_raster(texture(1, 20, 30, "int16")))  # with GeoTransform
    part = array.georsr.super_resolve("nearest", 2).isel(x=slice(14, 40), y=slice(8, None))
    part.rio.write_transform().rename("values").to_netcdf(tmp_path / "part.nc")
    with rioxarray.open_rasterio(tmp_path / "part.nc") as read:
        assert read.rio.transform() == array.rio.transform() @ Affine.translation(
            7, 4
        ) @ Affine.scale(0.5)


def test_accessor_single_row_uses_the_transform(make_raster, texture):
    array = open_array(make_raster(texture(1, 20, 30))).isel(y=slice(3, 4))
    output = array.georsr.super_resolve("nearest", 2)
    np.testing.assert_array_equal(output.y, [5e6 - 1.625, 5e6 - 1.875])


def test_accessor_corner_coordinates_stay_corners(grid, texture):
    """stackstac's way: the transform in an attribute, labels of top left corners."""
    array = grid(texture(1, 4, 6)[0]).drop_vars("spatial_ref")
    array = array.assign_coords(x=array.x - 5, y=array.y + 5, epsg=32632)
    array.encoding = {}
    array.attrs = {
        "crs": "EPSG:32632",
        "transform": Affine(10, 0, 4e5, 0, -10, 5e6),
        "resolution": 10,
    }
    output = array.georsr.super_resolve("nearest", 2)
    assert output.attrs["transform"] == Affine(5, 0, 4e5, 0, -5, 5e6)
    assert "resolution" not in output.attrs
    np.testing.assert_array_equal(output.x[:3], [4e5, 4e5 + 5, 4e5 + 10])
    np.testing.assert_array_equal(output.y[:3], [5e6, 5e6 - 5, 5e6 - 10])
    assert output.rio.crs == array.rio.crs


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_accessor_gcps_are_kept(make_raster, texture, tmp_path):
    points = [
        GroundControlPoint(row, column, 10 + column / 100, 50 - row / 100)
        for row, column in ((0, 0), (0, 30), (20, 0))
    ]
    source = make_raster(texture(1, 20, 30), gcps=points, transform=None, crs="EPSG:4326")
    array = open_array(source)
    before = array.copy(deep=True)
    output = array.georsr.super_resolve("nearest", 2)
    assert array.identical(before)
    output.rio.to_raster(tmp_path / "o.tif")
    with rasterio.open(tmp_path / "o.tif") as out:
        found = [(p.row, p.col, p.x, p.y) for p in out.gcps[0]]
    assert found == [(p.row * 2, p.col * 2, p.x, p.y) for p in points]


# -- what an array says of itself ------------------------------------------------------------------


def test_accessor_valid_attributes_are_kept(make_raster, texture, tmp_path):
    def describe(dataset):
        dataset.descriptions = ("red", "green", "blue")
        dataset.update_tags(ACQUIRED="2026-05-01", STATISTICS_MEAN="3")

    array = open_array(make_raster(texture(3, 20, 30), after=describe))
    array = array.rename("scene").assign_coords(
        sensor="A", area=(("y", "x"), np.ones((20, 30))), day=("y", np.arange(20))
    )
    before = array.copy(deep=True)
    output = array.georsr.super_resolve("segsr-lite-x2")
    assert array.identical(before)
    assert array.encoding == before.encoding
    assert output.name == "scene"
    assert output.attrs["long_name"] == ("red", "green", "blue")
    assert output.attrs["ACQUIRED"] == "2026-05-01"
    assert "STATISTICS_MEAN" not in output.attrs
    assert output.attrs["GEORSR_MODEL"] == "segsr-lite-x2"
    assert output.attrs["GEORSR_SOURCE"] == "in.tif"
    assert "synthesised" in output.attrs["GEORSR_NOTE"]
    assert set(output.coords) == {"band", "y", "x", "spatial_ref", "sensor"}
    assert "source" not in output.encoding
    output.rio.to_raster(tmp_path / "o.tif")
    with rasterio.open(tmp_path / "o.tif") as out:
        assert out.descriptions == ("red", "green", "blue")
        assert out.tags()["ACQUIRED"] == "2026-05-01"


@pytest.mark.parametrize("lazy", [False, True])
def test_accessor_decoded_values_do_not_wrap_when_written(lazy, make_raster, tmp_path):
    """Sharp edges at both ends of the type: beyond them lie overshoots, and nodata."""
    image = np.full((1, 40, 40), 1, "uint8")
    image[:, 10:30, 10:30] = 255
    image[:, :4] = 0
    array = open_array(make_raster(image, nodata=0), lazy, masked=True)
    output = array.georsr.super_resolve("bicubic", 2)
    assert np.isnan(output.rio.nodata)
    assert (float(output.min()), float(output.max())) == (1, 255)
    output.rio.to_raster(tmp_path / "o.tif")
    with rasterio.open(tmp_path / "o.tif") as out:
        assert (out.dtypes[0], out.nodata) == ("uint8", 0)
        np.testing.assert_array_equal(out.read() == 0, (image == 0).repeat(2, 1).repeat(2, 2))
        assert out.read()[0, 30:50, 30:50].min() > 200


def test_accessor_packed_values_keep_their_encoding(grid, tmp_path):
    values = np.linspace(-3.2767, 3.2767, 1200, dtype="float32").reshape(1, 30, 40)
    array = grid(values, "band").rename("reflectance")
    array.encoding = {
        "dtype": "int16",
        "scale_factor": 1e-4,
        "add_offset": 0.0,
        "_FillValue": -32768,
        "grid_mapping": "spatial_ref",
    }
    output = array.georsr.super_resolve("bicubic", 2)
    assert output.encoding == array.encoding
    assert -3.27671 < float(output.min()) < -3.2
    output.to_netcdf(tmp_path / "o.nc")
    back = xr.open_dataset(tmp_path / "o.nc")["reflectance"]
    np.testing.assert_allclose(back, output, atol=0.6e-4)


def test_accessor_nodata_and_dtype_options_are_applied(grid, texture):
    values = texture(1, 20, 30, "int16")
    values[0, :5] = -1
    values[0, 5:] = np.abs(values[0, 5:]) % 200 + 1
    array = grid(values, "band", _FillValue=np.int16(-1))
    options = {"dst_nodata": "255", "dtype": "uint8", "stretch": "0,255"}
    output = array.georsr.super_resolve("nearest", 2, **options)
    assert output.dtype == "uint8"
    assert output.rio.nodata == 255
    assert (output[0, :10] == 255).all()
    np.testing.assert_array_equal(output[0, 10:], values[0, 5:].repeat(2, 0).repeat(2, 1))
    without = array.georsr.super_resolve("nearest", 2, dst_nodata="none")
    assert without.rio.nodata is None
    encoded = grid(values, "band").rio.write_nodata(-1, encoded=True)
    assert (encoded.georsr.super_resolve("nearest", 2)[0, :10] == -1).all()
    named = grid(values, "band").georsr.super_resolve("nearest", 2, src_nodata=-1)
    assert named.rio.nodata == -1
    assert (named[0, :10] == -1).all()


def test_accessor_without_crs_warns(texture):
    array = xr.DataArray(texture(1, 10, 12), dims=("band", "y", "x"))
    with pytest.warns(GeoreferenceWarning, match="array: has no coordinate reference system"):
        output = array.georsr.super_resolve("nearest", 2)
    assert output.sizes == {"band": 1, "y": 20, "x": 24}
    assert set(output.coords) == set()


# -- lazy ------------------------------------------------------------------------------------------


def test_accessor_lazy_output_has_shape_chunks_and_dtype(grid, texture):
    array = grid(texture(3, 1000, 1800, "uint16"), "band").chunk(y=333)
    output = array.georsr.super_resolve("segsr-lite-x4")
    assert output.shape == (3, 4000, 7200)
    assert output.chunks == ((3,), (4000,), (6656, 544))
    assert output.dtype == "uint16"
    assert output.data.dtype == "uint16"
    cut = array.georsr.super_resolve("segsr-lite-x4", chunks={"x": 2000, "y": -1})
    assert cut.chunks == ((3,), (4000,), (2000, 2000, 2000, 1200))
    assert cut.georsr is not None
    again = array.georsr.super_resolve("segsr-lite-x4", chunks={"x": 2000, "y": -1})
    assert dask.base.tokenize(again) == dask.base.tokenize(cut)
    in_memory = grid(texture(1, 40, 50), "band")
    lazy = in_memory.georsr.super_resolve("nearest", 2, chunks=32)
    assert lazy.chunks == ((1,), (32, 32, 16), (32, 32, 32, 4))
    assert computed(lazy).identical(in_memory.georsr.super_resolve("nearest", 2))


def test_accessor_normalization_serves_all_scenes(grid, texture, lite_file):
    values = np.stack([texture(3, 30, 40, "uint16", seed=i) // (i + 1) for i in range(3)])
    values[:, 2] = 9
    stack = grid(values, "time", "band")
    found = stack.georsr.stretch()
    ranges = [tuple(map(float, part.split(","))) for part in found.split(";")]
    for band, (low, high) in enumerate(ranges[:2]):
        assert (low, high) == tuple(np.percentile(values[:, band], (0.5, 99.5)))
    assert ranges[2] == (9, 10)
    output = stack.georsr.super_resolve(lite_file, stretch=found)
    expected = georsr.super_resolve_array(values[1], lite_file, stretch=found)
    np.testing.assert_array_equal(output[1], expected)
    auto = stack[1].georsr.super_resolve(lite_file)
    own = stack[1].georsr.super_resolve(lite_file, stretch=stack[1].georsr.stretch())
    assert auto.equals(own)
    assert stack[0, 0].astype("uint8").georsr.stretch() == "0.0,255.0"


# -- datasets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_accessor_dataset_variables_are_bands(lazy, grid, texture, lite_file):
    values = texture(3, 30, 40, "uint16")
    bands = {
        name: grid(band, long_name=name.title(), _FillValue=np.uint16(0))
        for name, band in zip(("red", "green", "blue"), values, strict=True)
    }
    dataset = xr.Dataset({**bands, "cloud": 0.2}, attrs={"platform": "A"})
    dataset = dataset.chunk(y=16) if lazy else dataset
    output = computed(dataset.georsr.super_resolve(lite_file, **SMALL))
    stacked = xr.concat(bands.values(), "band").georsr.super_resolve(lite_file, **SMALL)
    assert list(output) == ["red", "green", "blue", "cloud"]
    assert output.attrs == {"platform": "A"}
    assert float(output.cloud) == 0.2
    for i, name in enumerate(bands):
        np.testing.assert_array_equal(output[name], stacked[i])
        assert output[name].attrs["long_name"] == name.title()
        assert output[name].rio.nodata == 0
        assert output[name].rio.transform() == Affine(5, 0, 4e5, 0, -5, 5e6)


def test_accessor_dataset_variables_one_by_one(grid, texture, lite_file):
    height, slope = texture(1, 20, 30, "int16")[0], texture(1, 20, 30, "float32")[0]
    terrain = xr.Dataset({"height": grid(height), "slope": grid(slope)})
    output = terrain.georsr.super_resolve("bicubic", 2)
    assert output.height.identical(terrain.height.georsr.super_resolve("bicubic", 2))
    assert output.slope.dtype == "float32"
    rgb = xr.Dataset({"before": grid(texture(3, 20, 30), "band")})
    output = rgb.georsr.super_resolve(lite_file)
    assert output.before.identical(rgb.before.georsr.super_resolve(lite_file))


def test_accessor_dataset_of_differing_variables_is_refused(grid, texture, lite_file):
    plane = texture(1, 20, 30)[0]
    with pytest.raises(UsageError, match=r"data type of 'a' and 'b' differ: uint8 and int16"):
        xr.Dataset(
            {"a": grid(plane), "b": grid(plane.astype("int16")), "c": grid(plane)}
        ).georsr.super_resolve(lite_file)
    with pytest.raises(UsageError, match=r"nodata of 'a' and 'b' differ: None and 3"):
        xr.Dataset({"a": grid(plane), "b": grid(plane, _FillValue=3)}).georsr.super_resolve(
            lite_file
        )
    with pytest.raises(UsageError, match=r"takes 3 bands .*has 2: dataset"):
        xr.Dataset({"a": grid(plane), "b": grid(plane)}).georsr.super_resolve(lite_file)
    with pytest.raises(UsageError, match="no variable has the dimensions 'y' and 'x'"):
        xr.Dataset({"a": ("y", [1.0]), "b": ("x", [1.0])}).georsr.super_resolve(lite_file)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a.rename(x="i", y="j"), {}, r"dimensions 'band', 'j', 'i': which are rows"),
        (lambda a: a.assign_coords(x=(a.x - 4e5) ** 2), {}, r"'x': is not evenly spaced"),
        (lambda a: a.astype("int64"), {}, r"data type int64 is not supported.*astype"),
        (lambda a: a.astype(bool), {}, r"data type bool is not supported"),
        (lambda a: a.drop_vars("spatial_ref").assign_attrs(crs="?"), {}, r"cannot be read .*crs"),
        (lambda a: a.isel(band=[0, 1]), {}, r"takes 3 bands .*array has 2.*band_dim"),
        (lambda a: a.rename(band="colour"), {}, r"has 1: .*colour, y, x; .*band_dim='colour'"),
        (lambda a: a.isel(band=0, x=slice(3), drop=True).expand_dims(band=20), {},
         r"has the shape \(20, 40, 3\); .*dims=\('y', 'x', 'band'\)"),
        (lambda a: a, {"src_nodata": 3.5}, r"nodata 3.5 cannot occur in data of type uint8"),
        (lambda a: a, {"dst_nodata": "300"}, r"nodata 300 does not fit data type uint8"),
        (lambda a: a, {"dtype": "int64"}, r"data type int64 is not one of"),
        (lambda a: a, {"stretch": "9,1"}, r"LO must be less than HI"),
        (lambda a: a.chunk(), {"stretch": "9,1"}, r"LO must be less than HI"),
        (lambda a: a, {"tile_size": 8, "halo": 4}, r"tile 8 is too small"),
        (lambda a: a.chunk(), {"chunks": 33}, r"chunks of 33 along 'y': .*multiple of the scale"),
        (lambda a: a.chunk(), {"chunks": {"band": 1}}, r"chunks along 'band'"),
        (lambda a: a, {"scale": 3}, r"enlarges x2, but x3"),
        (lambda a: a, {"indexes": (1, 2, 3)}, r"indexes: for arrays it names the guide.*da.sel"),
        (lambda a: a, {"bounds": (0, 0, 1, 1)}, r"option bounds is for files.*clip_box"),
        (lambda a: a, {"cog": True}, r"option cog is for files.*to_raster"),
    ],
)  # fmt: skip
def test_accessor_bad_arguments_are_one_line(change, options, message, grid, texture, lite_file):
    array = change(grid(texture(3, 40, 50), "band"))
    with pytest.raises(UsageError, match=message) as caught:
        array.georsr.super_resolve(lite_file, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("jobs", "did you mean num_threads"), ("bidx", "did you mean indexes"), ("zzz", "SRConfig")],
)
def test_accessor_unknown_option_names_the_nearest(name, message, grid, texture):
    array = grid(texture(3, 40, 50), "band")
    with pytest.raises(
        TypeError, match=rf"^super_resolve: there is no option '{name}'; .*{message}"
    ):
        array.georsr.super_resolve("bicubic-x2", **{name: 1})


def test_accessor_indexes_of_none_are_all_bands(grid, texture):
    array = grid(texture(3, 40, 50), "band")
    made = array.georsr.super_resolve("bicubic-x2", indexes=None)
    xr.testing.assert_equal(made, array.georsr.super_resolve("bicubic-x2"))


def test_accessor_coordinates_of_another_grid_are_refused(make_raster, texture):
    array = open_array(make_raster(texture(1, 20, 30), transform=TRANSFORMS["rotated"]))
    with pytest.raises(UsageError, match="do not lie on the grid of GeoTransform"):
        array.isel(x=slice(None, None, 2)).georsr.super_resolve("nearest", 2)


def test_accessor_model_in_memory_needs_an_array_in_memory(grid, texture, lite_model):
    values = texture(3, 40, 50)
    array = grid(values, "band")
    np.testing.assert_array_equal(
        array.georsr.super_resolve(lite_model), georsr.super_resolve_array(values, lite_model)
    )
    with pytest.raises(UsageError, match="exists in memory only"):
        array.chunk().georsr.super_resolve(lite_model)


@pytest.mark.parametrize("lazy", [False, True])
def test_accessor_band_names_are_written_to_a_file(lazy, grid, texture, tmp_path):
    array = grid(texture(3, 20, 24, "uint16"), "band").assign_coords(band=["B04", "B03", "B8A"])
    array = array.chunk(y=12) if lazy else array
    output = array.georsr.super_resolve("bicubic", 2)
    assert list(output.band.values) == ["B04", "B03", "B8A"]
    output.rio.to_raster(tmp_path / "named.tif")
    with rasterio.open(tmp_path / "named.tif") as out:
        assert out.descriptions == ("B04", "B03", "B8A")
    own = array.assign_coords(band=[1, 2, 3]).assign_attrs(long_name=("red", "green", "infrared"))
    made = own.georsr.super_resolve("bicubic", 2)
    assert made.attrs["long_name"] == ("red", "green", "infrared")
    # labels follow a selection of bands, the attribute does not: labels count
    stale = array.assign_attrs(long_name=("red", "green", "infrared"))
    made = stale.georsr.super_resolve("bicubic", 2)
    assert made.attrs["long_name"] == ("B04", "B03", "B8A")
    numbered = array.assign_coords(band=[4, 3, 9]).georsr.super_resolve("bicubic", 2)
    assert "long_name" not in numbered.attrs

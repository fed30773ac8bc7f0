import os
import pickle
import stat
import warnings

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import Resampling

from georsr.errors import GeoreferenceWarning, InputError, RadiometryWarning, UsageError
from georsr.io.reader import open_raster
from georsr.radiometry.normalization import WINDOWS_PER_AXIS
from georsr.window import Window
from tests.rasters import UTM, make_raster, open_quietly, ramp

WHOLE = Window(0, 0, 40, 50)
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_read_window_returns_stored_values(tmp_path, dtype):
    data = ramp(dtype=dtype) if dtype != "int8" else (ramp() // 2).astype("int8")
    with open_raster(make_raster(tmp_path / "a.tif", data)) as reader:
        assert reader.info.dtype == dtype
        assert reader.info.mask_kind == "none"
        patch = reader.read(Window(3, 7, 20, 30))
    assert patch.values.dtype == dtype
    np.testing.assert_array_equal(patch.values, data[:, 3:23, 7:37])
    assert patch.valid.all()
    assert patch.valid.shape == patch.values.shape
    assert patch.alpha is None


@pytest.mark.parametrize(
    "window",
    [Window(-1, 0, 5, 5), Window(0, 0, 41, 5), Window(0, 49, 1, 2), Window(0, 0, 0, 5)],
)
def test_read_window_outside_is_refused(rgb, window):
    with open_raster(rgb) as reader, pytest.raises(ValueError, match="not inside"):
        reader.read(window)


def test_read_nodata_is_invalid_per_band(tmp_path):
    data = ramp(dtype="uint16")
    data[1, 4, 5] = 0
    with open_raster(make_raster(tmp_path / "a.tif", data, nodata=0)) as reader:
        assert reader.info.mask_kind == "nodata"
        assert reader.info.nodata == (0, 0, 0)
        valid = reader.read(WHOLE).valid
    assert np.argwhere(~valid).tolist() == [[1, 4, 5]]


def test_open_raster_nodata_option_overrides(tmp_path):
    data = ramp(1)
    path = make_raster(tmp_path / "a.tif", data, nodata=0)
    with open_raster(path, nodata=7) as reader:
        np.testing.assert_array_equal(reader.read(WHOLE).valid, data != 7)
    for bad in (256, -1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="nodata"):
            open_raster(path, nodata=bad)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nodata", [None, -9999.0, float("nan"), -3.4028234663852886e38])
def test_read_non_finite_values_are_invalid(tmp_path, dtype, nodata):
    data = ramp(1, dtype=dtype)
    data[0, 0, :4] = np.nan, np.inf, -np.inf, -9999.0 if nodata is None else nodata
    with open_raster(make_raster(tmp_path / "a.tif", data, nodata=nodata)) as reader:
        valid = reader.read(WHOLE).valid
    assert valid[0, 0, :5].tolist() == [False, False, False, nodata is None, True]
    assert valid[0, 1:].all()


def test_read_float_nodata_agrees_with_gdal(tmp_path):
    nodata = np.float32(-9999.9)
    data = ramp(1, dtype="float32")
    steps = nodata + np.arange(-40, 10, dtype="float32") * np.spacing(nodata)
    data[0, 0] = steps
    path = make_raster(tmp_path / "a.tif", data, nodata=float(nodata))
    with rasterio.open(path) as src:
        expected = src.read_masks(1)[0] != 0
    with open_raster(path) as reader:
        valid = reader.read(WHOLE).valid[0, 0]
    # never valid here and nodata there; the reverse costs a pixel in a million
    assert not (valid & ~expected).any()
    assert valid.sum() >= 40


@pytest.mark.parametrize("sidecar", [False, True])
def test_read_mask_band_marks_invalid_pixels(tmp_path, sidecar):
    mask = np.full((40, 50), 255, "uint8")
    mask[:9, :8] = 0
    path = make_raster(tmp_path / "a.tif", ramp(), mask=None if sidecar else mask)
    if sidecar:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(path, "r+") as dst:
            dst.write_mask(mask)
        assert (tmp_path / "a.tif.msk").exists()
    with open_raster(path, indexes=[3, 1]) as reader:
        assert reader.info.mask_kind == "mask"
        valid = reader.read(Window(2, 3, 20, 20)).valid
    np.testing.assert_array_equal(valid, np.stack([mask[2:22, 3:23] != 0] * 2))


def test_read_alpha_band_is_returned_and_masks(tmp_path):
    data = ramp(4)
    data[3] = 255
    data[3, :5] = 0
    data[3, 5:9] = 100
    path = make_raster(tmp_path / "a.tif", data, colors=("red", "green", "blue", "alpha"))
    with open_raster(path) as reader:
        info, patch = reader.info, reader.read(WHOLE)
        assert (info.indexes, info.alpha_band, info.keep_alpha) == ((1, 2, 3), 4, True)
        assert info.mask_kind == "alpha"
    np.testing.assert_array_equal(patch.alpha, data[3])
    np.testing.assert_array_equal(patch.values, data[:3])
    np.testing.assert_array_equal(patch.valid, np.stack([data[3] != 0] * 3))
    with open_raster(path, indexes=[2]) as reader:
        assert not reader.info.keep_alpha
        np.testing.assert_array_equal(reader.read(WHOLE).valid[0], data[3] != 0)
    with open_raster(path, indexes=[1, 4]) as reader:
        assert (reader.info.indexes, reader.info.keep_alpha) == ((1,), True)
    with pytest.raises(UsageError, match="no band besides alpha"):
        open_raster(path, indexes=[4])


def test_read_alpha_and_nodata_both_mask(tmp_path):
    data = ramp(2)
    data[1] = 255
    data[1, 0] = 0
    data[0, 1] = 7
    data[0, 2:] = 9
    path = make_raster(tmp_path / "a.tif", data, colors=("gray", "alpha"), nodata=7)
    with open_raster(path) as reader:
        valid = reader.read(WHOLE).valid
    assert not valid[0, :2].any()
    assert valid[0, 2:].all()


def test_read_masks_of_single_bands_stay_apart(tmp_path):
    make_raster(tmp_path / "a.tif", ramp(1))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename '
        'relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        + ('<MaskBand><VRTRasterBand dataType="Byte"><SimpleSource><SourceFilename '
           'relativeToVRT="1">m.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
           "</VRTRasterBand></MaskBand>" if band == 2 else "")
        + "</VRTRasterBand>"
        for band in (1, 2)
    )  # fmt: skip
    mask = np.full((1, 40, 50), 255, "uint8")
    mask[0, 10] = 0
    make_raster(tmp_path / "m.tif", mask)
    path = tmp_path / "a.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="50" rasterYSize="40"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>{bands}</VRTDataset>"
    )
    with open_raster(path) as reader:
        valid = reader.read(WHOLE).valid
    assert valid[0].all()
    np.testing.assert_array_equal(valid[1], mask[0] != 0)


def test_open_raster_indexes_keep_order_and_may_repeat(rgb):
    with open_raster(rgb, indexes=[3, 1, 1]) as reader:
        assert reader.info.indexes == (3, 1, 1)
        np.testing.assert_array_equal(reader.read(WHOLE).values, ramp()[[2, 0, 0]])


@pytest.mark.parametrize("bidx", [[0], [4], [-1], [1, 5]])
def test_open_raster_missing_index_lists_the_bands(tmp_path, bidx):
    path = make_raster(tmp_path / "a.tif", ramp())
    with rasterio.open(path, "r+") as dst:
        dst.descriptions = ("red edge", None, "nir")
    with pytest.raises(UsageError, match=r"available: 1 \(red edge\), 2 \(\w+\), 3 \(nir\)"):
        open_raster(path, indexes=bidx)


@pytest.mark.parametrize("bidx", [[], ["1"], [1.5]])
def test_open_raster_bad_indexes_are_refused(rgb, bidx):
    with pytest.raises(UsageError):
        open_raster(rgb, indexes=bidx)


@pytest.mark.parametrize("dtype", ["complex64", "int64", "uint64"])
def test_open_raster_unsupported_type_is_named(tmp_path, dtype):
    path = make_raster(tmp_path / "a.tif", ramp(1, dtype=dtype))
    with pytest.raises(UsageError, match=dtype):
        open_raster(path)


def test_open_raster_palette_or_one_bit_is_refused(tmp_path):
    path = make_raster(tmp_path / "bit.tif", np.ones((1, 40, 50), "uint8"), nbits=1)
    with pytest.raises(UsageError, match="NBITS=1"):
        open_raster(path)
    path = make_raster(tmp_path / "palette.tif", ramp(1), photometric="PALETTE")
    with rasterio.open(path, "r+") as dst:
        dst.write_colormap(1, {0: (1, 2, 3, 255)})
    with pytest.raises(UsageError, match="palette"):
        open_raster(path)


def mixed_vrt(folder, types):
    bands = "".join(
        f'<VRTRasterBand dataType="{name}" band="{i}"><SimpleSource><SourceFilename '
        f'relativeToVRT="1">a.tif</SourceFilename><SourceBand>{i}</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
        for i, name in enumerate(types, 1)
    )
    make_raster(folder / "a.tif", ramp(len(types)))
    path = folder / "a.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="50" rasterYSize="40"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>{bands}</VRTDataset>"
    )
    return path


@pytest.mark.parametrize(
    ("types", "expected"),
    [(("Byte", "UInt16"), "uint16"), (("UInt16", "Int16"), "int32"),
     (("Float32", "Int32"), "float64")],
)  # fmt: skip
def test_open_raster_mixed_types_are_promoted(tmp_path, types, expected):
    with open_raster(mixed_vrt(tmp_path, types)) as reader:
        patch = reader.read(WHOLE)
    assert patch.values.dtype == reader.info.dtype == expected
    np.testing.assert_array_equal(patch.values, ramp(2))


def test_open_raster_types_without_a_common_one_are_refused(tmp_path):
    path = mixed_vrt(tmp_path, ("UInt32", "Int32"))
    with pytest.raises(UsageError, match="int32, uint32"):
        open_raster(path)
    with open_raster(path, indexes=[2]) as reader:
        assert reader.info.dtype == "int32"


@pytest.mark.parametrize(
    "numbers", ["0,0,0,0,0,0", "5,10,0,5,0,0", "5,10,10,5,10,10", "5,nan,0,5,0,-1"]
)
def test_open_raster_degenerate_pixel_size_is_refused(tmp_path, numbers):
    path = mixed_vrt(tmp_path, ("Byte",))
    path.write_text(path.read_text().replace("500000,10,0,5000000,0,-10", numbers))
    with pytest.raises(UsageError, match="is singular"):
        open_raster(path)


def test_open_raster_without_georeferencing_warns(tmp_path):
    path = make_raster(tmp_path / "a.tif", ramp(1), crs=None, transform=None)
    with pytest.warns(GeoreferenceWarning, match="no coordinate reference system"):
        reader = open_raster(path)
    assert reader.info.crs is None
    assert reader.info.transform is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(reader)).read(WHOLE)  # it has been said once
        with pytest.raises(GeoreferenceWarning):
            open_raster(path)


def test_open_raster_transform_without_crs_is_kept_with_a_warning(tmp_path):
    path = make_raster(tmp_path / "a.tif", ramp(1), crs=None)
    with pytest.warns(GeoreferenceWarning):
        assert open_raster(path).info.transform == UTM


def test_raster_reader_pickled_is_a_path(rgb):
    with open_raster(rgb, indexes=[2]) as reader:
        reader.read(WHOLE)
        copy = pickle.loads(pickle.dumps(reader))
        assert len(pickle.dumps(reader)) < 8000
    np.testing.assert_array_equal(copy.read(WHOLE).values, ramp()[1:2])
    np.testing.assert_array_equal(reader.read(WHOLE).values, ramp()[1:2])  # opens again


def test_raster_reader_unpickled_after_a_change_is_refused(rgb):
    with open_raster(rgb) as reader:
        text = pickle.dumps(reader)
    make_raster(rgb, ramp(3, 30, 50))
    with pytest.raises(InputError, match="has changed"):
        pickle.loads(text).read(WHOLE)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_read_window_of_a_truncated_raster_raises_input_error(tmp_path, share):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 255, (1, 1024, 512), "uint8")
    make_raster(tmp_path / "plain.tif", data)
    path = tmp_path / "cog.tif"  # header first, pixels in order, so that only pixels are lost
    rasterio.shutil.copy(tmp_path / "plain.tif", path, driver="COG", blocksize=128,
                         compress="deflate", overviews="none")  # fmt: skip
    os.truncate(path, int(path.stat().st_size * share))
    with open_raster(path) as reader:
        assert (reader.read(Window(0, 0, 128, 128)).values == data[:, :128, :128]).all()
        with pytest.raises(InputError, match=r"rows 896:1024, columns 0:512") as caught:
            reader.read(Window(896, 0, 128, 512))
    assert str(path) in str(caught.value)
    assert caught.value.__cause__ is not None
    assert "See previous exception" not in str(caught.value)


def test_read_damaged_deflate_block_raises_input_error(tmp_path):
    data = np.random.default_rng(0).integers(0, 50, (1, 256, 256), "uint8")
    path = make_raster(tmp_path / "a.tif", data, compress="deflate", blockxsize=256,
                       blockysize=256)  # fmt: skip
    with rasterio.open(path) as src:
        start = int(src.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[start] ^= 0xFF
    path.write_bytes(content)
    with open_raster(path) as reader, pytest.raises(InputError, match="cannot be read"):
        reader.read(Window(0, 0, 256, 256))


def test_read_changes_neither_folder_nor_process(tmp_path, rgb):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    environment, filters = dict(os.environ), list(warnings.filters)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with open_raster(rgb) as reader:
            reader.read(WHOLE)
            reader.sample(100)
    finally:
        tmp_path.chmod(0o700)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert dict(os.environ) == environment
    assert warnings.filters == filters
    assert not rasterio.env.hasenv()


def test_raster_info_has_the_metadata_of_the_source(tmp_path):
    inches = {"TIFFTAG_XRESOLUTION": "72", "TIFFTAG_YRESOLUTION": "72"}
    path = make_raster(tmp_path / "a.tif", ramp(2, dtype="int16"), nodata=-1, point=True,
                       tags={"PLATFORM": "x", **inches})  # fmt: skip
    with rasterio.open(path, "r+") as dst:
        dst.scales, dst.offsets, dst.units = (0.5, 1.0), (1.0, 0.0), ("K", "m")
        dst.descriptions = ("temperature", "height")
        dst.update_tags(2, wavelength="10", STATISTICS_MEAN="3")
        dst.update_tags(ns="IMAGERY", CLOUDCOVER="4")
    with open_raster(path, indexes=[2, 1]) as reader:
        info = reader.info
    assert [band.description for band in info.bands] == ["height", "temperature"]
    assert [(b.scale, b.offset, b.unit) for b in info.bands] == [(1, 0, "m"), (0.5, 1, "K")]
    assert info.bands[0].tags == {"": {"wavelength": "10"}}
    assert info.tags == {
        "": {"PLATFORM": "x", **inches},
        "IMAGERY": {"CLOUDCOVER": "4"},
    }
    assert info.area_or_point == "Point"
    assert info.band_labels() == ("2 (height)", "1 (temperature)")
    assert info.transform.almost_equals(Affine(*UTM[:6]))


def test_sample_of_a_small_raster_is_complete(rgb):
    with open_raster(rgb) as reader:
        sample = reader.sample()
    np.testing.assert_array_equal(sample.values, ramp().reshape(3, -1))
    assert sample.valid.all()


@pytest.mark.parametrize("shape", [(300, 400), (3, 4000), (4000, 1)])
def test_sample_of_a_medium_raster_is_decimated(tmp_path, shape):
    path = make_raster(tmp_path / "a.tif", ramp(2, *shape, dtype="uint16"))
    with open_raster(path) as reader:
        sample = reader.sample(1000 if min(shape) < 9 else 10_000)
        again = reader.sample(1000 if min(shape) < 9 else 10_000)
    assert 200 <= sample.values.shape[1] <= (1000 if min(shape) < 9 else 10_000)
    np.testing.assert_array_equal(sample.values, again.values)


def test_sample_of_a_large_raster_is_a_grid_of_windows(tmp_path):
    path = make_raster(tmp_path / "a.tif", np.zeros((1, 8, 8), "uint8"))
    with rasterio.open(path) as src:
        profile = src.profile | {"width": 100_000, "height": 90_000, "sparse_ok": True}
    with rasterio.open(tmp_path / "big.tif", "w", **profile):
        pass
    with open_quietly(tmp_path / "big.tif") as reader:
        read, seen = reader.read, []
        reader.read = lambda window: seen.append(window) or read(window)
        sample = reader.sample(2**16)
    assert sample.values.shape == (1, 2**16)
    assert len(seen) == WINDOWS_PER_AXIS**2
    assert (seen[0].top, seen[0].left) == (0, 0)
    assert (seen[-1].bottom, seen[-1].right) == (90_000, 100_000)


def test_sample_uses_overviews(tmp_path):
    path = make_raster(tmp_path / "a.tif", np.full((1, 512, 512), 7, "uint8"))
    with rasterio.open(path, "r+") as dst:
        dst.build_overviews([2, 4, 8])
    with open_raster(path) as reader:
        assert reader.info.overviews == (2, 4, 8)
        assert (reader.sample(4096).values == 7).all()
        assert reader.sample(4096).values.shape == (1, 4096)


def with_overviews(path, values, overviews, resampling, nodata=None):
    """Write a raster (C, h, w) whose overviews are those of other pixels."""
    make_raster(path, overviews, nodata=nodata)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], resampling)
    newest = path.with_name(path.name + ".ovr").read_bytes()
    make_raster(path, values, nodata=nodata)
    path.with_name(path.name + ".ovr").write_bytes(newest)
    return path


@pytest.mark.parametrize("kind", ["empty", "stale", "other half", "nodata"])
def test_sample_overviews_of_other_pixels_are_not_used(tmp_path, kind):
    rng = np.random.default_rng(0)
    values = rng.normal(1500, 200, (2, 600, 600)).astype("uint16")
    other = {"empty": values * 0, "stale": values // 200, "other half": values.copy()}
    other["other half"][:, 300:] = 7
    nodata = 0 if kind == "nodata" else None
    overviews = other.get(kind, values * 0)
    path = with_overviews(tmp_path / "a.tif", values, overviews, Resampling.nearest, nodata)
    with open_raster(path) as reader, pytest.warns(RadiometryWarning, match="overviews"):
        sample = reader.sample(10_000)
    assert sample.valid.all()
    assert sample.values.min() > 500
    assert 5000 <= sample.values.shape[1] <= 10_000


@pytest.mark.parametrize("resampling", ["nearest", "average", "cubic", "lanczos", "mode", "gauss"])
def test_sample_overviews_of_the_same_pixels_are_used(tmp_path, resampling):
    rng = np.random.default_rng(0)
    values = (1500 + 400 * np.sin(np.arange(600) / 40) + rng.normal(0, 90, (2, 600, 600))).round()
    values[:, :80, :80] = 0
    values = values.astype("uint16")
    path = with_overviews(tmp_path / "a.tif", values, values, Resampling[resampling], 0)
    with open_raster(path) as reader:
        sample = reader.sample(10_000)
        decimated = reader.read_decimated(100, 100)
    np.testing.assert_array_equal(sample.values, decimated.values.reshape(2, -1))

"""Constant in, constant out: tiles of one value, and constant areas inside of other tiles."""

import numpy as np
import pytest

from georsr.api import super_resolve, super_resolve_array
from tests.rasters import read

SMALL = {"tile_size": 48, "halo": 4, "overlap": 4, "blocksize": 32, "overwrite": True}
RADIUS = 4


@pytest.fixture
def half_black(texture):
    """(3, 64, 150): noise on the left, black on the right."""
    values = texture(3, 64, 150)
    values[:, :, 60:] = 0
    return values


@pytest.mark.parametrize("model", ["segsr-lite-x2", "segsr-lite-x4-sensor", "bicubic-x2"])
@pytest.mark.parametrize(
    ("value", "dtype"), [(77, "uint8"), (0, "uint8"), (255, "uint8"), (-3, "int16")]
)
def test_constant_scene_keeps_its_value(model, value, dtype, make_raster, tmp_path):
    values = np.full((3, 40, 60), value, dtype)
    values[1] += dtype == "int16"
    report = super_resolve(make_raster(values), tmp_path / "o.tif", model, overwrite=True)
    assert report.tiles_skipped == report.tiles
    scale = report.scale
    np.testing.assert_array_equal(
        read(tmp_path / "o.tif"), values.repeat(scale, 1).repeat(scale, 2)
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
def test_constant_area_keeps_its_value_and_the_rest_is_the_networks(
    dtype, texture, make_raster, lite_model, tmp_path
):
    values = texture(3, 64, 70, dtype)
    plain = super_resolve_array(values, lite_model, **SMALL_ARRAY)
    values[:, 20:45, 10:50] = np.array([77, 78, 79], dtype)[:, None, None]
    out = tmp_path / "o.tif"
    super_resolve(make_raster(values), out, lite_model, **SMALL)
    output = read(out)
    inner = slice(20 + RADIUS, 45 - RADIUS), slice(10 + RADIUS, 50 - RADIUS)
    rows, columns = (slice(2 * part.start, 2 * part.stop) for part in inner)
    low = values[:, *inner].repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(output[:, rows, columns], low)
    # the next pixels are the network's: not those of the source, repeated
    wider = slice(rows.start - 2, rows.stop + 2), slice(columns.start - 2, columns.stop + 2)
    around = values.repeat(2, 1).repeat(2, 2)[:, *wider] != output[:, *wider]
    assert around.any(0).sum() > 0.5 * (around[0].size - low[0].size)
    assert (plain != output).any()


def test_areas_with_gaps_of_nodata_are_constant_too(make_raster, texture, lite_model, tmp_path):
    values = texture(3, 64, 70, "uint16") // 2 + 5
    values[:, 20:45, 10:50] = 77
    values[:, 30:33, 20:40] = 0
    source = make_raster(values, nodata=0)
    super_resolve(source, tmp_path / "o.tif", lite_model, **SMALL)
    output = read(tmp_path / "o.tif")[:, 48:82, 28:92]
    assert set(np.unique(output)) == {0, 77}


def test_tiles_without_constant_areas_are_what_they_were(texture, lite_model):
    """The same pixels as those of a raster that has a constant area elsewhere."""
    values = texture(3, 64, 150)
    with_area = values.copy()
    with_area[:, :, 100:] = 9
    whole, other = (super_resolve_array(v, lite_model, **SMALL_ARRAY) for v in (values, with_area))
    np.testing.assert_array_equal(other[:, :, :110], whole[:, :, :110])


def test_constant_tiles_do_without_the_network(half_black, make_raster, lite_model, tmp_path):
    out = tmp_path / "out.tif"
    report = super_resolve(make_raster(half_black), out, lite_model, **SMALL)
    assert 0 < report.tiles_skipped < report.tiles
    output = read(out)
    assert (output[:, :, 2 * (60 + RADIUS) :] == 0).all()
    array = super_resolve_array(half_black, lite_model, **SMALL_ARRAY)
    np.testing.assert_array_equal(array, output)


def test_constant_tile_beyond_the_range_keeps_its_value(make_raster, lite_model, tmp_path):
    values = np.full((3, 64, 64), 9000, "uint16")
    values[1] += 77
    out = tmp_path / "out.tif"
    super_resolve(make_raster(values), out, lite_model, stretch="0,4000", **SMALL)
    np.testing.assert_array_equal(read(out), values.repeat(2, 1).repeat(2, 2))


def test_what_varies_beyond_the_range_is_not_constant(make_raster, lite_model, tmp_path, texture):
    """Clipped to one value, it still differs."""
    values = texture(3, 64, 64, "uint16") // 2 + 9000
    out = tmp_path / "out.tif"
    report = super_resolve(make_raster(values), out, lite_model, stretch="0,4000", **SMALL)
    assert report.tiles_skipped == 0
    assert read(out).std() > 1000


SMALL_ARRAY = {key: value for key, value in SMALL.items() if key != "overwrite"}

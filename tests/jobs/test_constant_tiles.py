"""Tiles of one value, with and without the network."""

import numpy as np
import pytest
import rasterio

from georsr.api import super_resolve, super_resolve_array

SMALL = {"tile_size": 32, "halo": 2, "overlap": 4, "blocksize": 32, "overwrite": True}


@pytest.fixture
def half_black(texture):
    """(3, 64, 150): noise on the left, black on the right."""
    values = texture(3, 64, 150)
    values[:, :, 60:] = 0
    return values


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def test_skip_constant_tiles_keeps_their_value_and_other_pixels(
    half_black, make_raster, lite_model, tmp_path
):
    source, out = make_raster(half_black), tmp_path / "out.tif"
    plain = super_resolve(source, out, lite_model, **SMALL)
    with_network = read(out)
    report = super_resolve(source, out, lite_model, skip_constant_tiles=True, **SMALL)
    without = read(out)
    assert plain.tiles_skipped == 0
    assert 0 < report.tiles_skipped < report.tiles
    assert (with_network[:, :, 240:] != 0).any(), "the network is to make something of black"
    assert (without[:, :, 240:] == 0).all()
    np.testing.assert_array_equal(without[:, :, :110], with_network[:, :, :110])


def test_skip_constant_tiles_in_any_range_keeps_the_value(make_raster, lite_model, tmp_path):
    values = np.full((3, 64, 64), 1234, "uint16")
    values[1] += 77
    source = make_raster(values)
    out = tmp_path / "out.tif"
    report = super_resolve(
        source, out, lite_model, skip_constant_tiles=True, stretch="0,4000", **SMALL
    )
    assert report.tiles_skipped == report.tiles
    np.testing.assert_array_equal(read(out), values.repeat(2, 1).repeat(2, 2))


def test_skip_constant_tiles_beyond_the_range_are_computed(
    make_raster, lite_model, tmp_path, texture
):
    """Clipped to one value, it still differs."""
    values = texture(3, 64, 64, "uint16") // 2 + 9000
    out = tmp_path / "out.tif"
    report = super_resolve(
        make_raster(values), out, lite_model, skip_constant_tiles=True, stretch="0,4000", **SMALL
    )
    assert report.tiles_skipped == 0
    assert read(out).std() > 1000


def test_skip_constant_tiles_of_arrays_equals_files(half_black, make_raster, lite_model, tmp_path):
    out = tmp_path / "out.tif"
    super_resolve(make_raster(half_black), out, lite_model, skip_constant_tiles=True, **SMALL)
    options = {k: v for k, v in SMALL.items() if k != "overwrite"}
    array = super_resolve_array(half_black, lite_model, skip_constant_tiles=True, **options)
    np.testing.assert_array_equal(array, read(out))


def test_run_key_contains_skip_constant_tiles(half_black, make_raster, lite_model, tmp_path):
    from georsr.config import SRConfig
    from georsr.io.reader import open_raster
    from georsr.jobs.job import plan_job

    with open_raster(make_raster(half_black)) as reader:
        keys = [
            plan_job(
                reader, str(tmp_path / "o.tif"), lite_model, SRConfig(skip_constant_tiles=flat)
            ).key
            for flat in (False, True)
        ]
    assert keys[0] != keys[1]

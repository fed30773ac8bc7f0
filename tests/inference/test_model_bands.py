"""Bands the network sees, and what becomes of the others."""

import numpy as np
import pytest
import rasterio
import torch

import georsr
from georsr.errors import UsageError
from georsr.models.io import open_model
from georsr.models.multiband import injection_gain
from tests.rasters import read


def named(*names):
    def after(dataset):
        dataset.descriptions = names

    return after


@pytest.fixture
def scene(make_raster):
    """Five bands that say what they are, with scale and offset, in a sensor's order."""
    y, x = np.mgrid[:70, :64]
    detail = np.sin(x / 2.1) * np.cos(y / 1.7)
    bands = [np.rint(2000 + 300 * b + (200 + 90 * b) * detail) for b in range(4)]
    bands.append(np.rint(1500 + 40 * np.cos(x / 30)))
    values = np.stack(bands).astype("uint16")

    def after(dataset):
        dataset.descriptions = ("B02", "B03", "B04", "B08", "B11")
        dataset.scales, dataset.offsets = (0.0001,) * 5, (-0.1,) * 5

    return make_raster(values, after=after), values


@pytest.mark.parametrize("mode", ["inject", "per-band", "bicubic"])
def test_output_bands_all_keep_order_and_names(mode, scene, lite_model, tmp_path):
    path, _ = scene
    out = tmp_path / "o.tif"
    stretch = "percentile:0,100"  # values beyond the range are not interpolated by the network
    report = georsr.super_resolve(
        path, out, lite_model, output_bands="all", other_bands=mode, stretch=stretch
    )
    with rasterio.open(out) as output:
        made = output.read()
        assert output.descriptions == ("B02", "B03", "B04", "B08", "B11")
        assert output.scales == (0.0001,) * 5
        assert output.offsets == (-0.1,) * 5
        assert output.dtypes[0] == "uint16"
    assert report.warnings == ()
    guide = tmp_path / "g.tif"
    georsr.super_resolve(path, guide, lite_model, indexes=(3, 2, 1), stretch=stretch)
    # the guide is what it is without the others
    np.testing.assert_array_equal(made[[2, 1, 0]], read(guide))
    plain = tmp_path / "p.tif"
    georsr.super_resolve(path, plain, "bicubic-x2")
    others = made[3:].astype(int) - read(plain)[3:]
    assert (np.abs(others).max() <= 1) == (mode == "bicubic")


def test_output_bands_default_is_rgb(scene, lite_model, tmp_path):
    path, _ = scene
    georsr.super_resolve(path, tmp_path / "a.tif", lite_model)
    georsr.super_resolve(path, tmp_path / "b.tif", lite_model, indexes=(3, 2, 1))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))


def test_other_bands_inject_with_consistency_keeps_radiometry(scene, lite_model, tmp_path):
    path, values = scene
    report = georsr.super_resolve(
        path, tmp_path / "o.tif", lite_model, output_bands="all", consistency_kernel="mean"
    )
    means = read(tmp_path / "o.tif").reshape(5, 70, 2, 64, 2).mean((2, 4))
    np.testing.assert_allclose(means.mean((1, 2)), values.mean((1, 2)), rtol=1e-3)
    assert report.consistency.output_mean < 0.2 * report.consistency.network_mean


def test_injection_gain_of_uncorrelated_bands_is_zero(lite_model):
    torch.manual_seed(0)
    guide = torch.rand(1, 1, 40, 40)
    twin, smooth, noise = 0.5 * guide + 0.2, guide * 0 + 0.3, torch.rand(1, 1, 40, 40)
    gains = injection_gain(torch.cat([twin, smooth, noise], 1), guide)[0]
    np.testing.assert_allclose(gains[0], 0.5, atol=0.01)
    assert gains[1].abs().max() < 1e-3
    assert gains[2].abs().mean() < 0.1


def test_model_of_three_bands_with_one_band_repeats_it(make_raster, texture, lite_model, tmp_path):
    image = texture(1, 40, 50)
    georsr.super_resolve(make_raster(image), tmp_path / "o.tif", lite_model)
    made = georsr.super_resolve_array(np.repeat(image, 3, 0), lite_model, dtype="float32")
    assert read(tmp_path / "o.tif").shape == (1, 80, 100)
    np.testing.assert_allclose(
        read(tmp_path / "o.tif")[0], np.clip(made.mean(0), 0, 255), atol=0.51
    )
    alone = georsr.super_resolve_array(image, lite_model)
    np.testing.assert_array_equal(alone, read(tmp_path / "o.tif"))


def test_super_resolve_bgr_order_is_kept(make_raster, texture, lite_model, tmp_path):
    image = texture(3, 30, 30, "uint16")
    path = make_raster(image, after=named("blue", "green", "red"), photometric="minisblack")
    georsr.super_resolve(path, tmp_path / "o.tif", lite_model, stretch="dtype")
    expected = georsr.super_resolve_array(image[::-1].copy(), lite_model, stretch="dtype")
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), expected[::-1])


def test_match_bands_assumed_order_warns(make_raster, texture, lite_model, tmp_path):
    path = make_raster(texture(4, 30, 30, "uint16"), photometric="minisblack")
    with pytest.warns(georsr.BandWarning, match=r"indexes=\(R, G, B\)"):
        report = georsr.super_resolve(path, tmp_path / "o.tif", lite_model, output_bands="all")
    assert len(report.warnings) == 1
    assert "assuming bands 3,2,1 (blue, green, red, near infrared" in report.warnings[0]
    quiet = georsr.super_resolve(
        path, tmp_path / "q.tif", lite_model, output_bands="all", indexes=(1, 2, 3)
    )
    assert quiet.warnings == ()


def test_super_resolve_array_indexes_name_the_rgb_bands(texture, lite_model):
    image = texture(4, 30, 30)
    made = georsr.super_resolve_array(image, lite_model, output_bands="all", indexes=(3, 2, 1))
    guide = georsr.super_resolve_array(image[[2, 1, 0]], lite_model)
    np.testing.assert_array_equal(made[[2, 1, 0]], guide)
    with pytest.raises(UsageError, match="name the three that guide the others"):
        georsr.super_resolve_array(image, lite_model, output_bands="all")


@pytest.mark.parametrize(
    ("bands", "options", "message"),
    [
        (2, {}, "which of its 2 bands are red, green and blue"),
        (2, {"output_bands": "all"}, 'which of its 2 bands .*other_bands="per-band'),
        (4, {"output_bands": "all", "indexes": (1, 2)}, "expected three bands"),
        (4, {"output_bands": "all", "indexes": (1, 2, 9)}, "there is no band 9 to guide"),
    ],
)
def test_match_bands_unusable_bands_are_refused(
    bands, options, message, make_raster, texture, lite_model, tmp_path
):
    path = make_raster(texture(bands, 20, 20, "uint16"), photometric="minisblack")
    with pytest.raises(UsageError, match=message):
        georsr.super_resolve(path, tmp_path / "o.tif", lite_model, **options)
    assert not (tmp_path / "o.tif").exists()


def test_other_bands_per_band_predicts_each_band(make_raster, texture, lite_model, tmp_path):
    image = texture(2, 24, 24, "uint16")
    georsr.super_resolve(
        make_raster(image, photometric="minisblack"),
        tmp_path / "o.tif",
        lite_model,
        output_bands="all",
        other_bands="per-band",
        stretch="dtype",
    )
    for band, made in zip(image, read(tmp_path / "o.tif"), strict=True):
        alone = georsr.super_resolve_array(band[None], lite_model, stretch="dtype")[0]
        np.testing.assert_allclose(made.astype(int), alone, atol=1)


def test_multi_band_array_in_chunks_equals_one_pass(texture, lite_file):
    xr = pytest.importorskip("xarray")
    import georsr.xarray

    image = texture(4, 60, 50)
    array = xr.DataArray(image, dims=("band", "y", "x")).rio.write_crs(32632)
    array = array.assign_coords(x=np.arange(50) + 0.5, y=60 - np.arange(60) - 0.5)
    options = {"output_bands": "all", "indexes": (3, 2, 1), "consistency": "on"}
    whole = array.georsr.super_resolve(lite_file, **options)
    lazy = array.chunk(x=25, y=20).georsr.super_resolve(lite_file, chunks=64, **options)
    np.testing.assert_array_equal(lazy.compute(), whole)
    expected = georsr.super_resolve_array(image, open_model(lite_file), **options)
    np.testing.assert_array_equal(whole, expected)

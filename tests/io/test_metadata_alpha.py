"""Near infrared that says it is alpha, as many an aerial photograph has it."""

import numpy as np
import pytest
import rasterio
from affine import Affine

import georsr
from georsr.io import open_sources
from georsr.io.metadata import looks_like_image
from georsr.io.reader import open_raster
from georsr.io.rgb_bands import detect_rgb_bands
from georsr.window import Window

BESIDE = Affine(0.5, 0, 400045, 0, -0.5, 5000000)
"""The grid of `make_raster`, 90 pixels to the east."""


@pytest.fixture
def picture(make_raster, texture):
    """picture(fourth band (h, w)) -> path of red, green, blue and what GDAL calls alpha."""

    def make(fourth, name="in.tif", **options):
        height, width = fourth.shape
        values = np.concatenate([texture(3, height, width), fourth[None].astype("uint8")])
        path = make_raster(values, name, photometric="RGB", alpha="YES", **options)
        with rasterio.open(path) as dataset:
            assert dataset.colorinterp[3].name == "alpha"
        return path

    return make


@pytest.fixture
def infrared():
    """A smooth field of brightness, with a collar of nodata."""
    y, x = np.mgrid[:70, :90]
    values = 110 + 60 * np.sin(x / 11) * np.cos(y / 7)
    values[:, :9] = 0
    return values.astype("uint8")


def mask(kind):
    y, x = np.mgrid[:70, :90]
    if kind == "soft":  # a disc with an edge of several pixels
        return np.clip(255 - 12 * (np.hypot(y - 35, x - 45) - 25), 0, 255)
    return np.full((70, 90), {"opaque": 255, "half": 128, "nothing": 0}[kind])


def test_detect_alpha_band_with_image_values_is_a_data_band(picture, infrared, recwarn):
    with open_raster(picture(infrared)) as reader:
        info = reader.info
        patch = reader.read(Window(0, 0, 70, 90))
    assert (info.count, info.alpha_band, info.mask_kind) == (4, None, "none")
    assert info.bands[3].colorinterp == "undefined"
    assert patch.valid.all()
    np.testing.assert_array_equal(patch.values[3], infrared)
    assert detect_rgb_bands(info).numbers == (1, 2, 3)
    (said,) = [str(warning.message) for warning in recwarn]
    assert said == info.notes[0]
    assert "band 4 is declared to be alpha" in said
    assert 'alpha="mask"' in said
    assert "\n" not in said


@pytest.mark.parametrize("kind", ["opaque", "half", "nothing", "soft"])
def test_detect_alpha_band_with_mask_values_is_alpha(picture, kind, recwarn):
    with open_raster(picture(mask(kind))) as reader:
        assert (reader.info.count, reader.info.alpha_band) == (3, 4)
    assert not recwarn


@pytest.mark.parametrize(("choice", "alpha"), [("mask", 4), ("data", None)])
def test_open_raster_alpha_option_decides(picture, infrared, choice, alpha, recwarn):
    for path in (picture(infrared), picture(mask("opaque"), "b.tif")):
        with open_raster(path, alpha=choice) as reader:
            assert reader.info.alpha_band == alpha
    assert not recwarn


def test_looks_like_image_counts_intermediate_values():
    many = np.arange(1, 200)
    assert looks_like_image(many, 255)
    assert not looks_like_image(np.repeat([1, 2, 3], 99), 255)  # few values
    assert not looks_like_image(np.concatenate([many, np.full(500, 255)]), 255)  # mostly opaque
    assert looks_like_image(
        np.concatenate([many, np.zeros(500, int)]), 255
    )  # nodata does not count
    assert not looks_like_image(np.zeros(9), 255)


def test_super_resolve_alpha_that_is_an_image_is_left_out_or_carried(
    picture, infrared, lite_model, tmp_path
):
    path = picture(infrared)
    report = georsr.super_resolve(path, tmp_path / "a.tif", lite_model)
    assert (report.bands, len(report.warnings)) == (3, 1)
    georsr.super_resolve(path, tmp_path / "all.tif", lite_model, output_bands="all")
    georsr.super_resolve(path, tmp_path / "mask.tif", lite_model, alpha="mask")
    with rasterio.open(tmp_path / "all.tif") as dataset:
        assert [color.name for color in dataset.colorinterp][3] == "undefined"
        every = dataset.read()
    near = every[3].reshape(70, 2, 90, 2).mean((1, 3))
    assert np.abs(near - infrared)[:, 12:].mean() < 3
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert dataset.count == 3
        np.testing.assert_array_equal(dataset.read(), every[:3])
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        assert dataset.colorinterp[-1].name == "alpha"
        assert (dataset.read(4)[:, :18] == 0).all()


def test_alpha_mask_is_used_by_quality_layers_and_report(picture, infrared, lite_model, tmp_path):
    path, quality = picture(infrared), tmp_path / "q.tif"
    options = {"alpha": "mask", "consistency_kernel": "mean"}
    out = tmp_path / "out.tif"
    report = georsr.super_resolve(path, out, lite_model, quality=quality, **options)
    assert len(report.consistency.band_mean) == 3
    georsr.quality_layers(path, out, tmp_path / "again.tif", lite_model)
    assert (tmp_path / "again.tif").read_bytes() == quality.read_bytes()


def test_open_raster_indexes_with_alpha_keep_its_role(picture, infrared, tmp_path):
    """By --bidx they are what they are taken for: an image here, transparency by --alpha mask."""
    path = picture(infrared)
    for choice, last in (("auto", "undefined"), ("mask", "alpha")):
        out = tmp_path / f"{choice}.tif"
        georsr.super_resolve(path, out, "bicubic", 2, indexes=(1, 2, 3, 4), alpha=choice)
        with rasterio.open(out) as dataset:
            assert (dataset.count, dataset.colorinterp[3].name) == (4, last)


def test_open_sources_alpha_is_decided_once_for_all_rasters(picture, infrared, tmp_path, recwarn):
    first = picture(infrared, "a.tif")
    flat = picture(np.full((70, 90), 77), "b.tif", transform=BESIDE)
    with open_sources([first, flat]) as reader:
        assert (reader.info.count, reader.info.alpha_band) == (4, None)
        assert len(reader.info.notes) == 1
        assert len(reader.with_bands((1, 2, 3)).info.notes) == 1
    assert len(recwarn) == 1
    with open_sources([first, flat], alpha="mask") as reader:
        assert reader.info.alpha_band == 4

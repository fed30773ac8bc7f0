"""Any window of an output, made by itself from the raster, is what the whole output has there."""

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from rasterio.enums import ColorInterp

import georsr
from georsr.config import SRConfig
from georsr.device import select_device
from georsr.inference.array import predict_window
from georsr.inference.pipeline import tile_grid_of
from georsr.inference.predictor import TilePredictor
from georsr.io.reader import choose_normalization, open_raster
from georsr.window import Window
from georsr.writer.layout import output_layout

SMALL = {"tile_size": 32, "halo": 2, "overlap": 4}


@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha"])
def test_predict_window_equals_the_window_of_the_output(
    kind, lite_model, make_raster, texture, tmp_path
):
    rng = np.random.default_rng(0)
    image = texture(4 if kind == "alpha" else 3, 75, 110, "uint16")
    holes = (rng.random((75, 110)) < 0.9).astype("uint16") * 60_000

    def after(dataset):
        if kind == "mask":
            dataset.write_mask((holes > 0).astype("uint8") * 255)
        if kind == "alpha":
            names = ("red", "green", "blue", "alpha")
            dataset.colorinterp = [ColorInterp[name] for name in names]
            dataset.write(holes, 4)

    source = make_raster(image, after=after, **({"nodata": 0} if kind == "nodata" else {}))
    georsr.super_resolve(source, tmp_path / "whole.tif", lite_model, **SMALL)
    with open_raster(source) as reader, rasterio.open(tmp_path / "whole.tif") as whole:
        info, spec = reader.info, lite_model.spec
        layout = output_layout(info, spec.scale)
        seen = []
        for _ in range(12):
            top, left = int(rng.integers(75)), int(rng.integers(110))
            window = Window(
                top, left, 1 + int(rng.integers(75 - top)), 1 + int(rng.integers(110 - left))
            )
            tile_grid = tile_grid_of(info, spec, SRConfig(**SMALL))
            planes = predict_window(
                lambda part: seen.append(part) or reader.read(part),
                window,
                bands=info.count,
                tile_grid=tile_grid,
                normalization=choose_normalization(reader),
                form=layout,
                inference=TilePredictor(lite_model, select_device("cpu"), 1),
            )
            values, mask, alpha = layout.split(planes)
            there = rasterio.windows.Window(
                window.left * 2, window.top * 2, window.width * 2, window.height * 2
            )
            np.testing.assert_array_equal(values, whole.read([1, 2, 3], window=there))
            if kind == "alpha":
                np.testing.assert_array_equal(alpha, whole.read(4, window=there))
            if kind == "mask":
                np.testing.assert_array_equal(mask > 0, whole.dataset_mask(window=there) > 0)
            reach = tile_grid.subgrid(window).read_extent.moved(window.top, window.left)
            assert all(part.intersection(reach) == part for part in seen)
            seen.clear()


def test_super_resolve_array_masked_array_keeps_its_mask():
    hole = np.zeros((3, 20, 20), bool)
    hole[:, :, :6] = True
    pixels = np.where(hole, 255, 50).astype("uint8")
    expected = georsr.super_resolve_array(pixels, "bicubic-x2", valid=~hole)
    masked = np.ma.array(pixels, mask=hole, fill_value=7)
    made = georsr.super_resolve_array(masked, "bicubic-x2")
    assert isinstance(made, np.ma.MaskedArray)
    assert made.fill_value == 7
    np.testing.assert_array_equal(made.data, expected)
    np.testing.assert_array_equal(made.mask, hole.repeat(2, 1).repeat(2, 2))
    assert (made.data[:, :, 12:] == 50).all()
    # an invalid pixel that is not masked stays unmasked, and does not reach others either
    valid = np.ones((20, 20), bool)
    valid[:, -3:] = False
    both = georsr.super_resolve_array(masked, "bicubic-x2", valid=valid)
    np.testing.assert_array_equal(both.mask, made.mask)
    unmasked = georsr.super_resolve_array(np.ma.array(pixels), "bicubic-x2")
    assert isinstance(unmasked, np.ma.MaskedArray)
    assert not unmasked.mask.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[[1, 2], [3, 4]]], r"list, expected a numpy array .*numpy.asarray"),
        (torch.ones(3, 8, 8), r"torch.Tensor, expected a numpy array"),
        (xr.DataArray(np.ones((3, 8, 8))), r"DataArray, .*import georsr.xarray"),
        (np.zeros((0, 8, 8), "uint8"), r"shape \(0, 8, 8\): has no pixels"),
        (np.zeros((8, 8), "uint8"), r"2 axes"),
        (np.zeros((3, 8, 8), "int64"), r"array of int64"),
        (np.zeros((3, 8, 8), bool), r"array of bool"),
    ],
)
def test_super_resolve_array_other_objects_are_refused(values, message):
    with pytest.raises(georsr.UsageError, match=message):
        georsr.super_resolve_array(values, "bicubic-x2")


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((40, 50, 3), {}, r"shape \(40, 50, 3\): .* use array\.transpose\(2, 0, 1\)$"),
        ((40, 50, 4), {"output_bands": "all"}, r"use array\.transpose\(2, 0, 1\)$"),
        ((40, 50, 13), {"indexes": (4, 3, 2)}, r"use array\.transpose\(2, 0, 1\)$"),
        ((40, 50), {}, r"for one band use array\[np\.newaxis\]$"),
        ((4, 40, 50), {}, r"counted from 0: array\[\[0, 1, 2\]\], or .* output_bands='all'$"),
        ((3, 40, 50), {"indexes": (3, 2, 1)}, r"indexes: for .* with array\[\[2, 1, 0\]\]$"),
        ((4, 40, 50), {"output_bands": "all", "indexes": (1, 2, 9)}, r"got indexes=\(1, 2, 9\)$"),
    ],
)
def test_super_resolve_array_of_other_bands_is_refused_with_the_call_that_fits(
    shape, options, message
):
    with pytest.raises(georsr.UsageError, match=message):
        georsr.super_resolve_array(np.zeros(shape, "uint8"), "segsr-lite-x2", **options)


def test_super_resolve_array_of_any_bands_warns_of_bands_in_the_last_axis():
    with pytest.warns(georsr.BandWarning, match=r"40 bands of 50 x 3 .*transpose\(2, 0, 1\)$"):
        georsr.super_resolve_array(np.zeros((40, 50, 3), "uint8"), "bicubic-x2")


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        (np.full((8, 8), 255, "uint8"), "expected booleans"),
        (np.ma.array(np.ones((8, 8), bool), mask=np.eye(8, dtype=bool)), "expected booleans"),
        (np.ones((8, 7), bool), r"shape \(8, 7\), expected \(3, 8, 8\) or \(8, 8\)"),
        (np.ones(8, bool), r"shape \(8,\)"),
    ],
)
def test_super_resolve_array_unfit_validity_is_refused(valid, message):
    with pytest.raises(georsr.UsageError, match=message):
        georsr.super_resolve_array(np.ones((3, 8, 8), "uint8"), "bicubic-x2", valid=valid)


def test_model_call_masked_pixels_are_refused():
    image = np.ma.array(np.ones((3, 8, 8), "float32"), mask=np.zeros((3, 8, 8), bool))
    model = georsr.open_model("bicubic-x2")
    assert model(image).shape == (3, 16, 16)
    image[0, 0, 0] = np.ma.masked
    with pytest.raises(georsr.UsageError, match="masked pixels"):
        model(image)

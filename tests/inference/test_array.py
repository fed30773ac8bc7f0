"""Any window of a product, made by itself from the raster, is what the whole product has there."""

import numpy as np
import pytest
import rasterio
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
            plan = tile_grid_of(info, spec, SRConfig(**SMALL))
            planes = predict_window(
                lambda part: seen.append(part) or reader.read(part),
                window,
                bands=info.count,
                plan=plan,
                stretch=choose_normalization(reader),
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
            reach = plan.subgrid(window).read_extent.moved(window.top, window.left)
            assert all(part.intersection(reach) == part for part in seen)
            seen.clear()

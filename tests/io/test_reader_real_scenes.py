"""The whole way of a pixel through this room, on real scenes, with nearest neighbour for a net."""

import numpy as np
import pytest
import rasterio

from georsr.io.reader import choose_normalization, open_raster
from georsr.radiometry.nodata import dataset_mask, fill_invalid
from georsr.radiometry.quantize import quantize, quantize_alpha, replicate
from georsr.window import Window
from georsr.writer.layout import output_layout
from georsr.writer.writer import RasterWriter

pytestmark = pytest.mark.shared


def names(folder):
    return sorted(path.name for path in folder.glob("*.tif"))


def test_real_scenes_keep_pixels_place_and_validity(scenes, tmp_path):
    listing = sorted(path.name for path in scenes.iterdir())
    for name in names(scenes):
        with open_raster(scenes / name, alpha="mask") as reader:
            info = reader.info
            patch = reader.read(Window(0, 0, min(info.height, 150), min(info.width, 170)))
            stretch = choose_normalization(reader)
            layout = output_layout(info, 2, blocksize=128)
            scaled = stretch.forward(fill_invalid(patch.values.astype("float32"), patch.valid))
            assert np.isfinite(scaled).all(), name
            clipped, rest = stretch.clip_with_remainder(scaled)
            whole = stretch.inverse(clipped if rest is None else clipped + rest)
            good = patch.valid
            np.testing.assert_allclose(whole[good], patch.values[good], rtol=1e-5, atol=1e-2)
            with RasterWriter(tmp_path / name, layout) as writer:
                for _, _, block in layout.blocks():
                    put(writer, reader, layout, block)
                writer.commit()
        with rasterio.open(scenes / name) as old, rasterio.open(tmp_path / name) as new:
            assert new.crs == old.crs, name
            assert new.bounds == pytest.approx(old.bounds, rel=1e-9), name
            assert new.colorinterp == old.colorinterp, name
            assert new.descriptions == old.descriptions, name
            window = rasterio.windows.Window(0, 0, 100, 100)
            seen = new.read(window=rasterio.windows.Window(0, 0, 200, 200))[:, ::2, ::2]
            np.testing.assert_array_equal(seen, old.read(window=window)[:, :100, :100], name)
            mask = new.dataset_mask()[:200:2, :200:2] != 0
            # one mask for all bands (mask, nodata): GDAL's own answer for the source is the truth
            np.testing.assert_array_equal(mask, old.dataset_mask()[:100, :100] != 0, name)
        (tmp_path / name).unlink()
    assert sorted(path.name for path in scenes.iterdir()) == listing


def put(writer, reader, layout, block):
    patch = reader.read(
        Window(block.top // 2, block.left // 2, -(-block.height // 2), -(-block.width // 2))
    )
    rows, columns = slice(0, block.height), slice(0, block.width)
    values = replicate(patch.values, 2)[:, rows, columns]
    valid = replicate(patch.valid, 2)[:, rows, columns]
    writer.write(
        block,
        quantize(values.astype("float32"), valid, values, layout.dtype, layout.nodata,
                 masked=layout.mask or layout.alpha),
        dataset_mask(valid) if layout.mask else None,
        replicate(quantize_alpha(patch.alpha, layout.dtype), 2)[rows, columns]
        if layout.alpha
        else None,
    )  # fmt: skip


def test_real_scene_naip_infrared_tagged_alpha_is_a_band(scenes):
    path = scenes / "naip_4band_u8_0.6m_ca_3211605.tif"
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3].name == "alpha"
    with open_raster(path) as reader:
        assert (reader.info.count, reader.info.alpha_band) == (4, None)
    others = [name for name in names(scenes) if name != path.name]
    for name in others:
        with rasterio.open(scenes / name) as dataset, open_raster(scenes / name) as reader:
            said = "alpha" in {color.name for color in dataset.colorinterp}
            assert (reader.info.alpha_band is not None) == said, name

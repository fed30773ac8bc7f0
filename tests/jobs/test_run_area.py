"""A part of a raster: the pixels of the whole raster's output, and nothing computed in vain."""

import json

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.features import geometry_mask
from rasterio.windows import Window as RasterioWindow
from shapely.geometry import box, mapping

from georsr.api import super_resolve
from georsr.errors import InterruptedRunError, UsageError
from georsr.models.io import Model
from georsr.models.spec import ModelSpec
from tests.rasters import read

UTM = {"crs": {"type": "name", "properties": {"name": "EPSG:32632"}}}
SMALL = {"blocksize": 32, "tile_size": 32, "halo": 2, "overlap": 4}


def polygon(*points):
    """Of (column, row) in pixels of the rasters here."""
    ring = [[400000 + x * 0.5, 5000000 - y * 0.5] for x, y in (*points, points[0])]
    return {"type": "Polygon", "coordinates": [ring], **UTM}


BOXES = {
    "everything": (0, 0, 110, 75),
    "a corner": (0, 0, 7, 9),
    "a strip": (3, 40, 110, 41),
    "across tiles": (20, 25, 61, 58),
    "one pixel": (64, 33, 65, 34),
}


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_run_with_bounds_equals_the_crop_of_the_full_output(
    name, dtype, lite_model, make_raster, texture, tmp_path
):
    left, top, right, bottom = BOXES[name]
    source = make_raster(texture(3, 75, 110, dtype))
    super_resolve(source, tmp_path / "whole.tif", lite_model, **SMALL)
    west, south, east, north = 4e5 + left / 2, 5e6 - bottom / 2, 4e5 + right / 2, 5e6 - top / 2
    out = tmp_path / "part.tif"
    super_resolve(source, out, lite_model, bounds=(west, south, east, north), **SMALL)
    with rasterio.open(tmp_path / "whole.tif") as whole, rasterio.open(out) as part:
        size = (right - left) * 2, (bottom - top) * 2
        window = RasterioWindow(left * 2, top * 2, *size)
        np.testing.assert_array_equal(part.read(), whole.read(window=window))
        corner = whole.transform @ (left * 2, top * 2)
        assert (part.transform.c, part.transform.f) == pytest.approx(corner, rel=1e-12)
        assert tuple(part.bounds) == (west, south, east, north)
        assert part.nodata is None


@pytest.mark.parametrize("kind", ["plain", "nodata", "mask", "alpha", "float"])
@pytest.mark.parametrize("cog", [False, True])
def test_run_with_polygons_equals_the_masked_crop_of_the_full_output(
    kind, cog, lite_model, make_raster, texture, tmp_path
):
    image = texture(3, 75, 110, "float32" if kind == "float" else "uint8")
    options = {}
    after = None
    if kind == "nodata":
        image[image == 0] = 1
        image[:, 30:40, 50:70] = 0
        options["nodata"] = 0
    if kind == "alpha":
        image = np.concatenate([image, np.full((1, 75, 110), 255, "uint8")])
        image[3, 30:40, 50:70] = 0

        def after(dataset):
            names = ("red", "green", "blue", "alpha")
            dataset.colorinterp = [ColorInterp[name] for name in names]

    if kind == "mask":
        mask = np.full((75, 110), 255, "uint8")
        mask[30:40, 50:70] = 0

        def after(dataset):
            dataset.write_mask(mask)

    source = make_raster(image, after=after, **options)
    config = SMALL | {"cog": cog, "blocksize": 128 if cog else 32, "stretch": "0,255"}
    super_resolve(source, tmp_path / "whole.tif", lite_model, **config)
    aoi = polygon((20, 10), (90, 22), (55, 66), (31, 40))
    out = tmp_path / "part.tif"
    super_resolve(source, out, lite_model, aoi=aoi, **config)
    with rasterio.open(tmp_path / "whole.tif") as whole, rasterio.open(out) as part:
        window = RasterioWindow(40, 20, 140, 112)
        outside = geometry_mask([aoi], part.shape, part.transform)
        assert 0.2 < outside.mean() < 0.8
        expected = whole.read(window=window)
        np.testing.assert_array_equal(part.read()[:, ~outside], expected[:, ~outside])
        valid = whole.dataset_mask(window=window) * ~outside
        np.testing.assert_array_equal(part.dataset_mask(), valid)
        assert part.dataset_mask()[outside].max() == 0
        assert part.nodata == whole.nodata


def test_run_with_polygons_without_mask_crops_only(lite_model, make_raster, texture, tmp_path):
    source = make_raster(texture(3, 75, 110))
    aoi = polygon((20, 10), (90, 22), (55, 66), (31, 40))
    path = tmp_path / "aoi.geojson"
    path.write_text(json.dumps(aoi))
    super_resolve(source, tmp_path / "a.tif", lite_model, aoi=str(path), aoi_mask=False, **SMALL)
    box = (4e5 + 10, 5e6 - 33, 4e5 + 45, 5e6 - 5)
    super_resolve(source, tmp_path / "b.tif", lite_model, bounds=box, **SMALL)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))


class Counting(torch.nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += x.shape[0]
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def counting():
    network = Counting()
    spec = ModelSpec("test", "test", 2, bands=0, band_names=(), tile=32, halo=2, overlap=4)
    return network, Model(spec, network.eval(), "0" * 64, "test")


def test_run_with_bounds_computes_touched_tiles_only(make_raster, texture, tmp_path):
    source = make_raster(texture(1, 300, 300))
    network, model = counting()
    box = (4e5 + 5, 5e6 - 10, 4e5 + 10, 5e6 - 5)
    super_resolve(source, tmp_path / "a.tif", model, bounds=box, **SMALL)
    assert network.calls == 1
    network.calls = 0
    # two small polygons in opposite corners: of their common extent only the ends are work
    far = {"type": "GeometryCollection", **UTM, "geometries": [
        polygon((1, 1), (9, 1), (9, 9)), polygon((290, 290), (299, 290), (299, 299))]}  # fmt: skip
    report = super_resolve(source, tmp_path / "b.tif", model, aoi=far, **SMALL)
    assert network.calls == 2
    assert report.tiles > 100
    assert report.tiles_skipped == report.tiles - 2


def test_run_with_bounds_reads_touched_windows_only(make_raster, texture, tmp_path, monkeypatch):
    from georsr.io.reader import RasterReader

    source = make_raster(texture(1, 300, 40))
    windows = []
    original = RasterReader.read
    monkeypatch.setattr(
        RasterReader, "read", lambda self, w: (windows.append(w), original(self, w))[1]
    )
    far = {"type": "GeometryCollection", **UTM, "geometries": [
        polygon((1, 1), (9, 1), (9, 9)), polygon((29, 290), (39, 290), (39, 299))]}  # fmt: skip
    super_resolve(source, tmp_path / "b.tif", "nearest", 2, aoi=far, **SMALL)
    assert sum(window.height for window in windows) < 100


def test_run_with_polygons_crops_a_rotated_raster_along_its_pixels(
    lite_model, make_raster, texture, tmp_path
):
    transform = Affine.translation(3e5, 6e6) @ Affine.rotation(30) @ Affine.scale(10, -8)
    source = make_raster(texture(3, 75, 110), transform=transform)
    super_resolve(source, tmp_path / "whole.tif", lite_model, **SMALL)
    x, y = transform @ (50, 30)
    aoi = mapping(box(x - 100, y - 100, x + 100, y + 100)) | UTM
    super_resolve(source, tmp_path / "part.tif", lite_model, aoi=aoi, **SMALL)
    whole, part = (rasterio.open(tmp_path / f"{name}.tif") for name in ("whole", "part"))
    with whole, part:
        offset = ~whole.transform @ (part.transform.c, part.transform.f)
        left, top = (round(value) for value in offset)
        assert offset == pytest.approx((left, top), abs=1e-6)
        window = RasterioWindow(left, top, part.width, part.height)
        inside = ~geometry_mask([aoi], part.shape, part.transform)
        assert inside.any()
        np.testing.assert_array_equal(part.read()[:, inside], whole.read(window=window)[:, inside])


def test_resume_with_the_same_area_continues_with_another_starts_over(
    lite_model, make_raster, texture, tmp_path, monkeypatch, caplog
):
    import georsr.writer.writer as writer_module

    monkeypatch.setattr(writer_module, "SYNC_SECONDS", -1.0)
    source = make_raster(texture(3, 75, 110))
    aoi = polygon((20, 10), (90, 22), (55, 66), (31, 40))
    whole, out = tmp_path / "whole.tif", tmp_path / "out.tif"
    super_resolve(source, whole, lite_model, aoi=aoi, **SMALL)
    left = iter([False] * 6)

    def interrupt():
        with pytest.raises(InterruptedRunError):
            super_resolve(
                source, out, lite_model, aoi=aoi, should_stop=lambda: next(left, True), **SMALL
            )

    interrupt()
    assert super_resolve(source, out, lite_model, aoi=aoi, **SMALL).blocks_resumed > 0
    assert out.read_bytes() == whole.read_bytes()
    out.unlink()
    left = iter([False] * 6)
    interrupt()
    other = polygon((20, 10), (90, 22), (55, 66), (31, 41))
    assert super_resolve(source, out, lite_model, aoi=other, **SMALL).blocks_resumed == 0
    assert "area was" in caplog.text


def test_run_with_bounds_in_a_giant_raster_is_allowed(tmp_path):
    path = tmp_path / "giant.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        width=400_000,
        height=400_000,
        dtype="uint8",
        tiled=True,
        sparse_ok=True,
        bigtiff="yes",
        crs="EPSG:32632",
        transform=Affine(1, 0, 0, 0, -1, 400_000),
    ):
        pass  # fmt: skip
    box = (1000, 1000, 1050, 1040)
    super_resolve(path, tmp_path / "o.tif", "nearest", 2, bounds=box)
    assert read(tmp_path / "o.tif").shape == (1, 80, 100)
    with pytest.raises(UsageError, match="max_pixels"):
        super_resolve(path, tmp_path / "p.tif", "nearest", 2)

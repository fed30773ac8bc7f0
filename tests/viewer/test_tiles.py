"""Tiles and values of the viewer: which pixel is shown where."""

import io

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

import georsr
from georsr.errors import UsageError
from georsr.viewer.tiles import View

from ..conftest import NORTH_UP

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
COARSE = NORTH_UP @ Affine.scale(4)


def pixels(png):
    """The pixels of a tile, (256, 256, 4) uint8."""
    image = Image.open(io.BytesIO(png))
    assert (image.mode, image.size) == ("RGBA", (256, 256))
    return np.asarray(image)


@pytest.fixture
def full_range(texture):
    """Bytes of which more than 1 % are 0 and 255, so that the stretch shows them as they are."""

    def make(bands, height, width, seed=0):
        values = texture(bands, height, width, seed=seed)
        values[:, ::20], values[:, 1::20] = 0, 255
        return values

    return make


def test_tile_of_a_window_equals_its_pixels(make_raster, full_range):
    values = full_range(3, 300, 520)
    with View(make_raster(values, tiled=True, blockxsize=128, blockysize=128)) as view:
        shown = pixels(view.rasters["output"].tile(0, 1, 0))
        assert np.array_equal(shown[..., :3], np.moveaxis(values[:, :256, 256:512], 0, -1))
        assert (shown[..., 3] == 255).all()
        edge = pixels(view.rasters["output"].tile(0, 2, 1))
    assert np.array_equal(edge[:44, :8, :3], np.moveaxis(values[:, 256:, 512:], 0, -1))
    assert edge[..., 3].sum() == 44 * 8 * 255


def test_tile_zoomed_out_shows_every_other_pixel(make_raster, full_range):
    values = full_range(3, 600, 601)
    with View(make_raster(values)) as view:
        whole = pixels(view.rasters["output"].tile(-1, 0, 0))
        edge = pixels(view.rasters["output"].tile(-1, 1, 1))
    assert np.array_equal(whole[..., :3], np.moveaxis(values[:, 1:512:2, 1:512:2], 0, -1))
    assert np.array_equal(edge[:44, :44, :3], np.moveaxis(values[:, 513::2, 513::2], 0, -1))
    assert edge[..., 3].sum() == 44 * 44 * 255


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (NORTH_UP, "EPSG:32632"),
        (NORTH_UP @ Affine.rotation(30), "EPSG:32632"),
        (Affine(1e-5, 0, 11.2, 0, -1e-5, 47.1), "EPSG:4326"),
        (Affine(0.6, 0, 1250000, 0, -0.6, 5900000), "EPSG:3857"),
        (Affine(10, 0, -300000, 0, -10, 250000), "EPSG:3413"),
        (Affine(0.5, 0, 0, 0, 0.5, 0), None),
        (None, None),
    ],
)
def test_source_lies_under_its_output(make_raster, full_range, transform, crs):
    source, output = full_range(3, 100, 90), full_range(3, 400, 360, seed=1)
    coarse = None if transform is None else transform @ Affine.scale(4)
    paths = (
        make_raster(output, "p.tif", transform=transform, crs=crs),
        make_raster(source, "s.tif", transform=coarse, crs=crs),
    )
    with View(*paths) as view:
        shown = pixels(view.rasters["source"].tile(0, 1, 0))
        repeated = source.repeat(4, 1).repeat(4, 2)[:, :256, 256:]
        assert np.array_equal(shown[:, :104, :3], np.moveaxis(repeated, 0, -1))
        assert not shown[:, 104:, 3].any()
        assert view.rasters["source"].values(359, 41) == source[:, 10, 89].tolist()
        assert view.rasters["output"].values(359, 41) == output[:, 41, 359].tolist()
        assert view.rasters["source"].values(360, 0) == [None] * 3


def test_source_larger_than_its_output_is_placed_by_its_transform(make_raster, full_range):
    output, source = full_range(3, 80, 80), full_range(3, 100, 90, seed=1)
    moved = NORTH_UP @ Affine.translation(40, 20)
    paths = (
        make_raster(output, "p.tif", transform=moved),
        make_raster(source, "s.tif", transform=COARSE),
    )
    with View(*paths) as view:
        raster = view.rasters["source"]
        assert raster.bounds() == pytest.approx((-40, -20, 320, 380))
        assert raster.values(0, 0) == source[:, 5, 10].tolist()
        corner = pixels(raster.tile(0, -1, -1))
    expected = source[:, :5, :10].repeat(4, 1).repeat(4, 2)
    assert np.array_equal(corner[-20:, -40:, :3], np.moveaxis(expected, 0, -1))
    assert corner[..., 3].sum() == 20 * 40 * 255


def test_truth_finer_than_the_output_has_zooms_of_its_own(make_raster, full_range):
    fine = full_range(1, 300, 300)
    paths = (
        make_raster(full_range(1, 150, 150), "p.tif", transform=NORTH_UP @ Affine.scale(2)),
        make_raster(fine, "t.tif"),
    )
    with View(*paths) as view:
        assert view.rasters["source"].max_zoom == 1
        shown = pixels(view.rasters["source"].tile(1, 0, 0))
    assert np.array_equal(shown[..., 0], fine[0, :256, :256])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_stretch_is_that_of_the_output_for_both(make_raster, dtype):
    output = np.linspace(100, 9100, 200 * 200).reshape(1, 200, 200).astype(dtype)
    source = (output[:, 2::4, 2::4] / 2).astype(dtype)
    source[:] = output[:, 100, 100][:, None, None]
    paths = make_raster(output, "p.tif"), make_raster(source, "s.tif", transform=COARSE)
    with View(*paths) as view:
        shown = pixels(view.rasters["output"].tile(0, 0, 0))[:200, :200]
        below = pixels(view.rasters["source"].tile(0, 0, 0))[:200, :200]
    assert shown[0, 0].tolist() == [0, 0, 0, 255]
    assert shown[199, 199].tolist() == [255] * 4
    assert shown[100, 100, 0] == pytest.approx(128, abs=2)
    assert (below == shown[100, 100]).all()


def test_invalid_pixels_are_transparent(make_raster, full_range):
    values = np.maximum(full_range(3, 64, 64), 1)
    values[:, 10:20, 10:20] = 0
    alpha = np.full((1, 64, 64), 255, np.uint8)
    alpha[:, 30:] = 0

    with View(make_raster(values, nodata=0)) as view:
        shown = pixels(view.rasters["output"].tile(0, 0, 0))
        assert view.rasters["output"].values(15, 15) == [None] * 3
    assert shown[..., 3].sum() == (64 * 64 - 100) * 255
    path = make_raster(np.concatenate([values, alpha]), "a.tif", photometric="RGB", alpha="YES")
    with View(path) as view:
        shown = pixels(view.rasters["output"].tile(0, 0, 0))
    assert (shown[:30, :64, 3] == 255).all()
    assert not shown[30:, :, 3].any()


def test_bands_of_the_output_choose_those_of_the_source(make_raster, full_range):
    source = full_range(6, 40, 40)
    paths = (
        make_raster(source[:, :, :].repeat(4, 1).repeat(4, 2), "p.tif"),
        make_raster(source, "s.tif", transform=COARSE),
    )
    with View(*paths, bidx=(5, 4, 2)) as view:
        tiles = [pixels(view.rasters[name].tile(0, 0, 0)) for name in ("output", "source")]
        assert view.rasters["source"].values(0, 0) == source[[4, 3, 1], 0, 0].tolist()
    assert np.array_equal(*tiles)
    assert np.array_equal(tiles[0][0, :160:4, :3], source[[4, 3, 1], 0].T)
    with View(*paths, bidx=(6,)) as view:
        tiles = [pixels(view.rasters[name].tile(0, 0, 0)) for name in ("output", "source")]
        assert view.rasters["output"].values(8, 0) == [source[5, 0, 2]]
    assert np.array_equal(*tiles)
    assert np.array_equal(tiles[0][0, :160:4, 1], source[5, 0])
    with pytest.raises(UsageError, match="expected one band or three"):
        View(*paths, bidx=(1, 2))


@pytest.fixture
def output(make_raster, texture):
    """A source and an output of georsr beside it."""
    source = make_raster(texture(3, 40, 50), "scene.tif", transform=COARSE, photometric="RGB")
    output = source.replace("scene.tif", "out.tif")
    georsr.super_resolve(source, output, "bicubic-x4")
    return source, output


def test_source_beside_an_output_is_found_by_its_tags(output):
    with View(output[1]) as view:
        assert view.rasters["source"].info.width == 50
        assert list(view.remarks()) == []


def test_source_that_has_gone_is_reported(output, tmp_path):
    (tmp_path / "scene.tif").rename(tmp_path / "elsewhere.tif")
    with View(output[1]) as view:
        assert list(view.rasters) == ["output"]
        assert "its source is not beside it" in "".join(view.remarks())


@pytest.mark.parametrize("name", ["../secret.tif", "/etc/passwd", "..", "other.tif"])
def test_source_in_forged_tags_is_not_shown(output, make_raster, texture, tmp_path, name):
    """Neither a path, nor a raster of other ground."""
    make_raster(texture(3, 40, 50), "other.tif", transform=COARSE, crs="EPSG:32633")
    (tmp_path / "in").mkdir()
    output = (tmp_path / "out.tif").rename(tmp_path / "in" / "out.tif")
    (tmp_path / "other.tif").rename(tmp_path / "in" / "other.tif")
    make_raster(texture(3, 40, 50), "secret.tif", transform=COARSE)
    with rasterio.open(output, "r+") as dataset:
        dataset.update_tags(GEORSR_SOURCE=name)
    with View(str(output)) as view:
        assert list(view.rasters) == ["output"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"crs": "EPSG:32633"}, "its CRS is EPSG:32633, that of .* is EPSG:32632; warp it first"),
        ({"transform": COARSE @ Affine.rotation(3)}, "its rows are not parallel"),
        ({"transform": None}, "differ in shape, and one of them has no geotransform"),
    ],
)
def test_source_of_another_grid_is_refused(make_raster, texture, other, message):
    output = make_raster(texture(3, 160, 160), "p.tif")
    source = make_raster(texture(3, 40, 50), "s.tif", **{"transform": COARSE, **other})
    with pytest.raises(UsageError, match=message):
        View(output, source)


def test_quality_layers_are_coloured_up_to_their_98th_percentile(make_raster, texture):
    error = np.full((2, 100, 100), 4.0, np.float32)
    error[0, :50], error[0, 99] = 0, np.nan
    paths = make_raster(texture(3, 100, 100), "p.tif"), make_raster(error, "q.tif")
    with View(paths[0], layers=paths[1]) as view:
        assert list(view.layers) == ["layer1", "layer2"]
        assert view.layers["layer1"].maximum == 4
        shown = pixels(view.layers["layer1"].tile(0, 0, 0))
        assert view.layers["layer1"].values(3, 80) == [4.0]
        assert view.layers["layer1"].values(3, 99) == [None]
    assert shown[0, 0].tolist() == [0xFF, 0xFD, 0xF0, 255]
    assert shown[60, 0].tolist() == [0x33, 0x10, 0x5C, 255]
    assert shown[99, 0, 3] == 0


def test_large_raster_is_shown_as_a_whole_with_overviews_only(tmp_path):
    path = tmp_path / "large.tif"
    profile = {"driver": "GTiff", "width": 16384, "height": 16384, "count": 1, "dtype": "uint8"}
    sparse = {"tiled": True, "sparse_ok": True, "compress": "deflate", "transform": NORTH_UP}
    with rasterio.open(path, "w", **profile, **sparse):
        pass
    with View(str(path)) as view:
        assert view.rasters["output"].min_zoom == -4
        assert "has no overviews, so it shows from nearby only" in "".join(view.remarks())
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([4, 16, 64])
    with View(str(path)) as view:
        assert view.rasters["output"].min_zoom == view.describe()["minZoom"] == -6
        assert list(view.remarks()) == []
        assert pixels(view.rasters["output"].tile(-6, 0, 0))[..., 3].all()


def test_bands_that_are_not_declared_are_found_as_for_a_run(make_raster, full_range):
    values = full_range(4, 40, 40).astype(np.uint16)  # blue, green, red, near infrared
    with View(make_raster(values)) as view:
        assert view.rasters["output"].values(3, 4) == values[2::-1, 4, 3].tolist()

"""Bugs found in the code of other tools, each with a test that this one does not have it.

Where a bug is public, its thread is named. The names are those of the projects at the time.
"""

import random
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

import georsr
from georsr.errors import ModelError, UsageError
from georsr.models.io import Model, open_model
from georsr.models.segsr import segsr
from georsr.models.spec import ModelSpec

NEAREST = {"tile_size": 32, "halo": 4, "overlap": 8, "stretch": "dtype", "consistency": "off"}
"""Tiles that overlap, for models that need no overlap; nothing beyond the network's range."""
FLOATS = {"stretch": "-8192,8192"}
"""A range in which float32 on the 0..1 scale holds what the tests use."""


def replicated(values, scale):
    return values.repeat(scale, -2).repeat(scale, -1)


def enlarge(values, model="nearest-x2", **options):
    return georsr.super_resolve_array(values, model, **(NEAREST | options))


def run(source, tmp_path, model="nearest-x2", name="out.tif", **options):
    out = tmp_path / name
    georsr.super_resolve(source, out, model, **({"consistency": "off"} | options))
    return out


# 1 and 2. geoai: weights that go to nothing at the outer frame of the mosaic


@pytest.mark.parametrize("blend", ["feather", "crop"])
def test_geoai_outer_frame_keeps_its_value(blend):
    values = np.full((3, 90, 70), 200, np.uint8)
    assert (enlarge(values, "bicubic-x4", blend=blend) == 200).all()


def test_geoai_corners_keep_their_value(texture):
    values = np.rint(texture(1, 70, 90, "float32"))
    output = enlarge(values, **FLOATS)
    for row in (0, -1):
        for column in (0, -1):
            assert output[0, row, column] == pytest.approx(values[0, row, column], rel=1e-6)


def test_geoai_tile_borders_are_not_black(texture):
    values = texture(3, 100, 120) // 8 + 200
    assert enlarge(values, "bicubic-x2").min() > 180


def test_geoai_output_keeps_units_and_type(make_raster, texture, tmp_path):
    source = make_raster(np.maximum(texture(2, 40, 50, "int16"), 1), nodata=-9999)
    with rasterio.open(source) as old, rasterio.open(run(source, tmp_path, stretch="dtype")) as new:
        assert (new.dtypes, new.nodata) == (old.dtypes, -9999)
        np.testing.assert_array_equal(new.read(), replicated(old.read(), 2))


def test_geoai_rotation_terms_are_scaled(make_raster, texture, tmp_path):
    turned = Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(10, -10)
    source = make_raster(texture(1, 40, 50), transform=turned)
    with rasterio.open(run(source, tmp_path)) as new:
        for column, row in ((0, 0), (50, 0), (0, 40), (50, 40)):
            there = new.transform @ (2 * column, 2 * row)
            assert there == pytest.approx(turned @ (column, row), rel=1e-12)


# 3. SEN2SR predict_large: height and width taken for each other


@pytest.mark.parametrize("shape", [(4, 64, 100), (4, 100, 64), (4, 31, 97)])
def test_sen2sr_oblong_rasters_are_complete(shape, texture):
    values = texture(*shape, "uint16")
    np.testing.assert_array_equal(enlarge(values, "nearest-x4"), replicated(values, 4))


def test_sen2sr_nan_does_not_spread(texture):
    values = texture(3, 60, 60, "float32")
    values[1, 30, 31] = np.nan
    output = enlarge(values, "bicubic-x2", **FLOATS)
    assert np.isnan(output[1, 60:62, 62:64]).all()
    assert np.isnan(output).sum() == 4


# 4. opensr-utils


def test_opensr_utils_zeros_without_nodata_are_data(make_raster, texture, tmp_path):
    values = texture(3, 40, 40)
    values[:, :10, :10] = 0
    with rasterio.open(run(make_raster(values), tmp_path)) as output:
        assert output.nodata is None
        assert (output.dataset_mask() == 255).all()


def test_opensr_utils_values_above_10000_are_kept(texture):
    values = np.clip(texture(3, 60, 60, "uint16"), 200, None)
    values[:, 20:40, 20:40] = 15_000
    output = enlarge(values, "bicubic-x2", stretch="0,10000")
    assert (output[:, 50:70, 50:70] == 15_000).all()


def test_opensr_utils_dark_tile_keeps_its_range():
    """The range is that of the scene, never guessed from a tile."""
    values = np.full((3, 64, 128), 3, np.uint16)
    values[:, :, 64:] = 4000
    output = enlarge(values)
    assert (output[:, :, :128] == 3).all()
    assert (output[:, :, 128:] == 4000).all()


def test_opensr_utils_blending_equal_tiles_loses_no_level(texture):
    values = texture(3, 90, 90, "uint16")
    np.testing.assert_array_equal(enlarge(values), replicated(values, 2))


def test_opensr_utils_no_temporary_tiles_are_written(make_raster, texture, tmp_path):
    """Beside the output there is one part file and its journal, however many tiles."""
    source, seen = make_raster(texture(3, 200, 200)), set()

    def look():
        seen.update(path.name for path in tmp_path.iterdir())
        return False

    run(source, tmp_path, tile_size=32, overlap=8, halo=4, should_stop=look)
    assert seen <= {"in.tif", ".out.tif.part.tif", ".out.tif.part.jsonl", ".out.tif.part.lock"}
    assert {path.name for path in tmp_path.iterdir()} == {"in.tif", "out.tif"}


def test_opensr_utils_reflectance_offset_is_kept(make_raster, texture, tmp_path):
    """Sentinel-2 since baseline 04.00: reflectance = (DN - 1000) / 10000."""

    def note(dataset):
        dataset.scales, dataset.offsets = (1e-4,) * 3, (-0.1,) * 3
        dataset.descriptions = ("B4", "B3", "B2")

    source = make_raster(texture(3, 40, 40, "uint16"), after=note)
    with rasterio.open(run(source, tmp_path)) as output:
        assert output.scales == (1e-4,) * 3
        assert output.offsets == (-0.1,) * 3
        assert output.descriptions == ("B4", "B3", "B2")


def test_opensr_utils_other_bands_are_not_used_as_rgb(lite_model, make_raster, texture, tmp_path):
    """Of what lies in a SAFE's folder, AOT, TCI and WVP are no reflectances."""

    def note(dataset):
        dataset.descriptions = ("B2", "B3", "B4", "B8", "AOT", "TCI", "WVP")

    source = make_raster(texture(7, 40, 40, "uint16"), after=note)
    chosen = run(source, tmp_path, lite_model, "chosen.tif", indexes=(3, 2, 1))
    guessed = run(source, tmp_path, lite_model, "guessed.tif")
    with rasterio.open(chosen) as a, rasterio.open(guessed) as b:
        assert b.descriptions == ("B4", "B3", "B2")
        np.testing.assert_array_equal(a.read(), b.read())


# 5. Deepness (bdcraft-poznan/qgis-plugin-deepness)


def test_deepness_floats_do_not_wrap_in_eight_bits(make_raster, tmp_path):
    values = np.full((1, 40, 40), 300.7, np.float32)
    values[:, :20] = -3.2
    with rasterio.open(run(make_raster(values), tmp_path, dtype="uint8")) as output:
        pixels = output.read()
    assert (pixels[:, :40] == 0).all()
    assert (pixels[:, 40:] == 255).all()


def test_deepness_working_directory_stays_empty(make_raster, texture, tmp_path, monkeypatch):
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    source = make_raster(texture(3, 40, 40))
    monkeypatch.chdir(elsewhere)
    run(source, tmp_path)
    assert list(elsewhere.iterdir()) == []


def test_deepness_custom_crs_and_oblong_pixels_are_kept(make_raster, texture, tmp_path):
    crs = "+proj=laea +lat_0=47.3 +lon_0=11.4 +x_0=1000 +y_0=2000 +ellps=GRS80 +units=m"
    oblong = Affine(3.7, 0, 1e3, 0, -11.3, 2e3)
    source = make_raster(texture(1, 40, 40), crs=crs, transform=oblong)
    with rasterio.open(source) as old, rasterio.open(run(source, tmp_path)) as new:
        assert new.crs == old.crs
        assert new.crs.to_epsg() is None
        assert new.res == (1.85, 5.65)


# 6 and 7. Evoland, sr4rs: outputs smaller than their source


@pytest.mark.parametrize("size", [(127, 129), (128, 128), (1, 200), (33, 31)])
def test_evoland_and_sr4rs_border_is_kept(size, texture):
    """remicres/sr4rs issues 50 and 74."""
    values = texture(1, *size)
    output = enlarge(values, "bicubic-x2", tile_size=64)
    assert output.shape == (1, 2 * size[0], 2 * size[1])
    np.testing.assert_array_equal(enlarge(values, tile_size=64), replicated(values, 2))


def test_evoland_output_is_compressed(make_raster, tmp_path):
    source = make_raster(np.zeros((3, 200, 200), np.uint8))
    out = run(source, tmp_path)
    with rasterio.open(out) as output:
        assert output.compression is not None
    assert Path(out).stat().st_size < 3 * 400 * 400 / 20


# 8. Real-ESRGAN and BasicSR, on which SeG-SR's own code rests


def test_basicsr_tiles_with_sufficient_halo_are_seamless(texture):
    values = texture(3, 100, 90, "float32")
    whole = enlarge(values, "bicubic-x2", tile_size=256, **FLOATS)
    for tile in (32, 48):
        tiled = enlarge(values, "bicubic-x2", tile_size=tile, **FLOATS)
        np.testing.assert_array_equal(tiled, whole)


def test_basicsr_failing_tile_is_an_error(texture):
    class Fails(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("a kernel failed")
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    spec = ModelSpec("fails", "test", 2, bands=0, band_names=(), tile=32, halo=0, overlap=0)
    model = Model(spec, Fails().eval(), "0" * 64, "fails")
    with pytest.raises(ModelError, match=r"tile 2.*a kernel failed"):
        georsr.super_resolve_array(texture(3, 64, 64), model, consistency="off")


def test_basicsr_range_does_not_depend_on_one_bright_pixel(texture):
    """One pixel above 256 made BasicSR divide everything by 65535."""
    values = texture(3, 60, 60).astype(np.uint16)
    brighter = values.copy()
    brighter[0, 0, 0] = 300
    limits = {"stretch": "0,4095"}
    a, b = (enlarge(v, "bicubic-x2", **limits) for v in (values, brighter))
    np.testing.assert_array_equal(a[:, 10:], b[:, 10:])


def test_segsr_prompts_are_saved_parameters():
    """The published network keeps them in a list: never trained, never saved."""
    network = segsr(2, num_groups=2, depth=1, embed_dim=12, backbone="plain", encoder="scene")
    prompts = [name for name, _ in network.named_parameters() if "local_prompts" in name]
    assert prompts
    assert set(prompts) <= set(network.state_dict())


# 9. tamrfsits: a margin of nothing was a slice of nothing


@pytest.mark.parametrize("overlap", [0, 4])
def test_tamrfsits_tiles_without_halo_are_complete(overlap, texture):
    values = texture(2, 70, 80)
    output = enlarge(values, halo=0, overlap=overlap)
    np.testing.assert_array_equal(output, replicated(values, 2))


# 10. opensr-model


def test_opensr_model_tile_does_not_depend_on_distant_pixels(lite_model, texture):
    """What happens far away does not change a tile: no matching of histograms, patch by patch."""
    values = texture(3, 32, 120)
    other = values.copy()
    other[:, :, 90:] = 250
    a, b = (georsr.super_resolve_array(v, lite_model, consistency="off") for v in (values, other))
    np.testing.assert_array_equal(a[:, :, :64], b[:, :, :64])


def test_opensr_model_random_state_is_unchanged(texture):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    enlarge(texture(3, 40, 40), "segsr-lite-x2")
    assert states() == before


def test_opensr_model_pickled_weights_are_refused(tmp_path):
    """A pickle that would make a file is refused, whatever it is called."""
    marker = tmp_path / "was-here"

    class Payload:
        def __reduce__(self):
            return Path.touch, (marker,)

    for name in ("evil.pth", "evil.safetensors"):
        path = tmp_path / name
        torch.save({"params": Payload()}, path)
        with pytest.raises((ModelError, UsageError)):
            open_model(str(path))
    assert not marker.exists()

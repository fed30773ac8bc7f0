"""The sample scenes: what their script draws, and what their files promise."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from georsr.radiometry.degradation import bicubic_downsample, degrade_pair
from georsr.radiometry.kernels import bicubic_matrix

FOLDER = Path(__file__).resolve().parents[1] / "sample_data"
SIZES = {
    "town_rgb_0.5m.tif": (3, 320, 384),
    "town_rgb_1m.tif": (3, 160, 192),
    "town_rgb_2m.tif": (3, 80, 96),
    "fields_4band_10m.tif": (4, 148, 164),
    "fields_4band_5m.tif": (4, 296, 328),
    "rotated_rgb_0.5m.tif": (3, 100, 120),
}


@pytest.fixture(scope="module")
def script():
    """The script, imported by its path, as its own folder sees it."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("make_scenes", FOLDER / "make_scenes.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if Path(origin).parent == FOLDER:
                del sys.modules[name]


def pixels(name):
    with rasterio.open(FOLDER / name) as file:
        return file.read()


@pytest.mark.slow
def test_sample_scenes_equal_those_of_the_script(script):
    assert script.check(FOLDER) == []


def test_check_reports_changed_pixels_and_missing_files(script, tmp_path, monkeypatch):
    farm = script.farm()
    monkeypatch.setattr(script, "products", lambda: [farm])
    assert script.check(tmp_path) == ["rotated_rgb_0.5m.tif: differs in everything: it is missing"]
    path = script.write(farm, tmp_path)
    assert script.check(tmp_path) == []
    with rasterio.open(path, "r+") as file:
        changed = file.read()
        changed[1, 50, 60] ^= 1
        file.write(changed)
    assert script.check(tmp_path) == ["rotated_rgb_0.5m.tif: differs in pixels"]


def test_sample_data_has_only_the_listed_small_scenes():
    files = sorted(path.name for path in FOLDER.glob("*.tif*"))
    assert files == sorted(SIZES)
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 1_000_000


@pytest.mark.parametrize("name", SIZES)
def test_sample_scenes_have_the_expected_layout(name):
    with rasterio.open(FOLDER / name) as file:
        assert (file.count, file.height, file.width) == SIZES[name]
        assert file.height != file.width
        assert file.profile["tiled"]
        assert file.compression is rasterio.enums.Compression.deflate
        assert file.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
        assert "CC0-1.0" in file.tags()["TIFFTAG_COPYRIGHT"]


@pytest.mark.parametrize(
    ("fine", "coarse", "scale", "epsg"),
    [
        ("town_rgb_0.5m.tif", "town_rgb_1m.tif", 2, 32632),
        ("town_rgb_0.5m.tif", "town_rgb_2m.tif", 4, 32632),
        ("fields_4band_5m.tif", "fields_4band_10m.tif", 2, 32633),
    ],
)
def test_sample_pairs_share_crs_and_corners(fine, coarse, scale, epsg):
    with rasterio.open(FOLDER / fine) as truth, rasterio.open(FOLDER / coarse) as low:
        assert truth.crs.to_epsg() == low.crs.to_epsg() == epsg
        assert truth.bounds == low.bounds
        assert (low.height * scale, low.width * scale) == truth.shape
        assert low.transform.a == truth.transform.a * scale
        assert low.transform.e == truth.transform.e * scale
        assert truth.colorinterp == low.colorinterp
        assert truth.descriptions == low.descriptions


@pytest.mark.parametrize(("name", "scale"), [("town_rgb_1m.tif", 2), ("town_rgb_2m.tif", 4)])
def test_sample_town_coarse_is_the_degraded_truth(name, scale):
    _, low = degrade_pair(pixels("town_rgb_0.5m.tif"), scale)
    np.testing.assert_array_equal(pixels(name), low)


@pytest.mark.parametrize("name", ["town_rgb_0.5m.tif", "rotated_rgb_0.5m.tif"])
@pytest.mark.parametrize("scale", [2, 4])
def test_sample_degraded_values_are_far_from_rounding_thresholds(name, scale):
    truth = pixels(name)
    rows, columns = (bicubic_matrix(n, scale).astype(np.float64) for n in truth.shape[1:])
    exact = rows @ truth.astype(np.float64) @ columns.T
    assert np.abs(exact % 1 - 0.5).min() > 0.9e-3


def test_sample_fields_bands_are_described():
    with rasterio.open(FOLDER / "fields_4band_10m.tif") as file:
        assert file.descriptions == ("blue", "green", "red", "nir")
        assert file.colorinterp == (
            ColorInterp.blue,
            ColorInterp.green,
            ColorInterp.red,
            ColorInterp.nir,
        )
        assert file.dtypes == ("uint16",) * 4
        assert file.scales == (0.0001,) * 4
        assert file.offsets == (0.0,) * 4
        assert file.nodata == 0


def test_sample_fields_nodata_is_an_edge_and_blocks():
    low, truth = pixels("fields_4band_10m.tif"), pixels("fields_4band_5m.tif")
    missing = (low == 0).all(0)
    # no band is 0 where another is valid
    np.testing.assert_array_equal((low == 0).any(0), missing)
    np.testing.assert_array_equal((truth == 0).any(0), (truth == 0).all(0))
    np.testing.assert_array_equal((truth == 0).all(0), missing.repeat(2, 0).repeat(2, 1))
    holes = [(0, 0), (3, 61), (41, 17), (42, 18), (77, 101), (110, 44), (139, 9)]
    for row, column in holes:
        assert missing[row, column]
        missing[row, column] = False
    first = np.array([np.flatnonzero(row)[0] for row in missing])
    assert (np.diff(first) <= 0).all()
    assert first[0] - first[-1] > 30
    for row, start in zip(missing, first, strict=True):
        assert row[start:].all()


def test_sample_fields_coarse_is_the_degraded_truth():
    low, truth = pixels("fields_4band_10m.tif"), pixels("fields_4band_5m.tif")
    valid = (truth != 0).all(0)
    inner = valid[::2, ::2]
    share = bicubic_downsample(valid, 2)
    expected = bicubic_downsample(truth, 2)[:, inner] / share[inner]
    np.testing.assert_array_equal(low[:, inner], np.rint(expected))


def test_sample_fields_infrared_separates_vegetation_and_water():
    low = pixels("fields_4band_10m.tif").astype(float)
    valid = low[0] > 0
    red, nir = low[2][valid], low[3][valid]
    index = (nir - red) / (nir + red)
    assert np.quantile(index, 0.9) > 0.7
    assert index.min() < 0
    assert 300 < np.median(low[:3, valid]) < 1500


def test_sample_rotated_scene_has_rotation_shear_and_tags():
    with rasterio.open(FOLDER / "rotated_rgb_0.5m.tif") as file:
        t = file.transform
        tags = file.tags()
        assert file.crs.to_epsg() == 2154
        assert file.descriptions == ("red", "green", "blue")
        assert tags["FLIGHT_LINE"] == "7"
        assert tags["TIFFTAG_DATETIME"] == "2026:05:14 10:30:00"
        assert [file.tags(band)["GAIN"] for band in (1, 2, 3)] == ["1.00", "1.05", "1.12"]
    assert math.degrees(math.atan2(t.d, t.a)) == pytest.approx(30)
    assert math.hypot(t.a, t.d) == pytest.approx(0.5)
    assert abs(t.a * t.e - t.b * t.d) / 0.5 == pytest.approx(0.55)
    assert abs(t.a * t.b + t.d * t.e) > 0.001  # axes not at right angles

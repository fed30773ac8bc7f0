import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from georsr.errors import InputError, UsageError
from georsr.radiometry.degradation import BicubicDegradation
from georsr.training.data.crops import flip_rotate
from georsr.training.data.sensor_pairs import block_mean
from georsr.training.data.source import open_source, open_training
from georsr.training.recipe import DataSettings
from georsr.window import Window

UTM = "EPSG:32632"
LR_GRID = Affine(2.0, 0, 500000, 0, -2.0, 5400000)
HR_GRID = Affine(1.0, 0, 500000, 0, -1.0, 5400000)
PLAIN = DataSettings("pairs", holdout=0.0, stretch="0,1000", match_radiometry=False)

_rng = np.random.default_rng(4)
WAVES = _rng.normal(0, 0.18, (2, 50, 2))
PHASES = _rng.uniform(0, 2 * np.pi, (2, 50))


def ground(x, y, bands=2):
    """Smooth texture of metres east and north of the grids' corner, (bands, h, w) in 0..1000."""
    x, y = np.asarray(x) - 500000, np.asarray(y) - 5400000
    planes = []
    for wave, phase in zip(WAVES[:bands], PHASES[:bands], strict=True):
        angle = np.multiply.outer(x, wave[:, 0]) + np.multiply.outer(y, wave[:, 1]) + phase
        planes.append(500 + 18 * np.cos(angle).sum(-1))
    return np.asarray(planes, np.float32)


def render(grid, height, width, crs=UTM, bands=2):
    """The ground at the centres of the pixels of a grid in any CRS."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    a, b, c, d, e, f = tuple(grid)[:6]
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    if crs != UTM:
        x, y = (np.reshape(v, rows.shape) for v in transform(crs, UTM, x.ravel(), y.ravel()))
    return ground(x, y, bands)


@pytest.fixture
def pair(make_raster):
    """pair(hr, lr, hr_grid=..., settings=...) -> settings of two rasters written to disk."""

    def make(hr, lr, *, hr_grid=HR_GRID, lr_grid=LR_GRID, hr_crs=UTM, settings=PLAIN, **profile):
        fine = make_raster(hr, "hr.tif", transform=hr_grid, crs=hr_crs, **profile)
        coarse = make_raster(lr, "lr.tif", transform=lr_grid, crs=UTM, **profile)
        return replace(settings, root=(fine,), lr=(coarse,))

    return make


def region_of(data, scale=2, patch=8):
    return open_training(data, BicubicDegradation(), scale=scale, patch=patch).regions[0]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("scale", [2, 4])
def test_sensor_pair_on_one_grid_copies_pixels(pair, scale):
    grid = LR_GRID @ Affine.scale(1 / scale)
    hr = render(grid, 40 * scale, 50 * scale)
    lr = block_mean(hr, scale)
    data = pair(hr, lr, hr_grid=grid)
    source = open_training(data, BicubicDegradation(), scale=scale, patch=12)
    region = source.regions[0]
    assert region.area == Window(0, 0, 40, 50)
    assert region.shift.size < 0.02
    for i in range(10):
        crop = source.crop(rng(i))
        assert crop.valid is None
        np.testing.assert_allclose(block_mean(crop.hr, scale), crop.lr, atol=1e-6)
        values = np.sort(crop.hr[0].ravel())
        assert np.isin(values, hr[0] / np.float32(1000)).all()  # not resampled


def test_sensor_pair_of_different_extents_uses_the_overlap(pair):
    hr_grid = HR_GRID @ Affine.translation(-7, 10)  # begins 7 columns left, 10 rows further down
    hr = render(hr_grid, 60, 55)
    data = pair(hr, render(LR_GRID, 70, 60), hr_grid=hr_grid)
    region = region_of(data)
    assert region.area == Window(5, 0, 30, 24)
    cut = region.read(Window(5, 0, 8, 8), rng())
    np.testing.assert_allclose(cut.hr, hr[:, 0:16, 7:23] / 1000, atol=1e-6)
    np.testing.assert_allclose(cut.lr, render(LR_GRID, 70, 60)[:, 5:13, :8] / 1000, atol=1e-6)


GRIDS = {
    "half a pixel off": (HR_GRID @ Affine.translation(-6.5, -5.25), UTM),
    "finer": (Affine(0.8, 0, 499990, 0, -0.8, 5400010), UTM),
    "a little coarser": (Affine(1.05, 0, 499990, 0, -1.05, 5400010), UTM),
    "south up": (Affine(1.0, 0, 499995.5, 0, 1.0, 5399850), UTM),
    "rotated": (HR_GRID @ Affine.translation(20, -90) @ Affine.rotation(30), UTM),
    "another zone": (None, "EPSG:32633"),
    "degrees": (None, "EPSG:4326"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_sensor_pair_on_other_grids_shows_the_same_ground(pair, name):
    """The HR crop is the ground at the centres of the fine grid: nothing is shifted."""
    grid, crs = GRIDS[name]
    if grid is None:
        x, y = transform(UTM, crs, [499960, 500000, 499960], [5400040, 5400040, 5400000])
        step = ((x[1] - x[0]) / 40, (y[2] - y[0]) / 40)
        grid = Affine(step[0], 0, x[0], 0, step[1], y[0])
    hr = render(grid, 210, 210, crs)
    data = pair(hr, render(LR_GRID, 60, 60), hr_grid=grid, hr_crs=crs)
    region = region_of(data)
    assert region.shift.size < 0.1
    middle = region.area.top + region.area.height // 2, region.area.left + region.area.width // 2
    window = Window(middle[0] - 6, middle[1] - 6, 12, 12)
    cut = region.read(window, rng())
    fine = HR_GRID @ Affine.translation(2 * window.left, 2 * window.top)
    truth = render(fine, 24, 24) / 1000
    assert cut.valid is None
    assert np.abs(cut.hr - truth).max() < 0.02 * np.ptp(truth)


@pytest.mark.parametrize("name", ["half a pixel off", "finer", "rotated"])
def test_sensor_pair_windows_equal_the_full_read(pair, name):
    grid, crs = GRIDS[name]
    data = pair(render(grid, 120, 120, crs), render(LR_GRID, 60, 60), hr_grid=grid, hr_crs=crs)
    region = region_of(data)
    whole = region.hr.read(Window(0, 0, 120, 120))
    for window in (Window(0, 0, 20, 20), Window(37, 50, 32, 41), Window(90, 80, 30, 40)):
        part = region.hr.read(window)
        expected = (slice(None), *window.slices)
        np.testing.assert_array_equal(part.valid, whole.valid[expected])
        both = part.valid
        np.testing.assert_allclose(part.values[both], whole.values[expected][both], atol=1e-2)


def test_sensor_pair_masks_invalid_pixels_per_band(pair):
    hr = render(HR_GRID, 80, 80)
    lr = block_mean(hr, 2)
    hr[1, 20, 30] = -9999  # in one band only: GDAL's warper would blend it in
    lr[0, 5, 6] = -9999
    data = pair(hr, lr, nodata=-9999)
    cut = region_of(data).read(Window(0, 0, 40, 40), rng())
    expected = np.ones((80, 80), bool)
    expected[20, 30] = False
    expected[10:12, 12:14] = False
    np.testing.assert_array_equal(cut.valid, expected)
    assert cut.hr.min() > 0
    moved = HR_GRID @ Affine.translation(-0.5, -0.5)
    fine = render(moved, 81, 81)
    fine[1, 20, 30] = -9999
    cut = region_of(pair(fine, lr, hr_grid=moved, nodata=-9999)).read(Window(2, 2, 30, 30), rng())
    bad = np.argwhere(~cut.valid[:, 20:]) + np.array([4, 24])
    assert 1 < len(bad) <= 25
    np.testing.assert_allclose(bad.mean(0), (19.5, 29.5), atol=0.01)
    truth = render(HR_GRID, 80, 80)[:, 4:64, 4:64] / 1000
    assert np.abs(cut.hr - truth)[:, cut.valid].max() < 0.02


def test_sensor_pair_matches_the_radiometry_of_lr(pair):
    hr = render(HR_GRID, 120, 120)
    lr = block_mean(hr, 2) * np.float32(0.3) + 200
    lr[1] -= 150
    data = pair(hr, lr, settings=replace(PLAIN, match_radiometry=True))
    source = open_training(data, BicubicDegradation(), scale=2, patch=20)
    assert source.regions[0].radiometry.gain == pytest.approx((0.3, 0.3), rel=1e-3)
    for i in range(5):
        crop = source.crop(rng(i))
        np.testing.assert_allclose(block_mean(crop.hr, 2), crop.lr, atol=1e-4)


def test_sensor_pair_shift_is_refused_or_corrected(pair):
    wrong = HR_GRID @ Affine.translation(3, -2)  # says it lies 3 m east and 2 m north of the truth
    hr = render(HR_GRID, 200, 200)
    data = pair(hr, render(LR_GRID, 100, 100), hr_grid=wrong)
    # LR content is 1 LR pixel below and 1.5 left of where HR says it is
    message = r"second is shifted by \+(0.9|1.0)\d rows and -1.[45]\d columns .* set correct_shift"
    with pytest.raises(InputError, match=message):
        region_of(data)
    assert region_of(replace(data, max_shift=3.0)).shift.size == pytest.approx(1.8, abs=0.1)
    region = region_of(replace(data, correct_shift=True))
    assert region.moved == pytest.approx((1.0, -1.5), abs=0.05)
    assert region.shift.size < 0.05
    cut = region.read(Window(40, 40, 20, 20), rng())
    truth = render(HR_GRID, 200, 200)[:, 80:120, 80:120] / 1000
    assert np.abs(cut.hr - truth).max() < 0.05 * np.ptp(truth)


def test_sensor_pair_misfitting_rasters_are_refused(pair, make_raster, texture):
    lr = render(LR_GRID, 40, 40)
    hr = render(HR_GRID, 80, 80)
    with pytest.raises(UsageError, match=r"hr\.tif and .*lr\.tif have 1 and 2 bands"):
        region_of(pair(hr[:1], lr))
    with pytest.raises(UsageError, match=r"hr\.tif: has no coordinate reference system"):
        region_of(pair(hr, lr, hr_crs=None))
    with pytest.raises(UsageError, match=r"is 2 x 2 of the first, for scale 4 .* 3\.64 to 8"):
        region_of(pair(hr, lr), scale=4)
    far = HR_GRID @ Affine.translation(500, 0)
    with pytest.raises(InputError, match=r"hr\.tif and .*lr\.tif do not overlap"):
        region_of(pair(hr, lr, hr_grid=far))
    noise = texture(2, 80, 80, "float32")
    careless = replace(PLAIN, match_radiometry=True, max_shift=1e9)
    with pytest.raises(InputError, match=r"correlates by .* only: they do not show the"):
        region_of(pair(noise, lr, settings=careless))
    data = pair(hr, lr)
    with pytest.raises(UsageError, match=r"1 fine rasters \(root\) and 2 coarse ones"):
        region_of(replace(data, lr=(*data.lr, "other.tif")))
    with pytest.raises(UsageError, match="validation_root is for scenes"):
        region_of(replace(data, validation_root=("x.tif",)))
    with pytest.raises(UsageError, match="no raster is given"):
        region_of(replace(data, lr=()))


def test_open_source_of_pairs_returns_crops_and_validation(pair):
    hr = render(HR_GRID, 240, 300)
    data = pair(hr, block_mean(hr, 2), settings=replace(PLAIN, holdout=0.2))
    crops, pairs = open_source(data, BicubicDegradation(), scale=2, patch=16)
    assert (crops.bands, crops.scale, crops.patch, crops.classes) == (2, 2, 16, ())
    for validation in pairs:
        np.testing.assert_allclose(block_mean(validation.hr, 2), validation.lr, atol=1e-6)
        assert validation.label == "hr"
    twin = pickle.loads(pickle.dumps(crops))
    for i in range(5):
        assert crops.crop(rng(i)).hr.tobytes() == twin.crop(rng(i)).hr.tobytes()


def test_sensor_pair_crops_are_flipped_together(pair):
    hr = render(HR_GRID, 40, 40)
    data = pair(hr, block_mean(hr, 2))
    source = open_training(data, BicubicDegradation(), scale=2, patch=20)
    whole = hr / np.float32(1000)
    elements = set()
    for i in range(40):
        crop = source.crop(rng(i))
        fits = [e for e in range(8) if np.allclose(flip_rotate(whole, e), crop.hr, atol=1e-6)]
        elements.add(fits[0])
        np.testing.assert_allclose(block_mean(crop.hr, 2), crop.lr, atol=1e-6)
    assert elements == set(range(8))


def test_sensor_pair_of_a_bicubic_version_has_no_shift():
    """The sample scenes: one was made from the other, so nothing is to be found between them."""
    samples = Path(__file__).resolve().parents[3] / "sample_data"
    data = DataSettings(
        "pairs", (str(samples / "town_rgb_0.5m.tif"),), (str(samples / "town_rgb_2m.tif"),)
    )
    region = region_of(data, scale=4, patch=16)
    assert region.shift.size < 0.01
    assert region.radiometry.gain == pytest.approx((1, 1, 1), abs=0.01)


@pytest.mark.slow
def test_sensor_pair_of_real_rasters_measures_the_shift(shared_data):
    scenes = shared_data / "scenes"
    data = DataSettings(
        "pairs",
        (str(scenes / "spacenet6_pan1_1band_u16_0.5m.tif"),),
        (str(scenes / "spacenet6_ms1_4band_f64_1m.tif"),),
        bands=(1,),
        lr_bands=(2,),
    )
    # scikit-image's phase_cross_correlation finds (0.22, 0.54) for these two
    with pytest.raises(InputError, match=r"shifted by \+0.2\d rows and \+0.5\d columns"):
        open_source(data, BicubicDegradation(), scale=2, patch=32)
    crops, pairs = open_source(
        replace(data, correct_shift=True), BicubicDegradation(), scale=2, patch=32
    )
    region = crops.regions[0]
    assert CRS.from_epsg(32631) == region.hr.source.crs
    assert region.shift.size < 0.05
    assert region.radiometry.correlation[0] > 0.8
    gaps = [np.abs(block_mean(p.hr, 2) - p.lr).mean() for p in pairs]
    assert np.mean(gaps) < 0.15

import numpy as np
import pytest
from affine import Affine

from georsr.api import super_resolve
from georsr.errors import InputError, UsageError
from georsr.evaluation.metrics import ergas, psnr, spectral_angle, ssim
from georsr.evaluation.raster_comparison import compare, compare_bicubic, compare_with_source
from georsr.radiometry.degradation import bicubic_downsample


@pytest.fixture
def pair(texture):
    truth = texture(2, 600, 60)
    noise = np.random.default_rng(1).normal(0, 9, truth.shape)
    return truth, np.clip(truth + noise, 0, 255).astype("uint8")


@pytest.mark.parametrize("size", [512, 37])
def test_compare_in_blocks_equals_the_full_image(pair, make_raster, monkeypatch, size):
    monkeypatch.setattr("georsr.evaluation.raster_comparison.METRICS_BLOCK", size)
    truth, worse = pair
    report = compare(make_raster(worse, "a.tif"), make_raster(truth, "b.tif"))
    for band in range(2):
        assert report.psnr[band] == pytest.approx(psnr(worse[band], truth[band]))
        assert report.ssim[band] == pytest.approx(ssim(worse[band], truth[band]), abs=1e-9)
    assert report.pixels == 600 * 60
    assert "SSIM" in report.describe()


def test_compare_leaves_out_invalid_pixels(pair, make_raster):
    truth, worse = pair
    truth, worse = np.maximum(truth, 1), np.maximum(worse, 1)
    holed = worse.copy()
    holed[:, 100:300, 20:30] = 0
    a, b = make_raster(holed, "a.tif", nodata=0), make_raster(truth, "b.tif", nodata=0)
    report = compare(a, b)
    keep = np.ones(truth.shape[1:], bool)
    keep[100:300, 20:30] = False
    assert report.psnr[0] == pytest.approx(psnr(worse[0][keep], truth[0][keep]))
    assert report.pixels == keep.sum()
    assert 0 < report.ssim[0] < 1


def test_compare_aligns_by_geotransform(pair, make_raster):
    truth, _ = pair
    grid = Affine(0.5, 0, 400000, 0, -0.5, 5000000)
    part = make_raster(truth[:, 40:90, 7:50], "a.tif", transform=grid @ Affine.translation(7, 40))
    report = compare(part, make_raster(truth, "b.tif", transform=grid))
    assert report.psnr == (float("inf"),) * 2
    assert report.pixels == 50 * 43


def test_compare_of_unrelated_rasters_fails(pair, make_raster):
    truth, _ = pair
    base = make_raster(truth, "base.tif")
    grid = Affine(0.5, 0, 400000, 0, -0.5, 5000000)
    for name, change, error, message in (
        ("bands.tif", {"values": truth[:1]}, UsageError, "has 1 bands"),
        (
            "shift.tif",
            {"transform": grid @ Affine.translation(0.4, 0)},
            UsageError,
            "pixel grid",
        ),
        (
            "size.tif",
            {"transform": grid @ Affine.scale(2)},
            UsageError,
            r"size.tif has pixels of 1 x -1, .*base.tif of 0.5 x -0.5: .* name it with lr_path",
        ),
        ("far.tif", {"transform": grid @ Affine.translation(9999, 0)}, InputError, "not overlap"),
    ):
        values = change.pop("values", truth)
        with pytest.raises(error, match=message):
            compare(make_raster(values, name, **change), base)
    empty = make_raster(np.zeros_like(truth), "empty.tif", nodata=0)
    with pytest.raises(InputError, match="no valid pixel"):
        compare(empty, base)


def test_compare_spectral_metrics_with_masks(texture, make_raster):
    truth = np.maximum(texture(3, 300, 40), 1)
    worse = np.maximum(truth // 2 + texture(3, 300, 40, seed=1) // 3, 1)
    a, b = make_raster(worse, "a.tif"), make_raster(truth, "b.tif")
    report = compare(a, b, scale=4)
    assert report.sam == pytest.approx(spectral_angle(worse, truth))
    assert report.ergas == pytest.approx(ergas(worse, truth, 4))
    assert np.isnan(compare(a, b).ergas)
    assert "ERGAS needs" in compare(a, b).describe()
    holed = worse.copy()
    holed[1, 250:, 10:20] = 0
    part = compare(make_raster(holed, "c.tif", nodata=0), b, scale=4)
    keep = holed[1] > 0
    assert part.sam == pytest.approx(spectral_angle(worse[:, keep], truth[:, keep]))
    tagged = make_raster(worse, "d.tif", after=lambda d: d.update_tags(GEORSR_SCALE="2"))
    assert compare(tagged, b).ergas == pytest.approx(ergas(worse, truth, 2))


def test_compare_measures_the_shift(make_raster):
    y, x = np.indices((400, 300))
    waves = np.random.default_rng(0).uniform(-0.09, 0.09, (80, 2))

    def scene(dy, dx):
        planes = (np.cos(2 * np.pi * (u * (y - dy) + v * (x - dx)) + 50 * u) for u, v in waves)
        return np.rint(20 * sum(planes) + 5000)[None].astype("uint16")

    a, b = make_raster(scene(0.5, -1.25), "a.tif"), make_raster(scene(0, 0), "b.tif")
    report = compare(a, b)
    assert report.shift == pytest.approx((0.5, -1.25), abs=0.02)
    assert "+0.500 pixels down" in report.describe()


def test_compare_with_source_measures_scale_and_consistency(texture, make_raster):
    grid = Affine(0.5, 0, 400000, 0, -0.5, 5000000)
    truth = texture(3, 40, 60, "uint16") // 2 + 9000
    exact = bicubic_downsample(truth, 2)
    down = np.rint(exact).astype("uint16")
    source = np.concatenate([np.zeros_like(down[:1]), down])
    lr = make_raster(source, "lr.tif", transform=grid @ Affine.scale(2))
    hr = make_raster(truth, "hr.tif", transform=grid)
    report = compare_with_source(hr, hr, lr, bidx=(2, 3, 4))
    assert report.scale == 2
    assert report.consistency.mean == pytest.approx(np.abs(exact - down).mean(), rel=0.01)
    bicubic = compare_bicubic(lr, hr, hr, bidx=(2, 3, 4))
    assert bicubic.consistency.mean > 2 * report.consistency.mean
    assert bicubic.ergas > report.ergas == 0
    with pytest.raises(UsageError, match="with indexes"):
        compare_with_source(hr, hr, lr, bidx=(2, 3))


def test_compare_bicubic_measures_the_source_enlarged(texture, make_raster):
    grid = Affine(0.5, 0, 400000, 0, -0.5, 5000000)
    truth = texture(1, 40, 60)
    lr = make_raster(truth[:, ::2, ::2], "lr.tif", transform=grid @ Affine.scale(2))
    hr = make_raster(truth, "hr.tif", transform=grid)
    report = compare_bicubic(lr, hr, hr)
    assert report.sr.startswith("bicubic of")
    assert report.psnr[0] < 20
    with pytest.raises(UsageError, match="enlarged 1 to 8 times"):
        compare_bicubic(make_raster(truth[:, :39], "odd.tif"), hr, hr)


def test_compare_bicubic_measures_consistency_by_the_kernel_of_the_output(
    texture, make_raster, tmp_path
):
    grid = Affine(0.5, 0, 400000, 0, -0.5, 5000000)
    lr = make_raster(texture(1, 20, 30), "lr.tif", transform=grid @ Affine.scale(2))
    sr = str(tmp_path / "sr.tif")
    super_resolve(lr, sr, "bicubic-x2", consistency="on", consistency_kernel="mean")
    own = compare_with_source(sr, sr, lr).consistency
    bicubic = compare_bicubic(lr, sr, sr).consistency
    assert own.degradation == bicubic.degradation == "kernel mean"

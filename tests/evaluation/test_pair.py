import numpy as np
import pytest
from affine import Affine

from georsr.errors import InputError, UsageError
from georsr.evaluation.metrics import psnr, ssim
from georsr.evaluation.pair import bicubic_of, compare_rasters


@pytest.fixture
def pair(texture):
    truth = texture(2, 600, 60)
    noise = np.random.default_rng(1).normal(0, 9, truth.shape)
    return truth, np.clip(truth + noise, 0, 255).astype("uint8")


def test_strips_measure_what_the_whole_measures(pair, make_raster):
    truth, worse = pair
    report = compare_rasters(make_raster(worse, "a.tif"), make_raster(truth, "b.tif"))
    for band in range(2):
        assert report.psnr[band] == pytest.approx(psnr(worse[band], truth[band]))
        assert report.ssim[band] == pytest.approx(ssim(worse[band], truth[band]), abs=1e-9)
    assert report.pixels == 600 * 60
    assert "SSIM" in report.describe()


def test_invalid_pixels_do_not_count(pair, make_raster):
    truth, worse = pair
    truth, worse = np.maximum(truth, 1), np.maximum(worse, 1)
    holed = worse.copy()
    holed[:, 100:300, 20:30] = 0
    a, b = make_raster(holed, "a.tif", nodata=0), make_raster(truth, "b.tif", nodata=0)
    report = compare_rasters(a, b)
    keep = np.ones(truth.shape[1:], bool)
    keep[100:300, 20:30] = False
    assert report.psnr[0] == pytest.approx(psnr(worse[0][keep], truth[0][keep]))
    assert report.pixels == keep.sum()
    assert 0 < report.ssim[0] < 1


def test_rasters_are_aligned_by_their_geotransform(pair, make_raster):
    truth, _ = pair
    grid = Affine(0.5, 0, 400000, 0, -0.5, 5000000)
    part = make_raster(truth[:, 40:90, 7:50], "a.tif", transform=grid @ Affine.translation(7, 40))
    report = compare_rasters(part, make_raster(truth, "b.tif", transform=grid))
    assert report.psnr == (float("inf"),) * 2
    assert report.pixels == 50 * 43


def test_what_cannot_be_compared_says_why(pair, make_raster):
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
        ("size.tif", {"transform": grid @ Affine.scale(2)}, UsageError, "pixel grid"),
        ("far.tif", {"transform": grid @ Affine.translation(9999, 0)}, InputError, "not overlap"),
    ):
        values = change.pop("values", truth)
        with pytest.raises(error, match=message):
            compare_rasters(make_raster(values, name, **change), base)
    empty = make_raster(np.zeros_like(truth), "empty.tif", nodata=0)
    with pytest.raises(InputError, match="no valid pixel"):
        compare_rasters(empty, base)


def test_bicubic_of_the_source_stands_beside(texture, make_raster):
    grid = Affine(0.5, 0, 400000, 0, -0.5, 5000000)
    truth = texture(1, 40, 60)
    lr = make_raster(truth[:, ::2, ::2], "lr.tif", transform=grid @ Affine.scale(2))
    hr = make_raster(truth, "hr.tif", transform=grid)
    report = bicubic_of(lr, hr, hr)
    assert report.sr.startswith("bicubic of")
    assert report.psnr[0] < 20
    with pytest.raises(UsageError, match="enlarged 1 to 4 times"):
        bicubic_of(make_raster(truth[:, :39], "odd.tif"), hr, hr)

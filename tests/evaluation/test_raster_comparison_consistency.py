"""An output degraded again against the source, block by block and round masks."""

import numpy as np
import pytest
from affine import Affine

from georsr.api import super_resolve
from georsr.errors import InputError, UsageError
from georsr.evaluation.metrics import psnr
from georsr.evaluation.raster_comparison import (
    linear_degradation,
    measure_consistency,
    recorded_kernel,
)
from georsr.io.reader import open_raster
from georsr.radiometry.degradation import BicubicDegradation, SensorDegradation, bicubic_downsample
from georsr.radiometry.kernels import parse_kernel

GRID = Affine(0.5, 0, 400000, 0, -0.5, 5000000)


@pytest.fixture
def measure(make_raster):
    def run(sr, lr, degradation=None, *, sr_profile=None, lr_profile=None):
        scale = sr.shape[1] // lr.shape[1]
        fine = make_raster(sr, "sr.tif", transform=GRID, **(sr_profile or {}))
        coarse = GRID @ Affine.scale(scale)
        source = make_raster(lr, "lr.tif", transform=coarse, **(lr_profile or {}))
        with open_raster(fine) as a, open_raster(source) as b:
            return measure_consistency(a, b, degradation or BicubicDegradation())

    return run


@pytest.mark.parametrize(
    "degradation",
    [
        BicubicDegradation(),
        SensorDegradation(mtf=(0.2, 0.2)),
        SensorDegradation(mtf=(0.3, 0.3), sharpen=(0.7, 0.7)),
    ],
)
def test_measure_consistency_in_blocks_equals_the_full_image(
    measure, texture, degradation, monkeypatch
):
    monkeypatch.setattr("georsr.evaluation.raster_comparison.CONSISTENCY_BLOCK", 16)
    sr = texture(2, 4 * 150, 4 * 20)
    whole = linear_degradation(degradation, 4).apply(sr.astype("float32"), 4)
    lr = np.clip(np.rint(whole + 1), 0, 255).astype("uint8")
    report = measure(sr, lr, degradation)
    expected = np.abs(whole - lr).mean((1, 2))
    assert report.mae == pytest.approx(expected)
    assert report.psnr[0] == pytest.approx(psnr(whole[0], lr[0]))
    assert report.pixels == 150 * 20


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_measure_consistency_does_not_round_block_averages(measure, dtype):
    sr = np.full((1, 32, 32), 100, dtype)
    sr[:, ::4, ::4] = 104  # averages of 100.25
    report = measure(sr, np.full((1, 8, 8), 100, dtype), parse_kernel("mean"))
    assert report.mean == pytest.approx(0.25)


def test_measure_consistency_agrees_with_the_report_of_the_run(make_raster, texture, tmp_path):
    source = make_raster(texture(3, 64, 64), "scene.tif")
    output = tmp_path / "out.tif"
    run = super_resolve(source, output, "segsr-lite-x4", consistency_kernel="mean").consistency
    with open_raster(output) as a, open_raster(source) as b:
        report = measure_consistency(a, b, recorded_kernel(a))
    assert 0 < report.mean == pytest.approx(run.output_mean, rel=1e-4)
    assert report.mae == pytest.approx(run.band_mean, rel=1e-4)


def test_measure_consistency_of_repeated_pixels_is_exact(measure, texture):
    lr = texture(3, 20, 30, "uint16")
    report = measure(lr.repeat(2, 1).repeat(2, 2), lr, parse_kernel("mean"))
    assert report.mean == 0
    assert report.psnr == (float("inf"),) * 3


def test_measure_consistency_excludes_kernels_over_invalid_pixels(measure, texture):
    truth = np.maximum(texture(1, 80, 80), 1)
    lr = np.maximum(np.clip(np.rint(bicubic_downsample(truth, 2)), 0, 255).astype("uint8"), 1)
    full = measure(truth, lr, sr_profile={"nodata": 0}, lr_profile={"nodata": 0})
    holed = truth.copy()
    holed[:, 20:22, 20:22] = 0
    report = measure(holed, lr, sr_profile={"nodata": 0}, lr_profile={"nodata": 0})
    assert report.pixels == full.pixels - 5 * 5
    assert report.mean <= full.mean * 1.1
    with pytest.raises(InputError, match="no valid pixel"):
        measure(np.zeros_like(truth), lr, sr_profile={"nodata": 0})


def test_measure_consistency_of_unrelated_rasters_fails(measure, texture, make_raster):
    sr, lr = texture(1, 40, 40), texture(1, 20, 20)
    with pytest.raises(UsageError, match="with indexes"):
        measure(sr, texture(3, 20, 20))
    with pytest.raises(UsageError, match="a sensor of one MTF"):
        measure(sr, lr, SensorDegradation())
    with pytest.raises(UsageError, match="enlarged 1 to 8 times"):
        measure(sr, texture(1, 20, 19))
    moved = make_raster(lr, "moved.tif", transform=GRID @ Affine.translation(0.3, 0))
    fine = make_raster(sr, "fine.tif", transform=GRID @ Affine.scale(0.5))
    with (
        open_raster(fine) as a,
        open_raster(moved) as b,
        pytest.raises(UsageError, match="same ground"),
    ):
        measure_consistency(a, b, BicubicDegradation())

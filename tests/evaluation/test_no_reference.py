"""Products without truth: a sharper one, a noisier one, and one that rings are told apart."""

import json
import math

import numpy as np
import pytest
from affine import Affine

import georsr
from georsr.errors import InputError, UsageError
from georsr.evaluation.no_reference import measure_no_reference
from georsr.radiometry.degradation import bicubic_downsample

GRID = Affine(0.5, 0, 400000, 0, -0.5, 5000000)


def town(size, seed=0):
    """Flat roofs with straight edges in every direction on level ground, (1, size, size)."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size), dtype=float)
    image = np.full((size, size), 90.0)
    for row in range(60, size - 59, 120):
        for column in range(60, size - 59, 120):
            angle, level = rng.uniform(0, np.pi), rng.choice([40.0, 200.0])
            along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
            across = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
            roof = np.clip(36 - np.abs(along), 0, 1) * np.clip(36 - np.abs(across), 0, 1)
            image += (level - 90) * roof
    return image[None]


@pytest.fixture
def files(make_raster):
    """Write SR (1, H, W) and its LR, degraded and with noise of one grey level."""

    def write(truth, output, nodata=None):
        noise = np.random.default_rng(5).normal(0, 1, (1, *[n // 4 for n in truth.shape[1:]]))
        lr = np.rint(bicubic_downsample(truth, 4) + noise).astype("float32")
        if nodata is not None:
            lr[:, :40] = nodata
        coarse = GRID @ Affine.scale(4)
        return (
            make_raster(output.astype("float32"), "sr.tif", transform=GRID),
            make_raster(lr, "lr.tif", transform=coarse, nodata=nodata),
        )

    return write


def test_no_reference_of_a_sharp_output_beats_bicubic(files):
    truth = town(600)
    sharp = truth + np.random.default_rng(6).normal(0, 0.5, truth.shape)
    report = measure_no_reference(*files(truth, sharp))
    bicubic, output = report.images
    assert report.scale == 4
    assert report.edges > 20
    assert output.edge_width < 0.4 < 0.9 < bicubic.edge_width
    assert output.edge_ratio < 0.45
    assert bicubic.edge_ratio == 1
    assert output.overshoot < 2 < bicubic.overshoot
    assert output.noise == pytest.approx(0.5, rel=0.1)
    assert output.noise_ratio == pytest.approx(output.noise / bicubic.noise, rel=0.1)
    assert output.power[-1] > bicubic.power[-1]
    assert report.consistency.mean == pytest.approx(0.8, abs=0.1)
    assert json.loads(report.to_json())["images"][1]["edge_width"] == output.edge_width
    assert "10-90 % width" in report.describe()


def test_no_reference_without_source_needs_a_scale(files, make_raster):
    truth = town(400)
    output, _ = files(truth, truth + np.random.default_rng(0).normal(0, 1, truth.shape))
    with pytest.raises(UsageError, match="lr_path"):
        measure_no_reference(output)
    report = measure_no_reference(output, scale=4)
    assert len(report.images) == 1
    assert report.images[0].edge_width < 0.6
    assert math.isnan(report.images[0].noise_ratio)
    tagged = make_raster(
        truth.astype("uint8"), "tagged.tif", after=lambda d: d.update_tags(GEORSR_SCALE="2")
    )
    assert measure_no_reference(tagged).scale == 2


def test_no_reference_leaves_out_invalid_pixels(files):
    truth = town(400)
    whole = measure_no_reference(*files(truth, truth))
    part = measure_no_reference(*files(truth, truth, nodata=-9999.0))
    assert 0 < part.edges < whole.edges
    assert part.images[0].edge_width == pytest.approx(whole.images[0].edge_width, rel=0.1)
    assert max(p.noise for p in part.images) < 5


def test_no_reference_without_valid_pixels_fails(make_raster):
    empty = make_raster(np.zeros((1, 64, 64), "uint8"), nodata=0)
    with pytest.raises(InputError, match="valid pixels"):
        measure_no_reference(empty, scale=2)


def test_measure_no_reference_takes_the_kernel_of_the_tags(make_raster, texture, tmp_path):
    source, out = make_raster(texture(3, 60, 60)), str(tmp_path / "o.tif")
    georsr.super_resolve(source, out, "segsr-lite-x2", consistency_kernel="mean")
    report = measure_no_reference(out, source)
    assert report.consistency.degradation == "kernel mean"

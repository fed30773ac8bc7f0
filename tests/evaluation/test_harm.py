"""Harm without truth: bicubic does none, and what is added to it is found in its right amount."""

import json
import math

import numpy as np
import pytest
import torch
from affine import Affine
from georsr.cli.main import invoke
from torch import nn

import georsr
from georsr.config import SRConfig
from georsr.evaluation.harm import HarmReport, fine_detail, noise_gain, unsteady_detail
from georsr.evaluation.no_reference import measure_no_reference
from georsr.evaluation.reports.output_report import report_output
from georsr.models.interpolation import Bicubic, Nearest
from georsr.models.io import Model
from georsr.models.spec import ModelSpec

COARSE = Affine(10, 0, 400000, 0, -10, 5000000)
FINE = Affine(5, 0, 400000, 0, -5, 5000000)
FIXED = SRConfig(stretch="0,255", dtype="float32", consistency="off")


def fields(noise=1.0, size=160):
    """Large level fields with noise, (1, size, size) float32."""
    rng = np.random.default_rng(0)
    levels = rng.integers(60, 200, (size // 40, size // 40)).astype("float32")
    return (np.kron(levels, np.ones((40, 40))) + rng.normal(0, noise, (size,) * 2))[None].astype(
        "float32"
    )


def bicubic(values):
    with torch.inference_mode():
        return Bicubic(2)(torch.from_numpy(values)[None])[0].numpy()


@pytest.fixture
def report(make_raster):
    """measured(source, output) -> what is said of them."""

    def measured(source, output):
        lr = make_raster(source, "lr.tif", transform=COARSE)
        return measure_no_reference(make_raster(output, "sr.tif", transform=FINE), lr)

    return measured


@pytest.mark.parametrize(
    ("figures", "verdicts"),
    [
        ((0.89, 1.4, 0.63, 2.7), ["good", "good", "good", "good"]),
        ((1.05, 3.0, 1.05, 5.0), ["good", "good", "good", "good"]),
        ((1.25, 3.1, 1.28, 8.5), ["fair", "fair", "fair", "fair"]),
        ((1.31, 10.1, 1.58, 10.1), ["poor", "poor", "poor", "poor"]),
        ((math.nan, math.nan, math.nan, math.nan), ["-", "-", "-", "-"]),
    ],
)
def test_harm_report_describe_gives_each_figure_its_verdict(figures, verdicts):
    roughness, overshoot, gain, unsteady = figures
    found = HarmReport(roughness, overshoot, 0.2, gain, unsteady, "")
    lines = found.describe().splitlines()[1:]
    assert [line.split("  (")[0].split()[-1] for line in lines] == verdicts
    assert "(3, 10)" in lines[1]


def test_measure_harm_of_bicubic_is_neutral(report):
    source = fields()
    harm = report(source, bicubic(source)).harm
    assert harm.roughness == pytest.approx(1, abs=1e-6)
    assert harm.overshoot == pytest.approx(harm.bicubic_overshoot, abs=1e-6)
    assert harm.overshoot > 0
    assert math.isnan(harm.noise_gain)
    assert "not requested" in harm.describe()


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_harm_roughness_measures_added_noise(report, sigma):
    source = fields()
    output = bicubic(source)
    added = np.random.default_rng(1).normal(0, sigma, output.shape).astype("float32")
    found = report(source, output + added)
    flat = found.images[0].noise
    assert found.harm.roughness == pytest.approx(math.hypot(flat, sigma) / flat, rel=0.05)


def test_harm_overshoot_measures_added_overshoot(report):
    """One pixel in 64 goes 6 beyond a source of range 1, and one in 64 goes 2 below it."""
    board = (100 + np.indices((64, 64)).sum(0) % 2)[None].astype("float32")
    output = bicubic(board)
    before = report(board, output).harm
    output[:, 5::8, 5::8] = 101 + 6
    output[:, 1::8, 1::8] = 100 - 2
    after = report(board, output).harm
    assert after.bicubic_overshoot == before.overshoot
    assert after.overshoot == pytest.approx(before.overshoot * 62 / 64 + 100 * 8 / 64, abs=0.5)


def test_harm_overshoot_within_the_source_is_zero(report):
    source = fields(noise=5)
    assert report(source, source.repeat(2, 1).repeat(2, 2)).harm.overshoot == 0
    flat = np.full((1, 64, 64), 9, "float32")
    assert math.isnan(report(flat, flat.repeat(2, 1).repeat(2, 2)).harm.overshoot)


class Made(nn.Module):
    """Enlarge by a fixed rule: ``gain`` times bicubic, or nearest and a pattern."""

    def __init__(self, gain=1.0, pattern=None):
        super().__init__()
        self.gain, self.pattern, self.bicubic = gain, pattern, Bicubic(2)

    def forward(self, x):
        if self.pattern is None:
            return self.gain * self.bicubic(x)
        return Nearest(2)(x) + self.pattern[: 2 * x.shape[2], : 2 * x.shape[3]]


def model(**how):
    spec = ModelSpec("made", "bicubic", 2, bands=0, band_names=())
    return Model(spec, Made(**how).eval(), "0" * 64, "made")


@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0])
def test_noise_gain_equals_the_gain_of_the_model(gain):
    source, spans = fields()[:, :128, :128], np.full((1, 1, 1), 255, "float32")
    found = noise_gain(source, spans, model(gain=gain), FIXED)
    assert found == pytest.approx(gain, rel=1e-3)


def test_unsteady_detail_of_a_fixed_filter_is_zero():
    source = fields(noise=20)[:, :96, :96]
    assert unsteady_detail(source, model(gain=2.0), FIXED) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("sigma", [2.0, 20.0])
def test_unsteady_detail_measures_invented_detail(sigma):
    source = fields(noise=20)[:, :96, :96]
    drawn = np.random.default_rng(3).normal(0, sigma / 255, (512, 512)).astype("float32")
    found = unsteady_detail(source, model(pattern=torch.from_numpy(drawn)), FIXED)
    steady = np.square(fine_detail(source.repeat(2, 1).repeat(2, 2), 2)).mean()
    made_up = np.square(fine_detail(255 * drawn[None, :192, :192], 2)).mean()
    assert found == pytest.approx(100 * made_up / (made_up + steady), rel=0.1)


def test_unsteady_detail_without_detail_is_nan():
    flat = np.full((1, 64, 64), 80, "float32")
    assert math.isnan(unsteady_detail(flat, model(), FIXED))


def test_harm_runs_the_model_of_the_output(make_raster, tmp_path, capsys):
    source = make_raster(np.rint(fields()).astype("uint8"), "in.tif", transform=COARSE)
    out = str(tmp_path / "out.tif")
    georsr.super_resolve(source, out, "bicubic-x2")
    assert invoke(["eval", out, "--lr", source, "--json"]) == 0
    harm = json.loads(capsys.readouterr().out)["harm"]
    assert harm["noise_gain"] == pytest.approx(1, abs=1e-3)
    assert harm["unsteady"] == pytest.approx(0, abs=1e-4)
    assert harm["missing"] == ""
    assert invoke(["eval", out, "--lr", source]) == 0
    text = capsys.readouterr().out
    assert "gain of noise on flat ground" in text
    assert report_output(source, out).sharpness.harm.noise_gain == harm["noise_gain"]
    assert report_output(source, out, seams=False).sharpness.harm.missing == "not requested"


def test_harm_of_foreign_outputs_says_what_is_missing(make_raster, tmp_path, capsys):
    source = fields()
    lr = make_raster(source, "lr.tif", transform=COARSE)
    sr = make_raster(bicubic(source), "sr.tif", transform=FINE)
    assert invoke(["eval", sr, "--lr", lr]) == 0
    out = capsys.readouterr().out
    assert "not measured" in out
    assert "GEORSR_MODEL" in out
    assert "roughness of flat ground" in out

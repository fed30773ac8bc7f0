"""Outputs of a part of their source, and of bands that were found, are measured like others."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from georsr.cli.main import invoke

import georsr
from georsr.evaluation.no_reference import measure_no_reference
from georsr.evaluation.raster_comparison import compare_bicubic, compare_with_source
from georsr.evaluation.reports.output_report import report_output
from georsr.evaluation.seams import measure_seams
from georsr.models.io import open_model


@pytest.fixture
def stack(make_raster, texture):
    """13 bands named as those of Sentinel-2."""

    def name(dataset):
        dataset.descriptions = [f"B{number:02}" for number in range(1, 14)]

    values = texture(13, 96, 96, "uint16") // 16 + 100
    return make_raster(values.repeat(2, 1).repeat(2, 2), photometric="MINISBLACK", after=name)


@pytest.fixture
def part(stack, tmp_path):
    """An output of three bands of a quarter of the stack."""
    with rasterio.open(stack) as dataset:
        left, bottom, right, top = dataset.bounds
    bounds = (left + 40, bottom + 40, right, top)
    out = str(tmp_path / "part.tif")
    georsr.super_resolve(stack, out, "bicubic-x2", indexes=(4, 3, 2), bounds=bounds)
    return out


def test_report_output_of_a_part_compares_common_ground(stack, part):
    report = report_output(stack, part, seams=False)
    assert report.bidx == (4, 3, 2)
    assert report.scale == 2
    assert report.consistency.pixels == 112 * 112
    assert report.consistency.mean < 400
    assert [each.band for each in report.histograms] == [
        "4 (B04), red",
        "3 (B03), green",
        "2 (B02), blue",
    ]


def test_quality_report_page_has_verdicts(stack, part, tmp_path):
    page = tmp_path / "page.html"
    assert invoke(["quality", "report", stack, part, "--html", str(page), "--no-seams"]) == 0
    text = page.read_text()
    assert "good: the shift is negligible" in text
    assert "of their range" in text


def test_eval_source_of_a_part_is_compared_on_common_ground(stack, part, capsys):
    sharp = measure_no_reference(part, stack)
    assert sharp.scale == 2
    truth = compare_with_source(part, part, stack)
    assert truth.rmse == (0, 0, 0)
    bicubic = compare_bicubic(stack, part, part)
    assert bicubic.pixels == truth.pixels
    assert max(bicubic.rmse) < 1
    assert invoke(["eval", part, "--lr", stack, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scale"] == 2


def test_measure_seams_finds_the_bands(stack):
    model = open_model("segsr-lite-x2")
    found = measure_seams(stack, model, tile_size=64)
    named = measure_seams(stack, model, tile_size=64, indexes=(4, 3, 2))
    assert found.mean == named.mean


def test_export_int8_finds_the_bands(stack, tmp_path):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "m.onnx"
    arguments = ["export", "segsr-lite-x2", str(out), "--tile", "32", "--int8", stack, "-q"]
    assert invoke(arguments) == 0


def test_cropped_reader_reads_as_a_raster_of_its_own(stack):
    from georsr.io.reader import open_raster
    from georsr.window import Window

    with open_raster(stack) as reader:
        whole = reader.read(Window(10, 20, 30, 40)).values
        with reader.cropped(Window(10, 20, 30, 40)) as part:
            assert (part.info.height, part.info.width) == (30, 40)
            assert part.info.transform == reader.info.transform @ Affine.translation(20, 10)
            assert np.array_equal(part.read(Window(0, 0, 30, 40)).values, whole)
            assert np.array_equal(part.sample().values, whole.reshape(13, -1))

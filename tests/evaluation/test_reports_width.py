"""Pages of reports fit a window of 1280 pixels, measured in a headless Chromium."""

import pytest
from georsr.cli.main import invoke

import georsr
from georsr.evaluation.benchmark import BenchmarkReport, ImageMetrics
from georsr.evaluation.pair_gains import Score
from georsr.evaluation.reports.benchmark_report import html_page
from georsr.evaluation.reports.pairs_report import PairRow, PairsReport, pairs_page, summarize

from ..chromium import Chromium, find_chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="needs Chromium: apt-get install chromium"),
]
NAMES = [f"a_model_of_a_long_name-{'x' * n}-x4 (wrong guidance)" for n in range(3, 12)]
WIDEST = "Math.max(...[...document.querySelectorAll('*')].map((e) => e.scrollWidth))"


@pytest.fixture
def width_of(tmp_path):
    """width_of(page) -> width in pixels of its widest element in a window of 1280 pixels."""

    def measure(page):
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8")
        (tmp_path / "profile").mkdir()
        with Chromium(tmp_path / "profile") as browser:
            browser.open(path.as_uri())
            return browser.evaluate(WIDEST)

    return measure


def test_page_of_a_benchmark_of_nine_models_fits_1280_pixels(width_of):
    figures = ImageMetrics(100, 27.292, 0.6836, 25.659, 1.484, 2.653, 12.515, 37.59, 0.01, 0.01, 1)
    models = dict.fromkeys(["bicubic-x4", *NAMES], figures)
    classes = dict.fromkeys(("agricultural", "a_class_of_a_long_name" * 3), models)
    assert width_of(html_page(BenchmarkReport("photos", 4, models, classes))) <= 1280


def test_page_of_pairs_with_nine_models_fits_1280_pixels(width_of):
    gains = {name: Score(-12.3456, 0.1) for name in NAMES}
    rows = [
        PairRow("s2_" + "x" * n, 2, "grey", (1.0,), (0.0, 0.0), Score(30.0, 0.5), gains, (0.3, 0.1))
        for n in (10, 60)
    ]
    report = PairsReport("pairs", summarize(rows), tuple(rows), (), "auto", "cpu", "fp32")
    page = pairs_page(report, [])
    assert page.count(">a_model_of_a_long_name-xxx-x4") == 2
    assert width_of(page) <= 1280


def test_page_of_an_output_fits_1280_pixels(make_raster, texture, tmp_path, width_of):
    def name(dataset):
        for number in dataset.indexes:
            dataset.set_band_description(number, f"B{number:02}, surface reflectance {'x' * 60}")

    source = make_raster(texture(5, 60, 70, "uint16"), f"{'scene_' * 20}.tif", after=name)
    out, page = tmp_path / "out.tif", tmp_path / "report.html"
    georsr.super_resolve(source, out, "bicubic-x4")
    assert invoke(["quality", "report", source, str(out), "--html", str(page), "--no-seams"]) == 0
    assert width_of(page.read_text(encoding="utf-8")) <= 1280

"""The quality report of an output: what it measures, and a page that needs nothing else."""

import json
import re
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import rasterio
from affine import Affine
from georsr.cli.main import invoke

import georsr
from georsr.evaluation.reports import output_report
from georsr.evaluation.reports.figures import bicubic_block, detailed_windows, display_stretch
from georsr.evaluation.reports.output_report import collect_images, render_html, report_output
from georsr.evaluation.seams import measure_seams
from georsr.io.reader import RasterReader, open_raster
from georsr.window import Window


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A scene with a hole, its output by a bundled model, and the output's layers."""
    folder = tmp_path_factory.mktemp("pair")
    values = np.random.default_rng(0).integers(60, 124, (3, 40, 52)).astype(np.uint8)
    values[:, :2, :2] = 0
    source, out, layers = (str(folder / name) for name in ("in.tif", "out.tif", "q.tif"))
    grid = {"crs": "EPSG:32632", "transform": Affine(1, 0, 4e5, 0, -1, 5e6), "nodata": 0}
    size = {"count": 3, "height": 40, "width": 52, "dtype": "uint8"}
    with rasterio.open(source, "w", driver="GTiff", **size, **grid) as dataset:
        dataset.write(values)
    georsr.super_resolve(source, out, "segsr-lite-x2", quality=layers, consistency="off")
    return source, out, layers


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("count", "options"),
    [
        (4, {"output_bands": "all", "indexes": (1, 2, 3)}),
        (13, {"output_bands": "all", "indexes": (4, 3, 2)}),
        (13, {"output_bands": "all", "other_bands": "per-band"}),
        (4, {"indexes": (3, 2, 1)}),
        (1, {}),
    ],
)
def test_report_output_of_any_bands_runs_the_model_as_the_run_did(
    make_raster, texture, tmp_path, monkeypatch, backend, count, options
):
    source, out = make_raster(texture(count, 72, 72)), str(tmp_path / "out.tif")
    georsr.super_resolve(source, out, "segsr-lite-x2-sensor", backend=backend, **options)
    monkeypatch.setattr(
        output_report, "measure_seams", partial(measure_seams, tile_size=32, backend=backend)
    )
    report = report_output(source, out)
    assert report.seams_missing == ""
    assert report.seams.mean > 0
    assert report.sharpness.harm.missing == ""


def test_render_html_of_a_band_without_a_sampled_pixel_keeps_the_rows_of_the_others(
    pair, monkeypatch
):
    sample = RasterReader.sample

    def without_the_first_band(reader):
        found = sample(reader)
        found.valid[0] = False
        return found

    monkeypatch.setattr(RasterReader, "sample", without_the_first_band)
    report = report_output(*pair[:2], seams=False)
    page = render_html(report, collect_images(report))
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall(r"<tr>\s*<td>.*?</tr>", page)]
    assert [row[5] for row in rows] == [f"{mae:.5g}" for mae in report.consistency.mae]
    assert rows[0][1:5] == ["nan"] * 4
    assert page.count('<path class="after"') == 2


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "br", "path", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_output_measures_histograms(pair):
    source, out, _ = pair
    report = report_output(source, out, seams=False)
    assert report.scale == 2
    with rasterio.open(source) as old, rasterio.open(out) as new:
        before, after = old.read(masked=True), new.read(masked=True)
    for number, each in enumerate(report.histograms):
        assert each.means == pytest.approx((before[number].mean(), after[number].mean()))
        assert sum(each.before) == pytest.approx(1, abs=0.01)
        assert sum(each.after) == pytest.approx(1, abs=0.01)
    assert report.consistency.mean > 0
    assert json.loads(report.to_json())["tags"]["GEORSR_MODEL"] == "segsr-lite-x2"


def test_output_page_is_self_contained(pair, tmp_path, capsys):
    source, out, layers = pair
    page = tmp_path / "report.html"
    arguments = ["quality", "report", source, out, "--html", str(page), "--layers", layers]
    assert invoke([*arguments, "--no-seams", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    text = page.read_text()
    parsed = Tags(text)
    assert not parsed.open
    for tag, attributes in parsed.seen:
        address = attributes.get("src") or attributes.get("href") or "data:"
        assert address.startswith("data:"), (tag, address[:80])
    assert not re.search(r"//[a-z]", re.sub(r"data:[^\"]*", "", text))
    assert "synthesised detail" in text
    roughness = figures["sharpness"]["harm"]["roughness"]
    expected = rf"{roughness:.3g} x bicubic.*<span class=\"poor\">poor: the added roughness"
    assert re.search(expected, text)
    assert "unsteady detail</dt><dd>not measured: not requested" in text
    assert f"{figures['consistency']['mae'][0]:.5g}" in text
    images = [a for tag, a in parsed.seen if tag == "img"]
    swipes = [a for tag, a in parsed.seen if tag == "input"]
    assert len(images) == 3 + 2 * len(swipes)
    assert swipes
    assert invoke(arguments) == 2  # exists
    assert "overwrite" in capsys.readouterr().err


def test_report_output_of_another_source_fails(pair, make_raster, texture, tmp_path, capsys):
    _, out, _ = pair
    other = make_raster(texture(3, 33, 47), "other.tif")
    assert invoke(["quality", "report", other, out, "--html", str(tmp_path / "r.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "r.html").exists()


def test_quality_report_without_target_fails(pair, capsys):
    assert invoke(["quality", "report", *pair[:2]]) == 2
    assert "--html" in capsys.readouterr().err


def test_detailed_windows_shows_texture_rather_than_a_large_step(make_raster):
    values = np.full((1, 200, 300), 100, np.uint8)
    values[:, :, 24:48] = 200  # the largest standard deviation, without detail
    texture = np.random.default_rng(0).integers(90, 111, (1, 60, 60))
    values[:, 100:160, 180:240] = texture
    values[:, 100:160:8, 180:240:8] = 0  # scattered pixels without data
    with open_raster(make_raster(values, nodata=0)) as reader:
        first, *others = detailed_windows(reader, 48, 3)
    assert first.intersection(Window(100, 180, 60, 60)).width >= 40
    assert first.intersection(Window(100, 180, 60, 60)).height >= 40
    assert len(others) == 2


def test_display_stretch_shows_invalid_pixels_white(pair):
    with open_raster(pair[0]) as reader:
        tones = display_stretch(reader)
        picture = tones.to_rgb(reader.read_decimated(40, 52))
        windows = detailed_windows(reader, 16, 3)
        patch = reader.read(windows[0])
    assert (picture[:, :2, :2] == 255).all()
    assert picture.shape == (3, 40, 52)
    assert 0 < len(windows) <= 3
    assert bicubic_block(patch, 2).values.shape == (3, 32, 32)


def test_report_output_finds_the_source_bands(make_raster, texture, tmp_path):
    def note(dataset):
        dataset.descriptions = ("B02", "B03", "B04", "B08")

    source = make_raster(texture(4, 32, 32, "uint16"), after=note)
    out = str(tmp_path / "out.tif")
    for options, bands in (({}, (3, 2, 1)), ({"indexes": (4, 3, 2)}, (4, 3, 2))):
        georsr.super_resolve(source, out, "segsr-lite-x2", overwrite=True, **options)
        report = report_output(source, out, seams=False)
        assert report.bidx == bands
        assert report.consistency.mean < 5000  # of other bands: 20000


def test_report_output_uses_the_kernel_of_the_output(pair, tmp_path):
    source, _, _ = pair
    out = str(tmp_path / "held.tif")
    options = {"consistency": "on", "consistency_kernel": "psf:0.3"}
    georsr.super_resolve(source, out, "segsr-lite-x2", **options)
    report = report_output(source, out, seams=False)
    assert report.consistency.degradation == "kernel psf:0.3"
    assert report.consistency.mean < report_output(source, pair[1], seams=False).consistency.mean

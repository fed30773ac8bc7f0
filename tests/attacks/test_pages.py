"""Names, tags and band descriptions that hold markup: pages show them as text."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import rasterio
import torch
from affine import Affine
from georsr.cli.main import invoke
from PIL import Image

import georsr
from georsr.models.io import save_model

from ..chromium import Chromium, find_chromium
from ..evaluation.test_pairs import FINE, ground, shrunk
from ..viewer.conftest import serving

MARKUP = """'"><script>alert(1)</script></style></title><img src=x onerror=alert(1)>{{7*7}}&lt;"""
IN_FILE_NAMES = MARKUP.replace("/", "")


class Structure(HTMLParser):
    """Elements of a page with the names of their attributes, and all the text that it shows."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, *sorted(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += data


def describe(text):
    """Function that writes a text into the bands and tags of a raster."""

    def write(dataset):
        dataset.update_tags(GEORSR_NOTE=text, TIFFTAG_COPYRIGHT=text)
        for number in dataset.indexes:
            dataset.set_band_description(number, text)
            dataset.update_tags(number, LAYER=text)

    return write


@pytest.fixture
def make_page(make_raster, texture, lite_model, tmp_path):
    """make_page(report, text, name) -> page with a text in all that it shows, a name in paths."""

    def model(text, name):
        path = tmp_path / f"{name}.safetensors"
        spec = replace(lite_model.spec, name=text, trained_on=text, notes=text)
        save_model(path, spec, lite_model.network, torch.float32)
        return str(path)

    def quality(text, name, page):
        source = make_raster(texture(3, 60, 70), f"{name}.tif", after=describe(text))
        out = str(tmp_path / f"{name}-out.tif")
        georsr.super_resolve(source, out, model(text, name))
        with rasterio.open(out, "r+") as dataset:
            dataset.update_tags(GEORSR_AUTHOR=text, GEORSR_MADE_BY=json.dumps({text: text}))
        return ["quality", "report", source, out, "--html", page, "--no-seams"]

    def dataset(text, name, page):
        for label in (name, f"{name}2"):
            folder = tmp_path / name / "val" / label
            folder.mkdir(parents=True)
            pixels = texture(3, 72, 72).transpose(1, 2, 0)
            Image.fromarray(pixels).save(folder / f"{name}.png")
        wanted = ["--split", "val", "-m", model(text, name), "--report", page]
        return ["eval", "--dataset", str(tmp_path / name), *wanted]

    def pairs(text, name, page):
        folder, fine = tmp_path / name, ground(128)
        folder.mkdir()
        make_raster(fine[None].astype("f4"), f"{name}/{name}_hr.tif", transform=FINE)
        coarse, grid = shrunk(fine, 2)[None].astype("f4"), FINE @ Affine.scale(2)
        make_raster(coarse, f"{name}/{name}_lr.tif", transform=grid, after=describe(text))
        quoted = '"' + name.replace('"', '""') + '"'
        (folder / "pairs.tsv").write_text(f"name\tscale\trgb\n{quoted}\t2\t-\n")
        return ["eval", "--pairs", str(folder), "-m", "nearest-x2", "--report", page]

    def preview(text, name, page):
        source = make_raster(texture(3, 60, 70), f"{name}.tif", after=describe(text))
        out = page.removesuffix(".html")
        return ["preview", source, "--size", "32", "-m", model(text, name), "--out", out]

    arguments = {"quality": quality, "dataset": dataset, "pairs": pairs, "preview": preview}

    def make(report, text, name):
        page = tmp_path / f"page-{len(text)}.html"
        assert invoke([str(a) for a in arguments[report](text, name, str(page))]) == 0
        return page

    return make


@pytest.mark.parametrize("report", ["quality", "dataset", "pairs", "preview"])
def test_page_of_names_with_markup_shows_them_as_text(report, make_page, tmp_path):
    harmless = Structure(make_page(report, "text", "text").read_text(encoding="utf-8"))
    path = make_page(report, MARKUP, IN_FILE_NAMES)
    hostile = Structure(path.read_text(encoding="utf-8"))
    assert hostile.elements == harmless.elements
    assert not [element for element in hostile.elements if element[0] == "script"]
    assert IN_FILE_NAMES in hostile.text
    if report != "pairs":
        assert MARKUP in hostile.text
    if find_chromium():
        (tmp_path / "profile").mkdir()
        with Chromium(tmp_path / "profile") as browser:
            browser.open(path.as_uri())
            assert browser.messages == []
            assert IN_FILE_NAMES in browser.evaluate("document.body.textContent")


@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium: apt-get install chromium")
def test_view_of_names_with_markup_shows_them_as_text(make_raster, texture, tmp_path):
    source = make_raster(texture(1, 60, 70), f"{IN_FILE_NAMES}.tif")
    out, layers = str(tmp_path / f"out-{IN_FILE_NAMES}.tif"), str(tmp_path / "layers.tif")
    georsr.super_resolve(source, out, "bicubic-x2", quality=layers)
    for path in (out, layers):
        with rasterio.open(path, "r+") as dataset:
            describe(MARKUP)(dataset)
    (tmp_path / "profile").mkdir()
    with serving(out, source, layers=layers) as server, Chromium(tmp_path / "profile") as browser:
        browser.open(server.url)
        browser.wait_for("document.querySelector('.leaflet-tile-loaded')")
        browser.evaluate(
            "window.viewer.showQuality([...document.querySelectorAll('option')].at(1).value)"
        )
        browser.wait_for("!document.getElementById('legend').hidden")
        assert browser.evaluate("document.title").startswith(f"out-{IN_FILE_NAMES}.tif")
        for name in ("left", "right", "attribution", "layer", "legend"):
            shown = browser.evaluate(f"document.getElementById('{name}').textContent")
            assert (IN_FILE_NAMES if name in ("left", "right") else MARKUP) in shown
        assert browser.evaluate("document.querySelectorAll('script').length") == 2
        assert browser.evaluate("document.querySelectorAll('[onerror]').length") == 0
        assert browser.messages == []

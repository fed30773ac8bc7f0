"""The page of the viewer in a headless Chromium: its pictures, mouse and keyboard."""

import http.client
import threading

import numpy as np
import pytest
from PIL import Image

from georsr.viewer.tiles import PlacedRaster

from ..chromium import Chromium, find_chromium
from .conftest import BLUE, RED, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="needs Chromium: apt-get install chromium"),
]
READY = "document.querySelectorAll('img.leaflet-tile:not(.leaflet-tile-loaded)').length === 0"
LOADED = f"document.querySelector('.leaflet-tile-loaded') && {READY}"


@pytest.fixture
def browser(tmp_path):
    folder = tmp_path / "profile"
    folder.mkdir()
    with Chromium(folder) as browser:
        yield browser
        assert browser.messages == []


@pytest.fixture
def show(browser, tmp_path):
    """show(server) opens the page; look() returns the screen, (800, 1280, 3) uint8."""

    def look():
        browser.wait_for(f"{LOADED} && !document.querySelector('.leaflet-zoom-anim')")
        browser.wait_for(
            "[...document.querySelectorAll('.leaflet-tile')].every((t) => t.style.opacity == 1)"
        )
        browser.screenshot(tmp_path / "screen.png")
        return np.asarray(Image.open(tmp_path / "screen.png").convert("RGB"))

    def show(server):
        browser.open(server.url)
        browser.wait_for(LOADED)
        return look

    return show


def text(browser, name):
    return browser.evaluate(f"document.getElementById('{name}').textContent")


def test_page_shows_source_left_and_output_right_of_the_line(pair, browser, show):
    with serving(*pair) as server:
        screen = show(server)()
        assert screen[400, 400].tolist() == list(BLUE)
        assert screen[400, 880].tolist() == list(RED)
        assert text(browser, "left") == "source: source.tif"
        assert text(browser, "right") == "output: output.tif"
        assert "CRS EPSG:32632" in text(browser, "attribution")
        assert text(browser, "zoom") == "200 %"
        assert text(browser, "scale").strip() == "20 m"
        width = browser.evaluate("document.querySelector('#scale span').offsetWidth")
        assert width == 80  # 20 m are 40 pixels of 0.5 m, each on two of the screen
        for size in (1280, 700):
            assert browser.evaluate("document.documentElement.scrollWidth") <= size
            shape = {"width": 700, "height": 800, "deviceScaleFactor": 1, "mobile": False}
            browser.call("Emulation.setDeviceMetricsOverride", **shape)


def test_line_is_dragged_and_moved_by_keys(pair, browser, show):
    with serving(*pair) as server:
        look = show(server)
        browser.mouse("Pressed", 640, 300, button="left", clickCount=1)
        browser.mouse("Moved", 900, 300, button="left", buttons=1)
        browser.mouse("Released", 900, 300, button="left", clickCount=1)
        screen = look()
        assert screen[300, 880].tolist() == list(BLUE)
        assert screen[300, 930].tolist() == list(RED)
        browser.evaluate("document.getElementById('line').focus()")
        browser.key("Home", 36)
        assert browser.evaluate("document.activeElement.ariaValueNow") == "0"
        assert look()[300, 400].tolist() == list(RED)
        browser.key("PageUp", 33)
        browser.key("ArrowRight", 39)
        assert browser.evaluate("document.activeElement.ariaValueNow") == "12"
        browser.evaluate("document.querySelector('input[value=source]').click()")
        screen = look()
        assert screen[300, 930].tolist() == list(BLUE)
        assert browser.evaluate("document.getElementById('line').hidden")


def test_wheel_over_the_line_zooms(pair, browser, show):
    with serving(*pair) as server:
        show(server)
        assert browser.evaluate("document.elementFromPoint(640, 400).closest('#line') !== null")
        browser.mouse("Wheel", 640, 400, deltaX=0, deltaY=-120)
        browser.wait_for("parseInt(document.getElementById('zoom').textContent) > 200")


def test_page_says_that_tiles_are_awaited(pair, browser, show, monkeypatch):
    released, draw = threading.Event(), PlacedRaster.tile

    def tile(raster, *place):
        released.wait(60)
        return draw(raster, *place)

    monkeypatch.setattr(PlacedRaster, "tile", tile)
    with serving(*pair) as server:
        try:
            browser.open(server.url)
            browser.wait_for("document.getElementById('loading')?.offsetWidth > 0")
        finally:
            released.set()
        browser.wait_for(f"{LOADED} && document.getElementById('loading').hidden")


def test_keys_zoom_to_single_pixels(pair, browser, show):
    with serving(*pair) as server:
        look = show(server)
        browser.evaluate("document.getElementById('native').click()")
        browser.wait_for("document.getElementById('zoom').textContent === '100 %'")
        browser.evaluate("document.getElementById('map').focus()")
        for _ in range(6):
            before = text(browser, "zoom")
            browser.call(
                "Input.dispatchKeyEvent",
                type="keyDown",
                key="+",
                code="Equal",
                windowsVirtualKeyCode=187,
            )
            browser.wait_for(f"document.getElementById('zoom').textContent !== '{before}'")
        assert text(browser, "zoom") == "6400 %"
        assert look()[400, 1000].tolist() == list(RED)
        assert text(browser, "scale").strip() == "1 m"


def test_pointer_shows_place_and_values(pair, browser, show):
    with serving(*pair) as server:
        show(server)
        browser.mouse("Moved", 740, 421)
        browser.wait_for("document.getElementById('place').textContent.startsWith('column')")
        shown = text(browser, "place")
    assert "output 255, 0, 0   source 0, 0, 255" in shown
    column, row, x, y = (
        float(part.split()[1].rstrip(",")) for part in shown.replace(", ", "   ").split("   ")[:4]
    )
    assert (x, y) == (
        pytest.approx(400000 + 0.5 * column, abs=0.5),
        pytest.approx(5000000 - 0.5 * row, abs=0.5),
    )


def test_quality_layer_lies_over_the_output_with_a_legend(pair, make_raster, browser, show):
    layer = np.full((1, 320, 400), 9, np.float32)
    layer[:, 160:] = 0

    def name(dataset):
        dataset.set_band_description(1, "<b>uncertainty")
        dataset.units = ["DN"]

    layers = make_raster(layer, "q.tif", after=name)
    with serving(*pair, layers=layers) as server:
        look = show(server)
        browser.evaluate("document.getElementById('opacity').value = 100")
        select = "const s = document.getElementById('layer'); s.selectedIndex = 1; s.onchange()"
        browser.evaluate(f"(() => {{ {select} }})()")
        browser.wait_for(f"document.querySelector('.leaflet-quality-pane img') && {LOADED}")
        browser.wait_for("document.getElementById('legend').textContent.includes('9 DN')")
        screen = look()
        assert screen[200, 880].tolist() == [0x33, 0x10, 0x5C]
        assert screen[600, 880].tolist() == [0xFF, 0xFD, 0xF0]
        assert screen[200, 400].tolist() == list(BLUE)
        assert text(browser, "legend").split("\n")[0].startswith("<b>uncertainty")
        browser.mouse("Moved", 880, 200)
        browser.wait_for(
            "document.getElementById('place').textContent.includes('uncertainty 9 DN')"
        )


def test_page_without_source_shows_the_output_alone(pair, browser, show):
    with serving(pair[0]) as server:
        screen = show(server)()
        assert screen[400, 400].tolist() == screen[400, 880].tolist() == list(RED)
        assert browser.evaluate("document.getElementById('modes').hidden")


def test_page_says_that_the_server_has_gone(pair, browser, show):
    with serving(*pair) as server:
        show(server)
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
        connection.close()
    browser.call("Network.enable")
    browser.call(
        "Network.emulateNetworkConditions",
        offline=True,
        latency=0,
        downloadThroughput=0,
        uploadThroughput=0,
    )
    browser.mouse("Moved", 740, 420)
    browser.wait_for("document.getElementById('message').textContent.includes('does not answer')")
    browser.messages.clear()  # the browser itself logs the request that failed

"""Draw docs/images/viewer.png: the page of `georsr view` in a headless Chromium.

    python docs/make_viewer_picture.py [FILE.png]

Needs Chromium (Debian: apt install chromium). Shows a sample scene, its output and quality layers.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from pathlib import Path

import georsr
from georsr.viewer.server import ViewServer
from georsr.viewer.tiles import View

HERE = Path(__file__).resolve().parent
SCENE = HERE.parent / "sample_data" / "town_rgb_2m.tif"
SIZE = (1000, 770)
SHOW = """(() => {
  const select = document.getElementById("layer");
  select.selectedIndex = 1;
  select.onchange();
  const opacity = document.getElementById("opacity");
  opacity.value = 45;
  opacity.oninput();
})()"""
DRAWN = """document.querySelector(".leaflet-quality-pane .leaflet-tile-loaded") &&
[...document.querySelectorAll(".leaflet-tile")].every((tile) => tile.style.opacity == 1) &&
document.getElementById("legend").textContent.includes("and more") &&
document.getElementById("place").textContent.includes("uncertainty")"""


def main() -> int:
    """Draw the picture; returns the exit code."""
    sys.path.insert(0, str(HERE.parent))
    from tests.chromium import Chromium, find_chromium

    target = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "images" / "viewer.png")
    if find_chromium() is None:
        sys.stderr.write("Chromium is needed: apt install chromium\n")
        return 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        scene = shutil.copy(SCENE, folder / "scene.tif")
        georsr.super_resolve(scene, folder / "out.tif", quality=folder / "layers.tif")
        (folder / "profile").mkdir()
        with (
            View(str(folder / "out.tif"), layers=str(folder / "layers.tif")) as view,
            ViewServer(view) as server,
            Chromium(folder / "profile", SIZE) as browser,
        ):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser.open(server.url)
            browser.wait_for("document.querySelector('.leaflet-tile-loaded')")
            browser.evaluate(SHOW)
            browser.wait_for("document.querySelector('.leaflet-quality-pane img')")
            browser.mouse("Moved", 640, 300)
            browser.wait_for(DRAWN)
            browser.screenshot(folder / "picture.png")
            server.shutdown()
        reduce_colours(folder / "picture.png", target)
    return 0


def reduce_colours(source: Path, target: Path) -> None:
    """Copy a picture with 256 colours, which takes a third of the space."""
    from PIL import Image

    Image.open(source).convert("RGB").quantize(256).save(target, optimize=True)


if __name__ == "__main__":
    sys.exit(main())

"""Draw docs/images/qgis-dialog.png: the plugin's window in QGIS, on a screen that nobody sees.

    python docs/make_qgis_picture.py [FILE.png]

Needs QGIS and Xvfb (Debian: apt install qgis python3-qgis xvfb) and an installed georsr. QGIS runs
in a home of its own, and shows a sample scene only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from georsr.qgis.install import PLUGIN, Profile, install, set_plugin_enabled

HERE = Path(__file__).resolve().parent
SCENE = HERE.parent / "sample_data" / "town_rgb_2m.tif"
SIZE = (1000, 680)
INSIDE = """
import os
import processing
from qgis.core import QgsProject, QgsRasterLayer
from qgis.PyQt.QtCore import QTimer
from qgis.PyQt.QtWidgets import QApplication
from qgis.utils import iface

layer = QgsRasterLayer({scene!r}, "town_rgb_2m")
QgsProject.instance().addMapLayer(layer)
iface.setActiveLayer(layer)
dialog = processing.createAlgorithmDialog("georsr:superresolve", {{"INPUT": layer}})
dialog.resize(*{size!r})
dialog.show()

def shoot():
    dialog.grab().save({target!r})
    os._exit(0)

QTimer.singleShot(4000, shoot)
"""


def main() -> int:
    """Draw the picture; returns the exit code."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "images" / "qgis-dialog.png")
    qgis = shutil.which("qgis.bin") or shutil.which("qgis")
    if qgis is None or shutil.which("Xvfb") is None:
        sys.stderr.write("QGIS and Xvfb are needed: apt install qgis python3-qgis xvfb\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="georsr-picture-") as folder:
        home = Path(folder)
        scene = Path(shutil.copy(SCENE, home))
        profile = Profile(home / "profiles" / "default")
        install(profile)
        set_plugin_enabled(profile, PLUGIN, on=True)
        code = home / "inside.py"
        picture = home / "picture.png"
        code.write_text(INSIDE.format(scene=str(scene), size=SIZE, target=str(picture)))
        with on_no_screen(home) as environment:
            words = [qgis, "--nologo", "--noversioncheck", "--profiles-path", folder]
            subprocess.run([*words, "--code", str(code)], env=environment, timeout=180, check=True)
        reduce_colours(picture, target.resolve())
    return 0


class on_no_screen:  # noqa: N801 (used as a function)
    """Run Xvfb for as long as the block lasts; gives the environment that shows windows there."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __enter__(self) -> dict[str, str]:
        reading, writing = os.pipe()
        words = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1400x900x24"]
        self.server = subprocess.Popen(words, pass_fds=[writing], stderr=subprocess.DEVNULL)
        os.close(writing)
        with os.fdopen(reading) as file:
            display = file.readline().strip()
        (self.home / "run").mkdir(mode=0o700)
        places = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home / "run")}
        return {**os.environ, **places, "DISPLAY": f":{display}", "QT_QPA_PLATFORM": "xcb"}

    def __exit__(self, *_: object) -> None:
        self.server.terminate()
        self.server.wait()


def reduce_colours(source: Path, target: Path) -> None:
    """Copy a picture with 64 colours: a window needs no more."""
    from PIL import Image

    Image.open(source).convert("RGB").quantize(64).save(target, optimize=True)


if __name__ == "__main__":
    sys.exit(main())

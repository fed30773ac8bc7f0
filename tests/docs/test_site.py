"""The manual builds without a warning, and its pictures are what its script draws."""

import importlib
import os
import re
import runpy
import subprocess
import sys

import pytest
from PIL import Image

import georsr

from ..chromium import find_chromium
from .manual import REPOSITORY

DOCS = REPOSITORY / "docs"


def test_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra 'docs'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "site/reference/command-line/index.html").read_text(encoding="utf-8")
    assert "--stretch" in commands
    python = (tmp_path / "site/reference/python/index.html").read_text(encoding="utf-8")
    assert "super_resolve_array" in python
    for page in (commands, python):
        assert "UNSET" not in page
        assert not re.search(r":(class|func|meth):", page)
    assert "<pre><code>georsr sr scene.tif out.tif  " in commands


def test_pictures_equal_those_of_their_script(tmp_path):
    runpy.run_path(str(DOCS / "make_pictures.py"))["main"](tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn
    for name in drawn:
        with Image.open(tmp_path / name) as new, Image.open(DOCS / "images" / name) as kept:
            assert new.size == kept.size, f"{name}: run docs/make_pictures.py"


@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium: apt-get install chromium")
def test_picture_of_the_viewer_equals_that_of_its_script(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make_viewer_picture.py", str(tmp_path / "viewer.png")])
    assert runpy.run_path(str(DOCS / "make_viewer_picture.py"))["main"]() == 0
    with Image.open(tmp_path / "viewer.png") as new, Image.open(DOCS / "images/viewer.png") as kept:
        assert new.size == kept.size, "run docs/make_viewer_picture.py"


def test_options_page_equals_that_of_its_script():
    script = runpy.run_path(str(DOCS / "make_options_table.py"))
    page = (DOCS / "reference/options.md").read_text(encoding="utf-8")
    assert page == script["page"](), "run docs/make_options_table.py"


def test_reference_has_every_public_name():
    page = (DOCS / "reference/python.md").read_text(encoding="utf-8")
    classes = vars(importlib.import_module("georsr.errors"))
    missing = [
        name for name in georsr.__all__ if f"georsr.{name}" not in page and name not in classes
    ]
    assert missing == []

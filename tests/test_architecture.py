"""Rules of the source tree that a program can check; imports are checked by import-linter."""

import re
from pathlib import Path

from setuptools import find_packages

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "georsr"


def test_weights_are_loaded_without_executing_them():
    loads = re.compile(r"torch\.load\((?![^)]*weights_only=True)")
    wrong = [p for p in PACKAGE.rglob("*.py") if loads.search(p.read_text(encoding="utf-8"))]
    assert wrong == []


def test_every_folder_of_modules_is_a_package_that_ships():
    folders = {".".join(p.parent.relative_to(REPOSITORY).parts) for p in PACKAGE.rglob("*.py")}
    assert set(find_packages(str(REPOSITORY), include=["georsr*"])) == folders

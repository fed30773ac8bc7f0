"""The house rules that a program can check."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "georsr"

FORBIDDEN = {
    "tiling": {"torch", "rasterio", "georsr.raster", "georsr.models", "georsr.engine"},
    "models": {"rasterio", "georsr.raster", "georsr.engine", "georsr.training"},
    "raster": {"torch", "georsr.models", "georsr.engine", "georsr.training", "georsr.tiling"},
    "engine": {"georsr.training", "georsr.evaluation", "georsr.api"},
    "qgis": {"torch", "rasterio", "numpy", "georsr.raster", "georsr.models", "georsr.engine"},
    "training": {"rasterio", "georsr.raster", "georsr.engine"},
    "training/data": {"torch", "lightning", "georsr.models", "georsr.engine"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def files_of(room):
    """Files below a room, those of rooms inside it with rules of their own left out."""
    inner = [PACKAGE / other for other in FORBIDDEN if other.startswith(room + "/")]
    for path in sorted((PACKAGE / room).rglob("*.py")):
        if not any(path.is_relative_to(folder) for folder in inner):
            yield path


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_know_only_what_they_may(room):
    wrong = [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in files_of(room)
        for name in imports(path)
        for banned in FORBIDDEN[room]
        if name == banned or name.startswith(banned + ".")
    ]
    assert wrong == []


def test_the_package_does_not_know_its_command_line():
    wrong = [p for p in PACKAGE.rglob("*.py") if any("cli" in n.split(".") for n in imports(p))]
    assert wrong == []


def test_weights_are_loaded_without_executing_them():
    loads = re.compile(r"torch\.load\((?![^)]*weights_only=True)")
    wrong = [p for p in PACKAGE.rglob("*.py") if loads.search(p.read_text(encoding="utf-8"))]
    assert wrong == []


def test_every_package_ships():
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(REPOSITORY).parts) for p in PACKAGE.rglob("__init__.py")}
    assert listed == found | {"georsr.cli", "georsr.qgis.georsr_processing"}

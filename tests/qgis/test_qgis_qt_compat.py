"""The plugin on an older and a newer QGIS and Python than the one at hand."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from georsr.qgis.install import plugin_folder

FILES = sorted(plugin_folder().glob("*.py"))
OLD = SimpleNamespace(
    Qgis=SimpleNamespace(Critical="critical"),
    QgsProcessingParameterDefinition=SimpleNamespace(FlagAdvanced="advanced"),
    QgsProcessingParameterNumber=SimpleNamespace(Integer="integer", Double="double"),
    QgsProcessing=SimpleNamespace(TypeVectorPolygon="polygons"),
    QgsProcessingParameterFile=SimpleNamespace(File="file"),
    QgsCoordinateReferenceSystem=SimpleNamespace(WKT2_2019="wkt2"),
)
"""QGIS 3.22: members of classes."""
NEW = SimpleNamespace(
    Qgis=SimpleNamespace(
        MessageLevel=SimpleNamespace(Critical="critical"),
        ProcessingParameterFlag=SimpleNamespace(Advanced="advanced"),
        ProcessingNumberParameterType=SimpleNamespace(Integer="integer", Double="double"),
        ProcessingSourceType=SimpleNamespace(VectorPolygon="polygons"),
        ProcessingFileParameterBehavior=SimpleNamespace(File="file"),
        CrsWktVariant=SimpleNamespace(Wkt2_2019="wkt2"),
    )
)
"""QGIS 4: scoped enumerations only."""


def compat(core, monkeypatch):
    package = ModuleType("qgis")
    package.core = core
    monkeypatch.setitem(sys.modules, "qgis", package)
    spec = importlib.util.spec_from_file_location("compat", plugin_folder() / "qt_compat.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("core", [OLD, NEW], ids=["QGIS 3.22", "QGIS 4"])
def test_qt_compat_enumerations_of_old_and_new_qgis(core, monkeypatch):
    module = compat(core, monkeypatch)
    assert module.ADVANCED == "advanced"
    assert (module.INTEGER, module.DOUBLE) == ("integer", "double")
    assert module.WKT2 == "wkt2"
    assert (module.POLYGONS, module.ANY_FILE, module.CRITICAL) == ("polygons", "file", "critical")
    with pytest.raises(ImportError, match=r"none of Qgis\.Gone"):
        module.first_of("Qgis.Gone")


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_plugin_modules_need_only_python_3_9_and_qgis(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    allowed = set(sys.stdlib_module_names) - {"tomllib"} | {"qgis", "processing", "__future__"}
    assert {name.split(".")[0] for name in imported(tree)} <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_plugin_modules_avoid_names_of_one_qt(path):
    text = path.read_text(encoding="utf-8")
    assert "PyQt5" not in text.replace("(PyQt5)", "")
    assert "exec_(" not in text


def test_plugin_modules_without_qgis_imports_load():
    for name in ("command_line", "georsr_executable", "subprocess_runner"):
        tree = ast.parse((plugin_folder() / f"{name}.py").read_text(encoding="utf-8"))
        assert "qgis" not in {found.split(".")[0] for found in imported(tree)}
    assert Path(plugin_folder() / "__init__.py").is_file()

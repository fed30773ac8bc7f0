"""Rules of the source tree that a program can check; imports are checked by import-linter."""

import ast
import re
import runpy
from pathlib import Path

from setuptools import find_packages

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "georsr"


def test_torch_load_is_called_with_weights_only():
    loads = re.compile(r"torch\.load\((?![^)]*weights_only=True)")
    wrong = [p for p in PACKAGE.rglob("*.py") if loads.search(p.read_text(encoding="utf-8"))]
    assert wrong == []


def test_folders_of_modules_are_packages():
    folders = {".".join(p.parent.relative_to(REPOSITORY).parts) for p in PACKAGE.rglob("*.py")}
    assert set(find_packages(str(REPOSITORY), include=["georsr*"])) == folders


def test_tests_import_no_private_names():
    private = [
        f"{path.relative_to(REPOSITORY)}: {node.module}.{alias.name}"
        for path in sorted((REPOSITORY / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("georsr.")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert private == []


UNMIRRORED = {"attacks", "benchmarks", "docs", "faults", "qgis"}
"""Folders of tests that belong to no package: see CONTRIBUTING.md."""


def test_test_files_are_named_after_the_module_they_test():
    misplaced = []
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        folder = path.parent.relative_to(REPOSITORY / "tests")
        if folder == Path() or folder.parts[0] in UNMIRRORED:
            continue
        package = REPOSITORY / "cli" if folder == Path("cli") else PACKAGE / folder
        modules = {p.stem for p in package.rglob("*.py")} | {
            p.parent.name for p in package.rglob("*.py")
        }
        name = path.stem.removeprefix("test_")
        if not any(name == module or name.startswith(f"{module}_") for module in modules):
            misplaced.append(str(path.relative_to(REPOSITORY)))
    assert misplaced == [], (
        "expected test_MODULE.py or test_MODULE_SUBJECT.py, in the folder of MODULE"
    )


def test_modules_and_packages_import_each_other_without_cycles():
    figures = runpy.run_path(str(REPOSITORY / "benchmarks" / "robustness" / "house_figures.py"))
    files = figures["python_files"]()
    graph = {name: figures["imported"](name, path, set(files)) for name, path in files.items()}
    assert graph["georsr.api"] >= {"georsr.jobs.run", "georsr.run_estimate"}
    assert figures["cycles"](graph) == []
    assert figures["cycles"](figures["packages_of"](graph)) == []

"""Rules of the source tree that a program can check; imports are checked by import-linter."""

import ast
import re
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

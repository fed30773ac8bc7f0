"""Print figures of the source tree: size, folders, import cycles, modules that one run executes.

    python benchmarks/robustness/house_figures.py [--limits]

Imports inside functions and below TYPE_CHECKING count as imports. With --limits the exit code is 1
if a figure is beyond its limit.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = {"georsr": "georsr", "cli": "georsr.cli", "qgis": "georsr.qgis"}
"""Folder -> package."""
LIMITS = {"modules executed": 45, "files": 165, "lines": 27_500, "largest folder": 16, "cycles": 0}
RUN = """
import sys
from georsr.cli.main import invoke
code = invoke(["sr", "sample_data/town_rgb_2m.tif", sys.argv[1], "--quiet"])
print(*(name for name in sys.modules if name.split(".")[0] == "georsr"))
sys.exit(code)
"""


def python_files() -> dict[str, Path]:
    """Return module name -> file, of the package, its command line and its plugin."""
    files = {}
    for folder, package in FOLDERS.items():
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            inner = path.relative_to(REPOSITORY / folder).with_suffix("").parts
            files[".".join([package, *inner]).removesuffix(".__init__")] = path
    return files


def imported(name: str, path: Path, known: set[str]) -> set[str]:
    """Return the modules of the tree that a file imports, anywhere in it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return (found & known) - {name}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def packages_of(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports between packages and the modules beside them, from those of files."""

    def package(name: str) -> str:
        return ".".join(name.split(".")[:2])

    found: dict[str, set[str]] = {package(name): set() for name in graph}
    for name, others in graph.items():
        found[package(name)] |= {package(other) for other in others} - {package(name)}
    return found


def executed() -> list[str]:
    """Return the modules of georsr that are loaded after ``georsr sr in.tif out.tif``."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(Path(folder) / "out.tif")],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stdout.split()


def main() -> int:
    """Print every figure, and what makes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--limits", action="store_true", help="fail if a figure is beyond its limit"
    )
    parser.add_argument("--no-run", action="store_true", help="do not count the modules of a run")
    arguments = parser.parse_args()
    files = python_files()
    graph = {name: imported(name, path, set(files)) for name, path in files.items()}
    of_files, of_packages = cycles(graph), cycles(packages_of(graph))
    folders = Counter(path.parent for path in files.values())
    figures = {
        "files": len(files),
        "lines": sum(len(path.read_text("utf-8").splitlines()) for path in files.values()),
        "largest folder": max(folders.values()),
        "cycles": len(of_files) + len(of_packages),
    }
    if not arguments.no_run:
        figures["modules executed"] = len(executed())
    for name, value in figures.items():
        print(f"{name}: {value} (limit {LIMITS[name]})")
    for folder, count in folders.most_common(3):
        print(f"  {folder.relative_to(REPOSITORY)}: {count} files")
    for component in of_files + of_packages:
        print("  cycle:", ", ".join(component))
        inside = set(component)
        for name in component:
            if name in graph and graph[name] & inside:
                print(f"    {name} -> {', '.join(sorted(graph[name] & inside))}")
    beyond = [name for name, value in figures.items() if value > LIMITS[name]]
    return 1 if arguments.limits and beyond else 0


if __name__ == "__main__":
    sys.exit(main())

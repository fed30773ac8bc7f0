"""Change modules in one place at a time, and count the changes that their tests notice.

    python benchmarks/robustness/mutate.py [--modules tiling/grid ...] [--sample 60] [--seed 0]

A mutant has one comparison, operator, number, truth value or return value changed. The tests that
reach its line run in a process that is forked after the imports, quickest first, until one fails.
The mutation score of a module is the fraction of its mutants for which one does. Messages,
annotations and decorators are not changed. Survivors are printed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "tiling/grid": ["tiling", "radiometry/test_normalization_sampling.py"],
    "tiling/stitch": ["tiling"],
    "tiling/partition": ["tiling"],
    "radiometry/normalization": ["radiometry"],
    "radiometry/nodata": ["radiometry"],
    "radiometry/quantize": ["radiometry"],
    "xarray/coords": ["xarray/test_coords.py", "xarray/test_arrays_accessor.py"],
    "geo/registration": ["geo/test_registration.py"],
    "io/metadata": ["io/test_metadata_georeference.py"],
}
"""Module -> its tests."""
ONLY = {"io/metadata": ("_transform", "scale_", "window_metadata", "_crs", "crs_name")}
"""Module -> beginnings of the names of the functions that are changed, if not all are."""
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a node of a syntax tree is replaced by."""
    match node:
        case ast.Compare():
            for i, operator in enumerate(node.ops):
                ops = [*node.ops[:i], SWAPPED[type(operator)](), *node.ops[i + 1 :]]
                yield ast.Compare(node.left, ops, node.comparators)
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in SWAPPED:
            changed = copy.copy(node)
            changed.op = SWAPPED[type(node.op)]()
            yield changed
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
        case ast.Return(value=ast.expr()) if ast.unparse(node.value) != "None":
            yield ast.Return(ast.Constant(None))


def places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Yield (parent, field, index, node) of all nodes that may be changed."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.JoinedStr | ast.Raise) or not isinstance(child, ast.AST):
                continue
            yield node, field, index, child
            yield from places(child)


def mutants(source: str, only: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    """Yield line, description and source of every mutant."""
    tree = ast.parse(source)
    roots: list[ast.AST] = [tree]
    if only:
        roots = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith(only)]
    for parent, field, index, node in (place for root in roots for place in places(root)):
        for changed in changes(node):
            holder: Any = parent if index is None else getattr(parent, field)
            key: Any = field if index is None else index
            put = setattr if index is None else list.__setitem__
            put(holder, key, ast.fix_missing_locations(ast.copy_location(changed, node)))
            text = f"{ast.unparse(node)[:70]}  ->  {ast.unparse(changed)[:70]}"
            yield node.lineno, text, ast.unparse(tree)
            put(holder, key, node)


class Replacement(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports one module from another text."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        """Find the module."""
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_filename(self, name: str) -> str:
        """Return the path of the module."""
        return str(self.path)

    def get_data(self, path: str) -> bytes:
        """Return the other text; there is no bytecode."""
        if path != str(self.path):
            raise OSError
        return self.source.encode()


class Record:
    """Plugin of pytest that records which lines of a module each test executes, and its time."""

    def __init__(self, path: Path) -> None:
        import coverage

        self.coverage = coverage.Coverage(include=[str(path)], data_file=None, config_file=False)
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Assign the lines from now on to a test."""
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Record the time of a test."""
        self.seconds[nodeid] = time.process_time() - self.seconds[nodeid]


def run_tests(tests: list[str], *plugins: Any) -> int:
    """Run tests until one fails, without output; return pytest's exit code."""
    import pytest

    quiet = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "--no-header"]
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    return int(pytest.main([*quiet, *tests], plugins=list(plugins)))


def in_fork(call: Any, seconds: int) -> int:
    """Call a function in a forked process; return its exit code, not 0 if it takes too long."""
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        try:
            os._exit(call())
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def reached(path: Path, tests: list[str]) -> tuple[dict[int, list[str]], list[str], float]:
    """Return the tests by line, all tests, quickest first, and the processor time of all."""

    def call() -> int:
        record = Record(path)
        record.coverage.start()
        code = run_tests(tests, record)
        record.coverage.stop()
        lines = record.coverage.get_data().contexts_by_lineno(str(path))
        answer.write_text(json.dumps([lines, record.seconds]))
        return code

    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        if code := in_fork(call, 3600):
            sys.exit(f"the tests of {path} fail without a change: {code}")
        lines, seconds = json.loads(answer.read_text())
    order = sorted(seconds, key=seconds.__getitem__)
    by_line = {
        int(line): order if "" in names else [name for name in order if name in names]
        for line, names in lines.items()
    }
    return by_line, order, sum(seconds.values())


def measure(module: str, sample: int, rng: random.Random) -> tuple[int, int, int]:
    """Print the survivors of a module; return how many mutants there are, were tried, and died."""
    path = ROOT / "georsr" / f"{module}.py"
    by_line, _, seconds = reached(path, [str(ROOT / "tests" / test) for test in TESTS[module]])
    every = list(mutants(path.read_text(), ONLY.get(module, ())))
    tried = sorted(rng.sample(every, min(sample, len(every))))
    killed = 0
    for line, text, source in tried:
        tests = by_line.get(line, [])
        finder = Replacement(f"georsr.{module.replace('/', '.')}", path, source)

        def call(finder: Replacement = finder, tests: list[str] = tests) -> int:
            sys.meta_path.insert(0, finder)
            return run_tests(tests)

        if tests and in_fork(call, int(10 + 5 * seconds)):
            killed += 1
        else:
            print(f"{module}.py:{line}: {text}{'' if tests else '  (no test)'}", flush=True)
    return len(every), len(tried), killed


def main() -> None:
    """Measure the mutation score of each module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--sample", type=int, default=60, help="most mutants of a module")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.chdir(ROOT)
    for name in (
        "dask.array",
        "hypothesis",
        "rasterio.fill",
        "rioxarray",
        "scipy.ndimage",
        "torch",
    ):
        importlib.import_module(name)

    totals = defaultdict(int)
    for module in options.modules:
        rng = random.Random(f"{options.seed} {module}")
        every, tried, killed = measure(module, options.sample, rng)
        totals["tried"] += tried
        totals["killed"] += killed
        print(f"{module}: {killed} of {tried} killed, {killed / tried:.0%}; {every} mutants")
    print(f"all: {totals['killed']} of {totals['tried']}, {totals['killed'] / totals['tried']:.0%}")


if __name__ == "__main__":
    main()

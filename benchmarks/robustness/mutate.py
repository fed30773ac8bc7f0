"""Change modules in one place at a time, and count the changes that their tests notice.

    python benchmarks/robustness/mutate.py [--modules tiling/grid ...] [--sample 60] [--seed 0]

A mutant has one comparison, operator, number, truth value or return value changed. The tests that
reach its line run in a process that is forked after they were collected, quickest first, until one
fails. The mutation score of a module is the fraction of its mutants for which one does. Messages,
annotations, decorators and defaults of fields are not changed. Survivors are printed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib
import json
import os
import random
import resource
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
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
ONLY = {
    "io/metadata": ("_transform", "scale_", "window_metadata", "_crs", "crs_name"),
    "geo/registration": ("offset_", "_skew", "common_", "scale_", "window_of_output"),
}
"""Module -> beginnings of the names of the functions that are changed, if not all are."""
FAILURE = 70
"""Exit code of a process that ended with an exception."""
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
    if isinstance(node, ast.ClassDef):
        fields: Any = [("body", [n if isinstance(n, ast.FunctionDef) else None for n in node.body])]
    else:
        fields = ast.iter_fields(node)
    for field, value in fields:
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.JoinedStr | ast.Raise) or not isinstance(child, ast.AST):
                continue
            yield node, field, index, child
            yield from places(child)


def mutants(source: str, only: tuple[str, ...]) -> Iterator[tuple[int, bool, str, str]]:
    """Yield line, whether it is inside a function, description and source of every mutant."""
    tree = ast.parse(source)
    roots: list[ast.AST] = [tree]
    if only:
        roots = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith(only)]
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for statement in function.body
        for node in ast.walk(statement)
    }
    for parent, field, index, node in (place for root in roots for place in places(root)):
        for changed in changes(node):
            holder: Any = parent if index is None else getattr(parent, field)
            key: Any = field if index is None else index
            put = setattr if index is None else list.__setitem__
            put(holder, key, ast.fix_missing_locations(ast.copy_location(changed, node)))
            text = f"{ast.unparse(node)[:70]}  ->  {ast.unparse(changed)[:70]}"
            yield node.lineno, id(node) in inside, text, ast.unparse(tree)
            put(holder, key, node)


def functions(namespace: dict[str, Any]) -> dict[str, types.FunctionType]:
    """Return the functions and methods that were defined in a module, by qualified name."""
    found = (o for o in gc.get_objects() if isinstance(o, types.FunctionType))
    return {f.__qualname__: f for f in found if f.__globals__ is namespace}


def apply(module: types.ModuleType, source: str) -> None:
    """Give the functions and the numbers of a module those of a changed text of it."""
    changed = {"__name__": module.__name__, "__file__": module.__file__}
    exec(compile(source, str(module.__file__), "exec"), changed)
    before = functions(vars(module))
    for name, function in functions(changed).items():
        if name in before:
            before[name].__code__ = function.__code__
            before[name].__defaults__ = function.__defaults__
            before[name].__kwdefaults__ = function.__kwdefaults__
    for name, value in changed.items():
        old = vars(module).get(name)
        if isinstance(value, int | float | tuple) and value != old:
            for other in [m for n, m in sys.modules.items() if n.startswith("georsr")]:
                if name in vars(other) and vars(other)[name] is old:
                    setattr(other, name, value)


def in_fork(call: Callable[[], int], seconds: float) -> int:
    """Call a function in a forked process; return its exit code, not 0 if it takes too long."""
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        code = FAILURE
        try:
            code = call()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Mutation:
    """Plugin of pytest that tries mutants instead of running the tests once.

    Parameters
    ----------
    module, sample, rng
        Name of the module, most mutants to try, and what chooses them.
    answer
        File for the result: numbers of mutants, of those tried and killed, and the survivors.
    """

    def __init__(self, module: str, sample: int, rng: random.Random, answer: Path) -> None:
        self.module, self.sample, self.rng, self.answer = module, sample, rng, answer
        self.path = ROOT / "georsr" / f"{module}.py"
        self.failed = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note that a test failed."""
        self.failed = self.failed or report.failed

    def run(self, items: list[Any]) -> int:
        """Run tests until one fails; return 1 if one did."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return 1
        return 0

    def reached(self, items: list[Any]) -> tuple[dict[int, list[Any]], float]:
        """Return the tests by line, quickest first, and the processor time of all."""
        import coverage

        def call() -> int:
            measured = coverage.Coverage(
                include=[str(self.path)], data_file=None, config_file=False
            )
            measured.start()
            seconds = []
            for number, item in enumerate(items):
                since = time.process_time()
                measured.switch_context(str(number))
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                seconds.append(time.process_time() - since)
            measured.stop()
            lines = measured.get_data().contexts_by_lineno(str(self.path))
            self.answer.write_text(json.dumps([lines, seconds]))
            return int(self.failed)

        if in_fork(call, 3600):
            raise RuntimeError(f"the tests of {self.module} fail without a change")
        lines, seconds = json.loads(self.answer.read_text())
        order = sorted(range(len(items)), key=seconds.__getitem__)
        by_line = {
            int(line): [items[i] for i in order if str(i) in numbers]
            for line, numbers in lines.items()
        }
        return by_line, sum(seconds)

    def pytest_runtestloop(self, session: Any) -> bool:
        """Try mutants with the tests that were collected."""
        imported = importlib.import_module(f"georsr.{self.module.replace('/', '.')}")
        by_line, seconds = self.reached(session.items)
        every = list(mutants(self.path.read_text(), ONLY.get(self.module, ())))
        tried = sorted(self.rng.sample(every, min(self.sample, len(every))))

        def killed(source: str, tests: list[Any]) -> bool:
            def call() -> int:
                apply(imported, source)
                return self.run(tests)

            code = in_fork(call, 10 + 5 * seconds)
            if code == FAILURE:
                raise RuntimeError(f"{self.module} cannot be changed to:\n{source}")
            return code != 0

        if killed(ast.unparse(ast.parse(self.path.read_text())), session.items):
            raise RuntimeError(f"the tests of {self.module} fail with the same text")
        survivors = []
        for line, inside, text, source in tried:
            tests = by_line.get(line, []) if inside else session.items
            if not tests or not killed(source, tests):
                survivors.append(f"{line}: {text}{'' if tests else '  (no test)'}")
        self.answer.write_text(json.dumps([len(every), len(tried), survivors]))
        return True

    def pytest_configure(self) -> None:
        """Let a property test end at its first failure."""
        from hypothesis import Phase, settings

        settings.register_profile(
            "first", settings.get_profile("steady"), phases=[Phase.explicit, Phase.generate]
        )
        settings.load_profile("first")


def measure(module: str, sample: int, rng: random.Random) -> tuple[int, int, list[str]]:
    """Return how many mutants a module has, how many were tried, and those that survived."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        tests = [str(ROOT / "tests" / test) for test in TESTS[module]]
        quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "--no-header"]

        def call() -> int:
            import pytest

            with open(os.devnull, "w") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), 1)
            plugin = Mutation(module, sample, rng, answer)
            return int(pytest.main([*quiet, f"--basetemp={folder}/tests", *tests], [plugin]))

        if code := in_fork(call, 36_000):
            sys.exit(f"{module}: pytest ended with {code}")
        every, tried, survivors = json.loads(answer.read_text())
    return every, tried, survivors


def main() -> None:
    """Measure the mutation score of each module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--sample", type=int, default=60, help="most mutants of a module")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.chdir(ROOT)
    for name in ("dask.array", "hypothesis", "rasterio.fill", "rioxarray", "scipy", "torch"):
        importlib.import_module(name)
    total = killed = 0
    for module in options.modules:
        rng = random.Random(f"{options.seed} {module}")
        every, tried, survivors = measure(module, options.sample, rng)
        total, killed = total + tried, killed + tried - len(survivors)
        print(*(f"{module}.py:{text}" for text in survivors), sep="\n")
        share = 1 - len(survivors) / tried
        print(f"{module}: {share:.0%} of {tried}; it has {every} mutants", flush=True)
    print(f"all: {killed} of {total}, {killed / total:.0%}")


if __name__ == "__main__":
    main()

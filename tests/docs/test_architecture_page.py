"""The architecture page names functions that exist and call each other in the order of the page."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "development" / "architecture.md"
ROW = re.compile(r"^\| (\d+) \| `([^`]+)` \| `([^`]+)` \| .+ \|([ \d,]*)\|$", re.MULTILINE)


class Step(NamedTuple):
    number: int
    file: str
    function: str
    next: tuple[int, ...]


def steps():
    page = PAGE.read_text(encoding="utf-8")
    return [
        Step(int(number), file, function, tuple(map(int, re.findall(r"\d+", after))))
        for number, file, function, after in ROW.findall(page)
    ]


def source_of(file, function):
    """Return the source of a function, or of a method as CLASS.METHOD; None if there is none."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    nodes = [ast.parse(text)]
    for name in function.split("."):
        nodes = [child for node in nodes for child in node.body if _name(child) == name]
    return ast.get_source_segment(text, nodes[0]) if nodes else None


def _name(node):
    return getattr(node, "name", None)


def test_table_numbers_its_steps_and_names_at_most_14_files():
    numbers = [step.number for step in steps()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 20
    assert len({step.file for step in steps()}) <= 14


@pytest.mark.parametrize("step", steps(), ids=lambda step: f"{step.number}-{step.function}")
def test_step_names_the_next_functions_in_its_source(step):
    source = source_of(step.file, step.function)
    assert source is not None, f"{step.file} has no {step.function}"
    by_number = {other.number: other for other in steps()}
    for number in step.next:
        assert number > step.number, "the way of a pixel never goes back"
        name = by_number[number].function.split(".")[-1]
        assert re.search(rf"\b{name}\b", source), f"{step.function} does not call {name}"


def test_every_step_follows_from_an_earlier_one():
    reached = {number for step in steps() for number in step.next}
    assert reached == {step.number for step in steps()} - {1}


def test_every_file_and_function_that_the_page_quotes_exists():
    page = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:georsr|cli|qgis)/[\w/.]+)`", page):
        assert (REPOSITORY / path).exists(), path
    named = re.findall(r"`((?:georsr|cli|qgis)/[\w/]+\.py)`(?: \|)? `([\w.]+)`", page)
    assert len(named) > 40
    for file, function in named:
        assert source_of(file, function) is not None, f"{file} has no {function}"

"""Versions of georsr, of Python and of the packages it is built on."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from georsr.doctor.finding import Finding, State
from georsr.provenance import georsr_version

CORE = (
    "torch",
    "rasterio",
    "numpy",
    "xarray",
    "rioxarray",
    "dask",
    "open_clip_torch",
    "shapely",
    "safetensors",
    "click",
)
SPARE = {"isal": "GDAL compresses products in its place, and takes three times as long"}
"""Packages that georsr can do without, and what that costs."""
EXTRAS = {"lightning": "train", "onnxruntime": "onnx"}
"""Packages that only one part of georsr wants, with the extra that brings them."""


def findings() -> Iterator[Finding]:
    """One finding a package."""
    yield Finding("georsr", State.OK, f"{georsr_version()}, in {sys.prefix}")
    yield Finding("Python", State.OK, f"{platform.python_version()} on {platform.platform()}")
    oldest = oldest_versions()
    for name in CORE:
        yield _core(name, oldest.get(name, ()))
    for name, cost in SPARE.items():
        yield _spare(name, f"not installed: {cost}", f"pip install {name}")
    for name, extra in EXTRAS.items():
        remedy = f"pip install 'georsr[{extra}]' if you want that"
        yield _spare(name, f"not installed ({extra})", remedy)


def oldest_versions() -> dict[str, tuple[int, ...]]:
    """Package -> the oldest version that georsr's own metadata allows."""
    try:
        stated = requires("georsr") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for line in stated:
        match = re.match(r"([A-Za-z0-9_.-]+)[^;>]*>=([0-9.]+)", line)
        if match and "extra ==" not in line:
            found[match[1]] = numbers(match[2])
    return found


def numbers(text: str) -> tuple[int, ...]:
    """``2.6.0+cpu`` -> (2, 6, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def _spare(name: str, otherwise: str, remedy: str) -> Finding:
    try:
        return Finding(name, State.OK, version(name))
    except PackageNotFoundError:
        return Finding(name, State.NOTE, otherwise, remedy)


def _core(name: str, oldest: tuple[int, ...]) -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, State.PROBLEM, "not installed", f"pip install {name}")
    if numbers(found) < oldest:
        wanted = ".".join(map(str, oldest))
        return Finding(
            name,
            State.PROBLEM,
            f"{found}, but {wanted} or newer is needed",
            f"pip install --upgrade '{name}>={wanted}'",
        )
    return Finding(name, State.OK, found)

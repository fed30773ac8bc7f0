"""Doctor: what is here, what is amiss, and what to do about it.

:func:`examine` asks every part in turn. None of them fetches anything, and what fails in one of
them is a finding like any other.

A finding: one thing looked at, how it is, and the remedy.

Versions of georsr, of Python and of the packages it is built on.

GDAL and PROJ: versions, formats, and whether PROJ finds its database.

What the network runs on.

Weights: those that come with georsr, and CLIP's where they are on this machine.

Memory, and room for temporary files.

QGIS: whether it is here, and whether its plugin is the one of this georsr.

A trial: a small raster super-resolved from file to file.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from georsr.errors import GeorsrError
from georsr.qgis.install import PLUGIN, RECORD, Profile, find_profiles, is_enabled, plugin_version
from georsr.reports import georsr_version


class Status(StrEnum):
    """How a thing is."""

    OK = "ok"
    NOTE = "note"
    """Not there, and not needed unless one wants it."""
    WARNING = "warning"
    """Something will not work as well as it could."""
    PROBLEM = "problem"
    """``georsr sr`` cannot work."""


MARKS = {Status.OK: "+", Status.NOTE: "-", Status.WARNING: "!", Status.PROBLEM: "x"}


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes
    ----------
    name : str
        What was looked at.
    state : State
    text : str
        What was found.
    remedy : str
        What to do about it; empty where there is nothing to do.
    """

    name: str
    state: Status
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnostics:
    """All findings of an examination."""

    findings: tuple[Check, ...]

    @property
    def works(self) -> bool:
        """Whether ``georsr sr`` can work."""
        return all(finding.state is not Status.PROBLEM for finding in self.findings)

    def describe(self) -> str:
        """One line a finding, remedies below theirs; then the verdict."""
        width = max((len(finding.name) for finding in self.findings), default=0)
        lines = []
        for finding in self.findings:
            lines.append(f"{MARKS[finding.state]} {finding.name:<{width}}  {finding.text}")
            if finding.remedy:
                lines.append(f"  {'':<{width}}  -> {finding.remedy}")
        problems = sum(finding.state is Status.PROBLEM for finding in self.findings)
        verdict = "georsr works" if self.works else f"georsr cannot work: {problems} marked x"
        return "\n".join([*lines, verdict])

    def to_json(self) -> str:
        """Indented JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return json.dumps({"works": self.works, "findings": findings}, indent=2)


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


def check_packages() -> Iterator[Check]:
    """One finding a package."""
    yield Check("georsr", Status.OK, f"{georsr_version()}, in {sys.prefix}")
    yield Check("Python", Status.OK, f"{platform.python_version()} on {platform.platform()}")
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


def _spare(name: str, otherwise: str, remedy: str) -> Check:
    try:
        return Check(name, Status.OK, version(name))
    except PackageNotFoundError:
        return Check(name, Status.NOTE, otherwise, remedy)


def _core(name: str, oldest: tuple[int, ...]) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, Status.PROBLEM, "not installed", f"pip install {name}")
    if numbers(found) < oldest:
        wanted = ".".join(map(str, oldest))
        return Check(
            name,
            Status.PROBLEM,
            f"{found}, but {wanted} or newer is needed",
            f"pip install --upgrade '{name}>={wanted}'",
        )
    return Check(name, Status.OK, found)


NEEDED = ("GTiff", "COG", "MEM")
READ = {
    "VRT": "virtual mosaics",
    "JP2OpenJPEG": "JPEG 2000: Sentinel-2 as it is distributed",
    "netCDF": "netCDF",
    "HDF5": "HDF5",
}
"""Formats to read that not every build of GDAL has."""
MISLEADING = ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH")
"""Variables by which another program's GDAL or PROJ gets in the way."""


def check_gdal() -> Iterator[Check]:
    """Versions, formats, PROJ's database, misleading variables."""
    import rasterio

    yield Check("GDAL", Status.OK, f"{rasterio.__gdal_version__}, PROJ {rasterio.__proj_version__}")
    with rasterio.Env() as env:
        drivers = set(env.drivers())
    yield from _drivers(drivers)
    yield database(os.environ)


def _drivers(drivers: set[str]) -> Iterator[Check]:
    missing = [name for name in NEEDED if name not in drivers]
    if missing:
        remedy = "pip install --force-reinstall rasterio"
        text = f"GDAL lacks {', '.join(missing)}"
        yield Check("formats", Status.PROBLEM, text, remedy)
    else:
        there = [*NEEDED, *(name for name in READ if name in drivers)]
        yield Check("formats", Status.OK, ", ".join(there))
    for name, what in READ.items():
        if name not in drivers:
            remedy = "only if you need it: conda-forge's rasterio and libgdal plugins have it"
            yield Check(name, Status.NOTE, f"this GDAL does not read {what}", remedy)


def database(environ: Mapping[str, str]) -> Check:
    """Whether coordinates can be transformed."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    misleading = [name for name in MISLEADING if environ.get(name)]
    set_here = ", ".join(f"{name}={environ[name]}" for name in misleading)
    try:
        east, north = transform(CRS.from_epsg(4326), CRS.from_epsg(32632), [9.0], [0.0])
        right = abs(east[0] - 500000) < 1e-3 and abs(north[0]) < 1e-3
        why = "" if right else f"9 E, 0 N in UTM 32 comes out as {east[0]:.1f}, {north[0]:.1f}"
    except CRSError as error:
        why = str(error)
    if why:
        remedy = "pip install --force-reinstall rasterio"
        if set_here:
            remedy = f"unset {' '.join(misleading)} ({set_here}: of another installation)"
        return Check("PROJ database", Status.PROBLEM, why, remedy)
    if set_here:
        text = f"works, although {set_here} is set"
        remedy = f"unset {' '.join(misleading)} if coordinates or formats are amiss"
        return Check("PROJ database", Status.WARNING, text, remedy)
    return Check("PROJ database", Status.OK, "found")


def check_devices() -> Iterator[Check]:
    """The device that ``--device auto`` takes, and why it is not a graphics card."""
    import torch

    from georsr.device import select_device

    threads = f"{os.cpu_count()} processors, {torch.get_num_threads()} threads"
    yield Check("device", Status.OK, f"{select_device().describe()}; {threads}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            size = properties.total_memory / 2**30
            yield Check(f"cuda:{index}", Status.OK, f"{properties.name}, {size:.0f} GiB")
    elif shutil.which("nvidia-smi"):
        yield check_unused_gpu(torch.version.cuda)


def check_unused_gpu(built_for: str | None) -> Check:
    """Say why torch does not see the NVIDIA card whose driver is installed.

    Parameters
    ----------
    built_for
        CUDA version of torch; None for a build without.
    """
    if built_for is None:
        text = "there is an NVIDIA driver, but this torch is built for the CPU only"
        remedy = "pip install --force-reinstall torch, from an index with CUDA builds"
    else:
        text = f"there is an NVIDIA driver, but torch (CUDA {built_for}) sees no card"
        remedy = "run nvidia-smi: the driver may be too old for that CUDA, or hidden from here"
    return Check("cuda", Status.WARNING, text, remedy)


CLIP = ("ViT-B-16", "openai")
"""The CLIP that SeG-SR is built on."""


def check_weights() -> Iterator[Check]:
    """Bundled models, then CLIP."""
    from georsr.models.io import open_model
    from georsr.models.registry import DEFAULT, bundled_weights

    names = bundled_weights()
    expected = DEFAULT.format(scale=4)
    if expected not in names:
        text = f"{expected}, the default model, is missing"
        yield Check("models", Status.PROBLEM, text, "pip install --force-reinstall georsr")
    else:
        open_model(expected)
        yield Check("models", Status.OK, ", ".join(names))
    yield clip_finding(find_clip())


def clip_finding(found: Path | None) -> Check:
    """Say where CLIP's weights are, or how to get them."""
    name = "/".join(CLIP)
    if found is not None:
        return Check("CLIP weights", Status.OK, f"{name} in {found}")
    from georsr.models.segsr.sfem import CACHE

    place = CACHE.expanduser() / f"{'-'.join(CLIP)}.safetensors"
    return Check(
        "CLIP weights",
        Status.NOTE,
        f"{name} is not on this machine; the bundled models do not need it",
        f"to train or run SeG-SR with CLIP: it is fetched at first use, or save it as {place}",
    )


def find_clip() -> Path | None:
    """File of CLIP's weights on this machine; nothing is fetched."""
    from open_clip.pretrained import get_pretrained_cfg

    from georsr.models.segsr.sfem import CACHE

    model, tag = CLIP
    folder = CACHE.expanduser()
    for path in (folder / f"{model}-{tag}.safetensors", folder / f"{model}.pt"):
        if path.is_file():
            return path
    hub = str(get_pretrained_cfg(model, tag).get("hf_hub", "")).rstrip("/")
    return _in_hub_cache(hub) if hub else None


def _in_hub_cache(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


LITTLE = 2**30
"""Bytes of free disk below which large products get into trouble."""


def check_folders() -> Iterator[Check]:
    """The folder of temporary files, and the current one."""
    yield folder_finding("temporary files", Path(tempfile.gettempdir()), Status.PROBLEM)
    yield folder_finding("current folder", Path.cwd(), Status.NOTE)


def folder_finding(name: str, folder: Path, unwritable: Status) -> Check:
    """Whether a folder can be written to, and the room in it.

    Parameters
    ----------
    unwritable
        How bad it is if it cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
    except OSError as error:
        text = f"{folder} cannot be written to ({error.strerror or error})"
        remedy = "name products in another folder"
        if unwritable is Status.PROBLEM:
            remedy = "set TMPDIR (TEMP on Windows) to a folder with room"
        return Check(name, unwritable, text, remedy)
    free = shutil.disk_usage(folder).free
    text = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < LITTLE:
        return Check(name, Status.WARNING, text, "a product at 4x has 16 times the pixels")
    return Check(name, Status.OK, text)


def check_qgis() -> Iterator[Check]:
    """QGIS, then the plugin in every profile."""
    programs = find_qgis()
    profiles = find_profiles()
    if not programs and not profiles:
        yield Check("QGIS", Status.NOTE, "not found", "only if you want it: https://qgis.org")
        return
    yield Check("QGIS", Status.OK, ", ".join(programs) or "profiles of it")
    if not profiles:
        remedy = "start QGIS once, then run georsr qgis install"
        yield Check("QGIS plugin", Status.NOTE, "QGIS has no profile yet", remedy)
    installed = [profile for profile in profiles if (profile.plugins / PLUGIN).exists()]
    yield from map(plugin_finding, installed)
    if profiles and not installed:
        yield Check("QGIS plugin", Status.NOTE, "not installed", "georsr qgis install")


def find_qgis() -> list[str]:
    """Programs of QGIS on this machine."""
    found = [path for path in map(shutil.which, ("qgis", "qgis-ltr")) if path]
    if sys.platform == "darwin":
        found += map(str, sorted(Path("/Applications").glob("QGIS*.app")))
    elif sys.platform == "win32":
        for root in (Path("C:/Program Files"), Path("C:/OSGeo4W")):
            found += map(str, sorted(root.glob("QGIS *")) or sorted(root.glob("bin/qgis*-bin.exe")))
    return found


def plugin_finding(profile: Profile) -> Check:
    """Whether the plugin in a profile is on, of this version, and finds its georsr."""
    folder = profile.plugins / PLUGIN
    version, own = plugin_version(folder), georsr_version()
    name, again = (
        f"QGIS plugin ({profile.qgis} {profile.name})".replace("( ", "("),
        (f"georsr qgis install --profile {profile.name}"),
    )
    if version != own:
        text = f"is of version {version or 'unknown'}, this georsr is {own}"
        return Check(name, Status.WARNING, text, again)
    if not is_enabled(profile, PLUGIN):
        return Check(name, Status.WARNING, f"{version}, but switched off", again)
    program = _recorded(folder)
    if program is not None and not program.is_file():
        text = f"{version}, but the georsr that installed it, {program}, is gone"
        return Check(name, Status.WARNING, text, again)
    return Check(name, Status.OK, f"{version}, switched on")


def _recorded(folder: Path) -> Path | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Path(record["command"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


TEST_SIZE = 48
"""Pixels on a side."""


def check_run() -> Iterator[Check]:
    """Super-resolve a ramp with the default model on the default device."""
    import numpy as np
    import rasterio
    from affine import Affine

    from georsr.api import super_resolve

    ramp = np.add.outer(np.arange(TEST_SIZE), np.arange(TEST_SIZE)).astype(np.uint8)
    profile = {
        "driver": "GTiff",
        "count": 3,
        "height": TEST_SIZE,
        "width": TEST_SIZE,
        "dtype": "uint8",
        "crs": "EPSG:32632",
        "transform": Affine(1, 0, 500000, 0, -1, 5000000),
    }
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="georsr-doctor-") as folder:
        source, product = Path(folder) / "ramp.tif", Path(folder) / "product.tif"
        with rasterio.open(source, "w", **profile) as dataset:
            dataset.write(np.stack([ramp] * 3))
        report = super_resolve(source, product)
    took = time.perf_counter() - begun
    text = f"{TEST_SIZE} x {TEST_SIZE} pixels at {report.scale}x on {report.device} in {took:.1f} s"
    yield Check("trial run", Status.OK, text)


CHECKS: dict[str, Callable[[], Iterable[Check]]] = {
    "packages": check_packages,
    "gdal": check_gdal,
    "devices": check_devices,
    "weights": check_weights,
    "folders": check_folders,
    "qgis": check_qgis,
    "trial": check_run,
}
"""Name of a check -> the function that makes it, in the order they are shown."""

LAST_RESORT = "if nothing above explains it, reinstall georsr in a fresh environment"


def run_checks(parts: Iterable[str] = tuple(CHECKS)) -> Diagnostics:
    """Ask the parts; their findings in order."""
    found: list[Check] = []
    for part in parts:
        try:
            found += CHECKS[part]()
        except GeorsrError as error:
            found.append(Check(part, Status.PROBLEM, str(error)))
        except Exception as error:  # a broken installation may fail in any way
            text = f"{type(error).__name__}: {error}"
            found.append(Check(part, Status.PROBLEM, text, LAST_RESORT))
    return Diagnostics(tuple(found))

"""Check an installation of georsr, and name a remedy for each problem; nothing is downloaded."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from georsr.device import INSTALL_TORCH
from georsr.errors import GeorsrError, join_lines
from georsr.qgis.install import PLUGIN, RECORD, Profile, find_profiles, is_enabled, plugin_version
from georsr.reports import georsr_version
from georsr.system import GDAL_VARIABLES


class Status(StrEnum):
    """Result of a check: ``note`` is missing but optional, ``problem`` prevents ``georsr sr``."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


MARKS = {Status.OK: "+", Status.NOTE: "-", Status.WARNING: "!", Status.PROBLEM: "x"}


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes
    ----------
    name : str
        What was checked.
    status : Status
    text : str
        What was found.
    remedy : str
        What to do about it; empty if nothing.
    """

    name: str
    status: Status
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnostics:
    """Results of all checks."""

    checks: tuple[Check, ...]

    @property
    def works(self) -> bool:
        """Whether ``georsr sr`` can work."""
        return all(check.status is not Status.PROBLEM for check in self.checks)

    def describe(self) -> str:
        """Return one line per check, each followed by its remedy, and a verdict."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = []
        for check in self.checks:
            lines.append(f"{MARKS[check.status]} {check.name:<{width}}  {check.text}")
            if check.remedy:
                lines.append(f"  {'':<{width}}  -> {check.remedy}")
        problems = sum(check.status is Status.PROBLEM for check in self.checks)
        verdict = "georsr works" if self.works else f"georsr cannot work: {problems} marked x"
        return join_lines([*lines, verdict])

    def to_json(self) -> str:
        """Return indented JSON."""
        checks = [asdict(check) for check in self.checks]
        return json.dumps({"works": self.works, "checks": checks}, indent=2)


OPTIONAL = {
    "isal": "GDAL compresses outputs instead, which takes three times as long",
    "lightning": "needed for georsr train; run pip install '.[train]' in the copy of georsr",
    "onnxruntime": "runs the bundled models fast on a CPU; pip install onnxruntime",
    "huggingface_hub": f"needed for hf:// models; {INSTALL_TORCH}",
    "open_clip_torch": f"needed for networks with CLIP; {INSTALL_TORCH}",
    "pillow": "needed for georsr eval --dataset; pip install pillow",
    "pystac": "needed for --stac; pip install pystac",
    "scipy": "needed for georsr eval --pairs; pip install scipy",
    "torch": f"needed for GPUs, training and other networks; {INSTALL_TORCH}",
}
"""Packages that georsr works without, and what they are for."""


def requirements() -> list[Requirement]:
    """Return the packages that georsr's metadata requires on this platform, without extras."""
    parsed = [Requirement(line) for line in requires("georsr") or ()]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def check_packages() -> Iterator[Check]:
    """Check georsr, Python and every required or optional package."""
    yield Check("georsr", Status.OK, f"{georsr_version()}, in {sys.prefix}")
    yield Check("Python", Status.OK, f"{platform.python_version()} on {platform.platform()}")
    for required in requirements():
        if required.name not in OPTIONAL:
            yield _check_package(required)
    for name, purpose in OPTIONAL.items():
        try:
            yield Check(name, Status.OK, version(name))
        except PackageNotFoundError:
            yield Check(name, Status.NOTE, f"not installed: {purpose}")


def _check_package(required: Requirement) -> Check:
    name, wanted = required.name, required.specifier
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Check(name, Status.PROBLEM, "not installed", f"pip install {name}")
    if not wanted.contains(installed, prereleases=True):
        remedy = f"pip install --upgrade '{name}{wanted}'"
        return Check(name, Status.PROBLEM, f"{installed}, expected {wanted}", remedy)
    return Check(name, Status.OK, installed)


REINSTALL_GEORSR = "run 'pip install --force-reinstall --no-deps .' in the copy of georsr"
REINSTALL_RASTERIO = "pip install --force-reinstall rasterio"
NEEDED_DRIVERS = ("GTiff", "COG", "MEM")
OPTIONAL_DRIVERS = {
    "VRT": "virtual mosaics",
    "JP2OpenJPEG": "JPEG 2000, the format of Sentinel-2",
    "netCDF": "netCDF",
    "HDF5": "HDF5",
}


def check_gdal() -> Iterator[Check]:
    """Check the versions of GDAL and PROJ, their formats and the database of PROJ."""
    import rasterio

    yield Check("GDAL", Status.OK, f"{rasterio.__gdal_version__}, PROJ {rasterio.__proj_version__}")
    with rasterio.Env() as env:
        drivers = set(env.drivers())
    yield from check_drivers(drivers)
    yield check_proj(os.environ)


def check_drivers(drivers: set[str]) -> Iterator[Check]:
    """Check the names of the drivers of GDAL."""
    if missing := [name for name in NEEDED_DRIVERS if name not in drivers]:
        text = f"GDAL lacks {', '.join(missing)}"
        yield Check("formats", Status.PROBLEM, text, REINSTALL_RASTERIO)
    else:
        present = [*NEEDED_DRIVERS, *(name for name in OPTIONAL_DRIVERS if name in drivers)]
        yield Check("formats", Status.OK, ", ".join(present))
    for name, purpose in OPTIONAL_DRIVERS.items():
        if name not in drivers:
            remedy = "only if you need it: conda-forge's rasterio and libgdal plugins have it"
            yield Check(name, Status.NOTE, f"this GDAL does not read {purpose}", remedy)


def check_proj(environ: Mapping[str, str]) -> Check:
    """Check a transform of coordinates, and the variables that may break it."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    present = [name for name in GDAL_VARIABLES if environ.get(name)]
    values = ", ".join(f"{name}={environ[name]}" for name in present)
    unset = f"unset {' '.join(present)}"
    try:
        (east,), (north,) = transform(CRS.from_epsg(4326), CRS.from_epsg(32632), [9.0], [0.0])
        correct = abs(east - 500000) < 1e-3 and abs(north) < 1e-3
        problem = "" if correct else f"9 E, 0 N in UTM 32 is {east:.1f}, {north:.1f}"
    except CRSError as error:
        problem = str(error)
    if problem:
        remedy = f"{unset} ({values}: of another installation)" if present else REINSTALL_RASTERIO
        return Check("PROJ database", Status.PROBLEM, problem, remedy)
    if present:
        remedy = f"{unset} if coordinates or formats are wrong"
        return Check("PROJ database", Status.WARNING, f"works, although {values} is set", remedy)
    return Check("PROJ database", Status.OK, "found")


def check_devices() -> Iterator[Check]:
    """Check which device ``--device auto`` uses, and the GPUs."""
    from georsr.device import num_threads, select_device

    threads = f"{os.cpu_count()} processors, {num_threads()} threads"
    yield Check("device", Status.OK, f"{select_device(backend='auto').describe()}; {threads}")
    if find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            size = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
            yield Check(f"cuda:{index}", Status.OK, size)
    elif shutil.which("nvidia-smi"):
        yield check_unused_gpu(torch.version.cuda)


def check_unused_gpu(cuda: str | None) -> Check:
    """Say why torch, built for this version of CUDA or for none, sees no GPU despite a driver."""
    if cuda is None:
        text = "there is an NVIDIA driver, but this torch is built for the CPU only"
        remedy = "pip install --force-reinstall torch, from an index with CUDA builds"
    else:
        text = f"there is an NVIDIA driver, but torch (CUDA {cuda}) sees no GPU"
        remedy = "run nvidia-smi: the driver may be too old for that CUDA, or hidden from here"
    return Check("cuda", Status.WARNING, text, remedy)


def check_weights() -> Iterator[Check]:
    """Check the bundled models."""
    from georsr.models.io import open_model
    from georsr.models.registry import DEFAULT, bundled_weights

    names, expected = bundled_weights(), DEFAULT.format(scale=4)
    if expected in names:
        open_model(expected)
        yield Check("models", Status.OK, ", ".join(names))
    else:
        text = f"{expected}, the default model, is missing"
        yield Check("models", Status.PROBLEM, text, REINSTALL_GEORSR)


MIN_FREE_BYTES = 2**30
"""Free disk space below which large outputs may not fit."""


def check_folders() -> Iterator[Check]:
    """Check the folder of temporary files and the current folder."""
    yield check_folder("temporary files", Path(tempfile.gettempdir()), Status.PROBLEM)
    yield check_folder("current folder", Path.cwd(), Status.NOTE)


def check_folder(name: str, folder: Path, unwritable: Status) -> Check:
    """Check that a folder can be written to and has space; ``unwritable`` is the status if not."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
    except OSError as error:
        required = unwritable is Status.PROBLEM
        set_folder = "set TMPDIR (TEMP on Windows) to a folder with free space"
        text = f"{folder} cannot be written to ({error.strerror or error})"
        remedy = set_folder if required else "write outputs to another folder"
        return Check(name, unwritable, text, remedy)
    usage = shutil.disk_usage(folder)
    if not usage.total:  # such as ramfs
        return Check(name, Status.OK, f"{folder}, size not known")
    text = f"{folder}, {usage.free / 2**30:.1f} GiB free"
    if usage.free < MIN_FREE_BYTES:
        return Check(name, Status.WARNING, text, "an output at 4x has 16 times the pixels")
    return Check(name, Status.OK, text)


def check_qgis() -> Iterator[Check]:
    """Check QGIS, and its plugin in every profile."""
    program, profiles = shutil.which("qgis") or shutil.which("qgis-ltr"), find_profiles()
    if program is None and not profiles:
        yield Check("QGIS", Status.NOTE, "not found", "only if you want it: https://qgis.org")
        return
    yield Check("QGIS", Status.OK, program or f"{len(profiles)} profiles")
    if not profiles:
        remedy = "start QGIS once, then run georsr qgis install"
        yield Check("QGIS plugin", Status.NOTE, "QGIS has no profile yet", remedy)
    installed = [profile for profile in profiles if (profile.plugins / PLUGIN).exists()]
    yield from map(check_plugin, installed)
    if profiles and not installed:
        yield Check("QGIS plugin", Status.NOTE, "not installed", "georsr qgis install")


def check_plugin(profile: Profile) -> Check:
    """Check that the plugin of a profile is enabled, of this version, and finds its georsr."""
    folder = profile.plugins / PLUGIN
    installed, name = plugin_version(folder), f"{profile.qgis} {profile.name}".strip()
    problem = ""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        program = Path(record["command"][0])
        if not program.is_file():
            problem = f"{installed}, but the georsr that installed it, {program}, is gone"
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        pass  # a plugin that was not installed by georsr has no record
    if not is_enabled(profile, PLUGIN):
        problem = f"{installed}, but switched off"
    if installed != georsr_version():
        problem = f"is of version {installed or 'unknown'}, this georsr is {georsr_version()}"
    if problem:
        remedy = f"georsr qgis install --profile {profile.name}"
        return Check(f"QGIS plugin ({name})", Status.WARNING, problem, remedy)
    return Check(f"QGIS plugin ({name})", Status.OK, f"{installed}, switched on")


TEST_SIZE = 48
"""Height and width of the raster of the trial run, in pixels."""


def check_run() -> Iterator[Check]:
    """Super-resolve a small raster with the default model on the default device."""
    import numpy as np
    import rasterio
    from affine import Affine

    from georsr.api import super_resolve

    ramp = np.add.outer(np.arange(TEST_SIZE), np.arange(TEST_SIZE)).astype(np.uint8)
    size = {"count": 3, "height": TEST_SIZE, "width": TEST_SIZE, "dtype": "uint8"}
    grid = {"crs": "EPSG:32632", "transform": Affine(1, 0, 500000, 0, -1, 5000000)}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="georsr-doctor-") as folder:
        source, output = Path(folder) / "ramp.tif", Path(folder) / "output.tif"
        with rasterio.open(source, "w", driver="GTiff", **size, **grid) as dataset:
            dataset.write(np.stack([ramp] * 3))
        report = super_resolve(source, output)
    seconds = time.perf_counter() - start
    pixels = f"{TEST_SIZE} x {TEST_SIZE} pixels"
    text = f"{pixels} at {report.scale}x on {report.device} in {seconds:.1f} s"
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
"""Name -> function, in the order of the output."""


def run_checks(names: Iterable[str] = tuple(CHECKS)) -> Diagnostics:
    """Run checks; a check that fails itself is a problem like any other."""
    checks: list[Check] = []
    for name in names:
        try:
            checks += CHECKS[name]()
        except GeorsrError as error:
            checks.append(Check(name, Status.PROBLEM, str(error)))
        except Exception as error:  # a broken installation may fail in any way
            remedy = "if nothing above explains it, reinstall georsr in a fresh environment"
            text = f"{type(error).__name__}: {error}"
            checks.append(Check(name, Status.PROBLEM, text, remedy))
    return Diagnostics(tuple(checks))

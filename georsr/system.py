"""Read the limits and the environment of this process; tune the C library's malloc."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

UNLIMITED = 2**63 - 1
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Memory limits of the root control groups of Linux, versions 2 and 1."""
PROCESS_CGROUPS = Path("/proc/self/cgroup")


NO_PROC = "torch and Dask need /proc: mount it (mount -t proc proc /proc)"


def proc_is_missing() -> bool:
    """Return whether this is Linux without /proc, or with processes only (subset=pid)."""
    return sys.platform == "linux" and not os.access("/proc/cpuinfo", os.R_OK)


def available_cpus() -> int:
    """Return the number of CPUs that this process may use, or that the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_limit() -> int:
    """Return the memory of the machine, or the smaller limit of its container or job, in bytes.

    After `share_memory` it is the part of this process.
    """
    limit = UNLIMITED
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in (*CGROUP_LIMITS, *_process_limits()):
        try:
            limit = min(limit, int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return limit // _processes


_processes = 1


def share_memory(processes: int) -> None:
    """Divide the memory that `memory_limit` returns: so many processes run at the same time."""
    global _processes
    _processes = processes


def _process_limits() -> list[Path]:
    """Return the limit files of this process's control groups, such as those of a Slurm job."""
    try:
        lines = PROCESS_CGROUPS.read_text().splitlines()
    except OSError:  # not Linux, or no /proc
        return []
    paths = []
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers not in ("", "memory"):
            continue
        root_limit = CGROUP_LIMITS[bool(controllers)]
        names = [name for name in group.split("/") if name not in ("", "..")]
        for depth in range(1, len(names) + 1):
            paths.append(root_limit.parent.joinpath(*names[:depth], root_limit.name))
    return paths


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of glibc's ``mallopt``, from its ``malloc.h``."""
MALLOC_THRESHOLD = 32 * 2**20
"""Size in bytes up to which freed memory is kept for reuse; glibc's own upper limit."""
MALLOC_ARENAS = 1
"""Number of heaps. By default glibc gives threads heaps of their own, each with its own gaps: the
threads that read, compute, encode and write took up to 100 MiB more together."""


def tune_malloc() -> None:
    """Make glibc keep freed memory for reuse instead of returning it to the system.

    By default glibc returns most of a network's feature maps after each layer, and Dask makes its
    workers return all of it. Getting zeroed pages again took 15 % and 33 % of the run time of
    segsr-lite. This changes the whole process, so only the command line and Dask workers call it.
    Nothing is changed with other C libraries, or where ``MALLOC_MMAP_THRESHOLD_`` or
    ``GLIBC_TUNABLES`` is set.
    """
    env_set = {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys()
    if sys.platform.startswith("linux") and not env_set:
        with suppress(OSError, AttributeError):  # AttributeError: the C library is not glibc
            library = ctypes.CDLL(None)
            library.mallopt(M_MMAP_THRESHOLD, MALLOC_THRESHOLD)
            library.mallopt(M_TRIM_THRESHOLD, 2 * MALLOC_THRESHOLD)
            library.mallopt(M_ARENA_MAX, MALLOC_ARENAS)


GDAL_VARIABLES = ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH")
"""Variables that direct GDAL and PROJ to the files of another installation."""


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that direct rasterio to files of another GDAL or PROJ.

    rasterio's wheels bring these files. A database of PROJ that theirs can read is kept: its folder
    may have grids of transformations.
    """
    spec = importlib.util.find_spec("rasterio")
    own = Path(spec.origin or "").parent if spec else Path()
    if not (own / "proj_data").is_dir():
        return []  # such as conda, which sets the variables itself
    needed = _layout_of_proj(own / "proj_data")
    foreign = [name for name in ("GDAL_DATA", "GDAL_DRIVER_PATH") if environ.get(name)]
    for name in ("PROJ_DATA", "PROJ_LIB"):
        layout = _layout_of_proj(Path(environ.get(name, "")))
        if environ.get(name) and (layout[0] != needed[0] or layout < needed):
            foreign.append(name)
    return foreign


def _layout_of_proj(folder: Path) -> tuple[int, int]:
    """Return the version of the layout of a proj.db; zeros if there is none that can be read."""
    import sqlite3  # only where a variable is set

    query = "SELECT value FROM metadata WHERE key LIKE 'DATABASE.LAYOUT.VERSION.M%' ORDER BY key"
    try:
        address = (folder / "proj.db").absolute().as_uri()
        with closing(sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True)) as database:
            (major,), (minor,) = database.execute(query).fetchall()
        return int(major), int(minor)
    except (sqlite3.Error, ValueError, OSError):
        return 0, 0

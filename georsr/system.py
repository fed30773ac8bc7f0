"""Machine: how many processors and how much memory this process may use."""

from __future__ import annotations

import os
from pathlib import Path

UNLIMITED = 2**63 - 1
_CGROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Limits of everything below version 2 and version 1 of Linux's control groups."""
_OWN_GROUPS = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Those it is bound to, where the system says so; otherwise the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_limit() -> int:
    """Bytes of memory: the machine's, or that of its container or job if that is less."""
    limit = UNLIMITED
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in (*_CGROUPS, *_own_limits()):
        try:
            limit = min(limit, int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return limit


def _own_limits() -> list[Path]:
    """Limits of the groups that this process is in, such as a job's of Slurm or systemd."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux, or no /proc
        return []
    found = []
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers not in ("", "memory"):
            continue
        whole = _CGROUPS[bool(controllers)]
        names = [name for name in group.split("/") if name not in ("", "..")]
        for depth in range(1, len(names) + 1):
            found.append(whole.parent.joinpath(*names[:depth], whole.name))
    return found

"""Machine: how many processors and how much memory this process may use."""

from __future__ import annotations

import os
from pathlib import Path

UNLIMITED = 2**63 - 1
_CGROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def processors() -> int:
    """Those it is bound to, where the system says so; otherwise the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_limit() -> int:
    """Bytes of memory: the machine's, or its container's if that is less."""
    limit = UNLIMITED
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CGROUPS:
        try:
            limit = min(limit, int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return limit

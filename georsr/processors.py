"""Processors: how many this process may use."""

from __future__ import annotations

import os


def processors() -> int:
    """Those it is bound to, where the system says so; otherwise the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

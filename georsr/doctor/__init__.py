"""Doctor: what is here, what is amiss, and what to do about it.

:func:`examine` asks every part in turn. None of them fetches anything, and what fails in one of
them is a finding like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from georsr.doctor.finding import Finding, Report, State
from georsr.errors import GeorsrError

PARTS = ("packages", "gdal", "compute", "weights", "machine", "desktop", "trial")
"""Modules of this room with a function ``findings``, in the order they are shown."""

LAST_RESORT = "if nothing above explains it, reinstall georsr in a fresh environment"


def examine(parts: Iterable[str] = PARTS) -> Report:
    """Ask the parts; their findings in order."""
    from importlib import import_module

    found: list[Finding] = []
    for part in parts:
        try:
            ask: Callable[[], Iterable[Finding]] = import_module(f"georsr.doctor.{part}").findings
            found += ask()
        except GeorsrError as error:
            found.append(Finding(part, State.PROBLEM, str(error)))
        except Exception as error:  # a broken installation may fail in any way
            text = f"{type(error).__name__}: {error}"
            found.append(Finding(part, State.PROBLEM, text, LAST_RESORT))
    return Report(tuple(found))

"""What a georsr that was killed leaves beside its product."""

from __future__ import annotations

import glob
from contextlib import suppress
from pathlib import Path


def unfinished(output: str) -> set[Path]:
    """Files of an unfinished product: hidden, beside it, named after it."""
    path = Path(output).resolve()
    if not path.parent.is_dir():
        return set()
    return set(path.parent.glob(f".{glob.escape(path.name)}.part.*"))


def remove_unfinished(output: str, before: set[Path]) -> None:
    """Remove them, but for those that were there ``before``: they are another run's."""
    for path in unfinished(output) - before:
        with suppress(OSError):  # Windows holds files of a process a moment longer; they are hidden
            path.unlink()

"""Start of a command: what it works with is imported without the garbage collector."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Imports in the body are not walked by the collector, then or later.

    Importing torch makes hundreds of thousands of objects that live as long as the process. The
    collector would walk them while they are made, now and then in the run, and when the process
    ends, which takes a quarter of the time of a short command. Where torch is imported already,
    the process is somebody else's, whose garbage is not ours to keep.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

"""Prepare the process of a command: the drivers of GDAL, and imports without garbage collection."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

SKIPPED_DRIVERS = (
    "MRF",
    "WMS",
    "WMTS",
    "WCS",
    "HTTP",
    "GTI",
    "DERIVED",
    "STACIT",
    "STACTA",
    "PLMOSAIC",
    "PLSCENES",
    "EEDA",
    "EEDAI",
    "DAAS",
    "NGW",
    "OGCAPI",
    "PDF",
    "Rasterlite",
    "KMLSUPEROVERLAY",
    "RPFTOC",
    "ECRGTOC",
)
"""Drivers that the command line and its workers keep out of GDAL altogether, unless allowed.

They read addresses or files that a document names, or write. Other checks refuse them before GDAL
sees the document; this one holds where GDAL opens a file by itself.
"""


def skip_drivers(allowed: Iterable[str] = ()) -> None:
    """Keep `SKIPPED_DRIVERS` out of GDAL; call it before anything registers GDAL's drivers.

    Parameters
    ----------
    allowed : iterable of str
        Drivers that the user wants nonetheless.
    """
    wanted = set(allowed)
    before = os.environ.get("GDAL_SKIP", "").replace(",", " ").split()
    skipped = dict.fromkeys((*before, *SKIPPED_DRIVERS))
    os.environ["GDAL_SKIP"] = ",".join(name for name in skipped if name not in wanted)


class Forgiving(io.FileIO):
    """A file whose writes may fail: on a full disk messages are lost, not the work."""

    def write(self, data: Any) -> int:
        """Write, or pretend to."""
        try:
            written = super().write(data)
        except BrokenPipeError:
            raise  # whoever read it is gone, such as a QGIS that was killed: so ends the work
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def open_streams() -> None:
    """Make sure that the standard streams are open, and that messages cannot end the work.

    Where a stream was closed (``2>&-``), the next file that is opened would get its number, and
    what libraries print would go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None or os.name == "posix":
        raw = io.BufferedWriter(Forgiving(2, "w", closefd=False))
        encoding = getattr(sys.stderr, "encoding", "utf-8")
        sys.stderr = io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True)


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

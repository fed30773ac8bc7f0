"""Fingerprint: what must be the same for two runs to make the same product, byte for byte."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from georsr.config import SRConfig
from georsr.device import Placement
from georsr.errors import InputError
from georsr.models.load import Model
from georsr.models.onnx.session import runtime_version
from georsr.provenance import georsr_version
from georsr.raster.aoi import Area
from georsr.raster.destination import local_files
from georsr.raster.reader import RasterReader
from georsr.types import Window

SAMPLES, SAMPLE = 64, 16 * 1024
"""Pieces of a source's files that its digest covers, and bytes of each: a megabyte of any source,
which a disk reads in a second at worst."""

WITHOUT_INFLUENCE = (
    "allow_drivers",
    "aoi",
    "aoi_mask",
    "backend",
    "batch",
    "bbox",
    "bbox_crs",
    "check_space",
    "device",
    "jobs",
    "max_pixels",
    "overwrite",
    "precision",
    "resume",
    "verify",
)
"""Options that leave the product as it is, or count as what they led to: device, area."""


def fingerprint(
    reader: RasterReader,
    model: Model,
    config: SRConfig,
    placement: Placement,
    area: Area | None = None,
) -> dict[str, str]:
    """Name -> value of everything a product depends on; values are for people, but the source's.

    Parameters
    ----------
    reader
        The source: its header, and of its files size, time of change and some bytes. Files that
        have none, because they lie on a network, count by some of their pixels.
    model, config, placement, area
        What is run on it, how, where, and on which part.
    """
    options = {
        name: json.dumps(value, sort_keys=True)
        for name, value in asdict(config).items()
        if name not in WITHOUT_INFLUENCE
    }
    return {
        "source": source_digest(reader),
        "model": f"{model.spec.name} {model.sha256[:16]}",
        "software": f"georsr {georsr_version()} with torch {torch.__version__}",
        "arithmetic": f"{placement.precision} on {placement.device.type}{_runtime(placement)}",
        "area": "everything" if area is None else area.describe(),
        **options,
    }


def _runtime(placement: Placement) -> str:
    return "" if placement.backend == "torch" else f" with ONNX Runtime {runtime_version()}"


def source_digest(reader: RasterReader) -> str:
    """Of what the source is: its header, and its files or, on a network, some of its pixels."""
    info = reader.info
    digest = hashlib.sha256(repr(replace(info, path="", files=(), notes=())).encode())
    files = [tuple(_paths(name)) for name in info.files]
    for paths in files:
        for path in paths:
            digest.update(_state(path, SAMPLES // len(files)))
    if not all(files) or not files:
        for window in _probes(info.height, info.width):
            pixels = np.ascontiguousarray(reader.read(window).values)
            digest.update(f"{zlib.crc32(pixels.tobytes())}".encode())
    return digest.hexdigest()[:16]


def check_unchanged(reader: RasterReader, digest: str) -> None:
    """Refuse a source that has been written to since its `source_digest` was taken.

    Raises
    ------
    InputError
        What was made of it may be of two states of the file.
    """
    try:
        same = source_digest(reader) == digest
    except FileNotFoundError:
        same = False
    if not same:
        raise InputError(
            f"{reader.info.path}: has changed while it was read, so that a part of the product "
            "would be of the old file and a part of the new one; nothing is written: run again "
            "once the file is complete"
        )


def _paths(name: str) -> Iterable[Path]:
    """One file, however its name is spelled here or in another folder."""
    path = Path(name)
    found = [path] if path.is_file() else local_files(name)
    return dict.fromkeys(path.resolve() for path in found)


def _state(path: Path, samples: int) -> bytes:
    """Name, size and time of a file, and a checksum of samples of its bytes.

    Size and time alone are those of another file where a program sets them.
    """
    status = path.stat()
    checksum = 0
    with path.open("rb", buffering=0) as file:
        for start in _spread(status.st_size - SAMPLE, max(2, samples)):
            file.seek(start)
            checksum = zlib.crc32(file.read(SAMPLE), checksum)
    return f"{path.name} {status.st_size} {status.st_mtime_ns} {checksum}".encode()


def _spread(last: int, count: int) -> list[int]:
    """At most so many numbers from 0 to ``last``, evenly spread, no two the same."""
    return sorted({max(0, last) * i // (count - 1) for i in range(count)})


def _probes(height: int, width: int, side: int = 64) -> list[Window]:
    """A few small windows: the corners and the middle."""
    h, w = min(side, height), min(side, width)
    return [
        Window((height - h) * i // 2, (width - w) * j // 2, h, w)
        for i, j in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2))
    ]

"""Fingerprint: what must be the same for two runs to make the same product, byte for byte."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, replace

import numpy as np
import torch

from georsr.config import SRConfig
from georsr.device import Placement
from georsr.models.load import Model
from georsr.models.onnx.session import runtime_version
from georsr.provenance import georsr_version
from georsr.raster.aoi import Area
from georsr.raster.destination import local_files
from georsr.raster.reader import RasterReader
from georsr.types import Window

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
        The source: its header, and size and time of change of its files. Files that have none,
        because they lie on a network, count by some of their pixels.
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
    remote = not info.files
    for name in info.files:
        # one file, however its name is spelled here or in another folder
        paths = dict.fromkeys(path.resolve() for path in local_files(name))
        remote = remote or not paths
        for path in paths:
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    if remote:
        for window in _probes(info.height, info.width):
            pixels = np.ascontiguousarray(reader.read(window).values)
            digest.update(f"{zlib.crc32(pixels.tobytes())}".encode())
    return digest.hexdigest()[:16]


def _probes(height: int, width: int, side: int = 64) -> list[Window]:
    """A few small windows: the corners and the middle."""
    h, w = min(side, height), min(side, width)
    return [
        Window((height - h) * i // 2, (width - w) * j // 2, h, w)
        for i, j in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2))
    ]

"""A trial: a small raster super-resolved from file to file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from georsr.doctor.finding import Finding, State

SIZE = 48
"""Pixels on a side."""


def findings() -> Iterator[Finding]:
    """Super-resolve a ramp with the default model on the default device."""
    import numpy as np
    import rasterio
    from affine import Affine

    from georsr.api import super_resolve

    ramp = np.add.outer(np.arange(SIZE), np.arange(SIZE)).astype(np.uint8)
    profile = {
        "driver": "GTiff",
        "count": 3,
        "height": SIZE,
        "width": SIZE,
        "dtype": "uint8",
        "crs": "EPSG:32632",
        "transform": Affine(1, 0, 500000, 0, -1, 5000000),
    }
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="georsr-doctor-") as folder:
        source, product = Path(folder) / "ramp.tif", Path(folder) / "product.tif"
        with rasterio.open(source, "w", **profile) as dataset:
            dataset.write(np.stack([ramp] * 3))
        report = super_resolve(source, product)
    took = time.perf_counter() - begun
    text = f"{SIZE} x {SIZE} pixels at {report.scale}x on {report.device} in {took:.1f} s"
    yield Finding("trial run", State.OK, text)

"""Provenance: what a run did, for its report and for the product's own tags."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version


@lru_cache(maxsize=1)
def georsr_version() -> str:
    """Installed version, or ``unknown`` when run from a bare source tree."""
    try:
        return version("georsr")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class LayersReport:
    """Quality layers that were made."""

    output: str
    layers: tuple[str, ...]
    """Names of the bands."""
    width: int
    height: int
    uncertainty: str
    """What the first band is an estimate of, and what that rests on."""
    blocks: int
    blocks_found: int
    """Those that an earlier, interrupted run had finished."""
    bytes: int
    checksum: str
    """Of the pixels."""
    seconds: dict[str, float] = field(default_factory=dict)
    version: str = field(default_factory=georsr_version)

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True)
class RunReport:
    """What one run did; printed by ``--json``."""

    source: str
    output: str
    model: str
    model_sha256: str
    scale: int
    width: int
    """Of the output, pixels."""
    height: int
    bands: int
    dtype: str
    device: str
    precision: str
    tile: int
    halo: int
    overlap: int
    batch: int
    tiles: int
    tiles_skipped: int
    """Tiles without a valid pixel, for which the network did not run."""
    stretch: str
    blocks: int = 0
    """Of the output."""
    blocks_found: int = 0
    """Those that an earlier, interrupted run had finished."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage: total, read (waiting for), network, join, write (waiting for), verify."""
    bytes: int = 0
    checksum: str = ""
    """Of the product's pixels."""
    quality: LayersReport | None = None
    """Layers that were made beside it."""
    warnings: tuple[str, ...] = ()
    version: str = field(default_factory=georsr_version)

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2)


def product_tags(
    *, model: str, model_sha256: str, scale: int, source_name: str, stretch: str
) -> dict[str, str]:
    """TIFF tags that say how a product was made; no times, so that runs repeat bit for bit."""
    return {
        "GEORSR_VERSION": georsr_version(),
        "GEORSR_MODEL": model,
        "GEORSR_MODEL_SHA256": model_sha256,
        "GEORSR_SCALE": str(scale),
        "GEORSR_SOURCE": source_name,
        "GEORSR_STRETCH": stretch,
        "GEORSR_NOTE": "super-resolved: contains synthesised detail that was not measured",
    }

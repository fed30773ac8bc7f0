"""georsr: semantic-guided super-resolution of georeferenced rasters.

Public names load on first use, so that ``import georsr`` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from georsr.api import plan_report, quality_layers, super_resolve, super_resolve_array
    from georsr.config import SRConfig
    from georsr.errors import GeorsrError
    from georsr.models.load import Model, open_model
    from georsr.models.spec import ModelSpec
    from georsr.provenance import LayersReport, RunReport

_HOMES = {
    "GeorsrError": "georsr.errors",
    "LayersReport": "georsr.provenance",
    "Model": "georsr.models.load",
    "ModelSpec": "georsr.models.spec",
    "RunReport": "georsr.provenance",
    "SRConfig": "georsr.config",
    "open_model": "georsr.models.load",
    "plan_report": "georsr.api",
    "quality_layers": "georsr.api",
    "super_resolve": "georsr.api",
    "super_resolve_array": "georsr.api",
}

__all__ = [
    "GeorsrError",
    "LayersReport",
    "Model",
    "ModelSpec",
    "RunReport",
    "SRConfig",
    "open_model",
    "plan_report",
    "quality_layers",
    "super_resolve",
    "super_resolve_array",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'georsr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

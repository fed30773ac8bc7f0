"""georsr: semantic-guided super-resolution of georeferenced rasters.

Public names load on first use, so that ``import georsr`` stays instant.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from georsr.api import plan_report, quality_layers, super_resolve, super_resolve_array
    from georsr.config import SRConfig
    from georsr.engine.estimate import Estimate
    from georsr.errors import (
        GeoreferenceWarning,
        GeorsrError,
        GeorsrWarning,
        InputError,
        InterruptedRunError,
        ModelError,
        OutputError,
        ResourceError,
        UsageError,
    )
    from georsr.models.load import Model, open_model
    from georsr.models.spec import ModelSpec
    from georsr.progress import Progress
    from georsr.provenance import LayersReport, RunReport

    __version__: str

_HOMES = {
    "Estimate": "georsr.engine.estimate",
    "GeoreferenceWarning": "georsr.errors",
    "GeorsrError": "georsr.errors",
    "GeorsrWarning": "georsr.errors",
    "InputError": "georsr.errors",
    "InterruptedRunError": "georsr.errors",
    "LayersReport": "georsr.provenance",
    "Model": "georsr.models.load",
    "ModelError": "georsr.errors",
    "ModelSpec": "georsr.models.spec",
    "OutputError": "georsr.errors",
    "Progress": "georsr.progress",
    "ResourceError": "georsr.errors",
    "RunReport": "georsr.provenance",
    "SRConfig": "georsr.config",
    "UsageError": "georsr.errors",
    "open_model": "georsr.models.load",
    "plan_report": "georsr.api",
    "quality_layers": "georsr.api",
    "super_resolve": "georsr.api",
    "super_resolve_array": "georsr.api",
}

__all__ = [
    "Estimate",
    "GeoreferenceWarning",
    "GeorsrError",
    "GeorsrWarning",
    "InputError",
    "InterruptedRunError",
    "LayersReport",
    "Model",
    "ModelError",
    "ModelSpec",
    "OutputError",
    "Progress",
    "ResourceError",
    "RunReport",
    "SRConfig",
    "UsageError",
    "__version__",
    "open_model",
    "plan_report",
    "quality_layers",
    "super_resolve",
    "super_resolve_array",
]

logging.getLogger("georsr").addHandler(logging.NullHandler())  # whoever imports it decides


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("georsr.provenance").georsr_version()
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'georsr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

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
    from georsr.jobs.estimate import RunEstimate
    from georsr.models.io import Model, create_model, open_model
    from georsr.models.spec import ModelSpec
    from georsr.progress import Progress
    from georsr.reports import LayersReport, RunReport

    __version__: str

_HOMES = {
    "GeoreferenceWarning": "georsr.errors",
    "GeorsrError": "georsr.errors",
    "GeorsrWarning": "georsr.errors",
    "InputError": "georsr.errors",
    "InterruptedRunError": "georsr.errors",
    "LayersReport": "georsr.reports",
    "Model": "georsr.models.io",
    "ModelError": "georsr.errors",
    "ModelSpec": "georsr.models.spec",
    "OutputError": "georsr.errors",
    "Progress": "georsr.progress",
    "ResourceError": "georsr.errors",
    "RunEstimate": "georsr.jobs.estimate",
    "RunReport": "georsr.reports",
    "SRConfig": "georsr.config",
    "UsageError": "georsr.errors",
    "create_model": "georsr.models.io",
    "open_model": "georsr.models.io",
    "plan_report": "georsr.api",
    "quality_layers": "georsr.api",
    "super_resolve": "georsr.api",
    "super_resolve_array": "georsr.api",
}

__all__ = [
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
    "RunEstimate",
    "RunReport",
    "SRConfig",
    "UsageError",
    "__version__",
    "create_model",
    "open_model",
    "plan_report",
    "quality_layers",
    "super_resolve",
    "super_resolve_array",
]

logging.getLogger("georsr").addHandler(logging.NullHandler())  # whoever imports it decides


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("georsr.reports").georsr_version()
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'georsr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""georsr: semantic-guided super-resolution of georeferenced rasters.

Public names are imported on first use, so that ``import georsr`` is fast.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from georsr.api import estimate, quality_layers, super_resolve, super_resolve_array
    from georsr.batch import BatchItem, BatchReport, super_resolve_many
    from georsr.config import ArrayOptions, SRConfig, SROptions
    from georsr.errors import (
        BandWarning,
        GeoreferenceWarning,
        GeorsrError,
        GeorsrWarning,
        InputError,
        InterruptedRunError,
        MetadataWarning,
        ModelError,
        OutputError,
        RadiometryWarning,
        ResourceError,
        UsageError,
    )
    from georsr.models.io import Model, create_model, open_model
    from georsr.models.spec import ModelSpec
    from georsr.progress import JsonProgress, Progress, TqdmProgress
    from georsr.radiometry.normalization import Normalization
    from georsr.reports import ConsistencyReport, LayersReport, RunReport
    from georsr.run_estimate import RunEstimate

    __version__: str

_MODULES = {
    "georsr.api": ("estimate", "quality_layers", "super_resolve", "super_resolve_array"),
    "georsr.batch": ("BatchItem", "BatchReport", "super_resolve_many"),
    "georsr.config": ("ArrayOptions", "SRConfig", "SROptions"),
    "georsr.errors": (
        "BandWarning",
        "GeoreferenceWarning",
        "GeorsrError",
        "GeorsrWarning",
        "InputError",
        "InterruptedRunError",
        "ModelError",
        "OutputError",
        "MetadataWarning",
        "RadiometryWarning",
        "ResourceError",
        "UsageError",
    ),
    "georsr.run_estimate": ("RunEstimate",),
    "georsr.models.io": ("Model", "create_model", "open_model"),
    "georsr.models.spec": ("ModelSpec",),
    "georsr.progress": ("JsonProgress", "Progress", "TqdmProgress"),
    "georsr.radiometry.normalization": ("Normalization",),
    "georsr.reports": ("ConsistencyReport", "LayersReport", "RunReport"),
}
"""Module -> its public names."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ArrayOptions",
    "BandWarning",
    "BatchItem",
    "BatchReport",
    "ConsistencyReport",
    "GeoreferenceWarning",
    "GeorsrError",
    "GeorsrWarning",
    "InputError",
    "InterruptedRunError",
    "JsonProgress",
    "LayersReport",
    "MetadataWarning",
    "Model",
    "ModelError",
    "ModelSpec",
    "Normalization",
    "OutputError",
    "Progress",
    "RadiometryWarning",
    "ResourceError",
    "RunEstimate",
    "RunReport",
    "SRConfig",
    "SROptions",
    "TqdmProgress",
    "UsageError",
    "__version__",
    "create_model",
    "estimate",
    "open_model",
    "quality_layers",
    "super_resolve",
    "super_resolve_array",
    "super_resolve_many",
]

logging.getLogger("georsr").addHandler(logging.NullHandler())  # the application configures logging


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("georsr.reports").georsr_version()
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'georsr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

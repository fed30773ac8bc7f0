"""Names that moved between QGIS 3.22 (PyQt5) and QGIS 4 (PyQt6, scoped enumerations)."""

from __future__ import annotations

from functools import reduce
from typing import Any

from qgis import core


def first_of(*paths: str) -> Any:
    """Look up dotted names below ``qgis.core``; the first that exists.

    Raises
    ------
    ImportError
        None does.
    """
    for path in paths:
        try:
            return reduce(getattr, path.split("."), core)
        except AttributeError:
            continue
    raise ImportError(f"this version of QGIS has none of {', '.join(paths)}")


ADVANCED = first_of(
    "Qgis.ProcessingParameterFlag.Advanced", "QgsProcessingParameterDefinition.FlagAdvanced"
)
INTEGER = first_of(
    "Qgis.ProcessingNumberParameterType.Integer", "QgsProcessingParameterNumber.Integer"
)
DOUBLE = first_of(
    "Qgis.ProcessingNumberParameterType.Double", "QgsProcessingParameterNumber.Double"
)
POLYGONS = first_of("Qgis.ProcessingSourceType.VectorPolygon", "QgsProcessing.TypeVectorPolygon")
ANY_FILE = first_of("Qgis.ProcessingFileParameterBehavior.File", "QgsProcessingParameterFile.File")
CRITICAL = first_of("Qgis.MessageLevel.Critical", "Qgis.Critical")
WKT2 = first_of("Qgis.CrsWktVariant.Wkt2_2019", "QgsCoordinateReferenceSystem.WKT2_2019")

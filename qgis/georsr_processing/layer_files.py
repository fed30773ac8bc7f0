"""Find the files of QGIS layers, and write mask layers as GeoJSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsCoordinateTransform,
    QgsFeatureRequest,
    QgsProcessingException,
)

from .qt_compat import WKT2

IN_MEMORY = ("/vsimem/", "MEM:::", "<VRTDataset", "<GDAL_WMS>")


def why_unreadable(layer: Any) -> str:
    """Return why georsr cannot read a raster layer; empty if it can."""
    name, kind = layer.name(), layer.providerType()
    source = layer.source()
    if kind != "gdal":
        return (
            f"layer '{name}' is a layer of the provider '{kind}', not a file: georsr reads files, "
            "so save it as GeoTIFF first (Layer > Save As…) and use that"
        )
    if source.startswith(IN_MEMORY):
        return (
            f"layer '{name}' exists in the memory of QGIS only, where georsr cannot read it: save "
            "it as GeoTIFF first (Layer > Save As…) and use that"
        )
    return ""


@dataclass(frozen=True)
class RasterFile:
    """Properties of a raster layer, read in the thread that owns it.

    Attributes
    ----------
    name : str
        Name of the layer.
    source : str
        Name that GDAL opens.
    crs : QgsCoordinateReferenceSystem
        CRS of the layer; a project may override that of the file.
    own_crs : QgsCoordinateReferenceSystem
        CRS of the file.
    """

    name: str
    source: str
    crs: Any
    own_crs: Any

    @property
    def is_overridden(self) -> bool:
        """Return whether the project overrides the CRS of the file."""
        return bool(self.own_crs.isValid() and self.crs.isValid() and self.own_crs != self.crs)


def raster_file(layer: Any) -> RasterFile:
    """Describe a raster layer.

    QGIS appends its own options to a source, behind a bar. Paths relative to the folder of QGIS, as
    ``qgis_process`` may be given, become absolute.
    """
    text = str(layer.source()).split("|")[0]
    source = str(Path(text).absolute()) if Path(text).exists() else text
    return RasterFile(layer.name(), source, layer.crs(), layer.dataProvider().crs())


def write_mask(mask: Any, raster: RasterFile, context: Any, path: Path) -> None:
    """Write the polygons of a vector source as GeoJSON in the CRS of a raster's file.

    Coordinates are those of the layer; the name is that of the file's CRS, which is the same
    unless the project corrects it.

    Raises
    ------
    QgsProcessingException
        It contains no polygon, or a polygon cannot be transformed to the raster's CRS.
    """
    crs = raster.crs if raster.crs.isValid() else mask.sourceCrs()
    transform = QgsCoordinateTransform(mask.sourceCrs(), crs, context.transformContext())
    features = []
    for feature in mask.getFeatures(QgsFeatureRequest().setSubsetOfAttributes([])):
        geometry = feature.geometry()
        if geometry.isNull() or geometry.isEmpty():
            continue
        geometry.transform(transform)
        shape = json.loads(geometry.asJson(17))
        features.append({"type": "Feature", "properties": {}, "geometry": shape})
    if not features:
        raise QgsProcessingException(f"mask layer '{mask.sourceName()}' holds no polygon")
    name = crs_name(raster.own_crs if raster.own_crs.isValid() else crs)
    collection = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": name}},
        "features": features,
    }
    path.write_text(json.dumps(collection), encoding="utf-8")


def crs_name(crs: Any) -> str:
    """Return the EPSG code of a CRS, or its WKT if it has none."""
    authority = str(crs.authid())
    return authority if authority.startswith("EPSG:") else str(crs.toWkt(WKT2))

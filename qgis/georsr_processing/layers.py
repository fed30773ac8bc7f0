"""From layers of a QGIS project to files that georsr reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeatureRequest,
    QgsProcessingException,
)

WGS84 = "EPSG:4326"
IN_MEMORY = ("/vsimem/", "MEM:::", "<VRTDataset", "<GDAL_WMS>")


def why_unreadable(layer: Any) -> str:
    """Why georsr, another process, cannot read a raster layer; empty if it can."""
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


def source_of(layer: Any) -> str:
    """What GDAL opens for a layer: QGIS appends its own options behind a bar.

    Paths relative to the folder of QGIS, as ``qgis_process`` may be given, become absolute.
    """
    text = str(layer.source()).split("|")[0]
    return str(Path(text).absolute()) if Path(text).exists() else text


def file_crs(layer: Any) -> Any:
    """CRS that the file itself carries: a project may give its layer another one."""
    return layer.dataProvider().crs()


def write_mask(source: Any, layer: Any, context: Any, path: Path) -> None:
    """Write the polygons of a vector source as GeoJSON in the CRS of a raster layer's file.

    Coordinates are those of the layer; the name is that of the file's CRS, which is the same
    unless the project corrects it.

    Raises
    ------
    QgsProcessingException
        It holds no polygon, or they cannot be brought into the raster's CRS.
    """
    crs = layer.crs() if layer.crs().isValid() else source.sourceCrs()
    transform = QgsCoordinateTransform(source.sourceCrs(), crs, context.transformContext())
    features = []
    for feature in source.getFeatures(QgsFeatureRequest().setSubsetOfAttributes([])):
        geometry = feature.geometry()
        if geometry.isNull() or geometry.isEmpty():
            continue
        geometry.transform(transform)
        shape = json.loads(geometry.asJson(17))
        features.append({"type": "Feature", "properties": {}, "geometry": shape})
    if not features:
        raise QgsProcessingException(f"mask layer '{source.sourceName()}' holds no polygon")
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    own = file_crs(layer)
    name = crs_name(own if own.isValid() else crs)
    collection["crs"] = {"type": "name", "properties": {"name": name}}
    path.write_text(json.dumps(collection), encoding="utf-8")


def crs_name(crs: Any) -> str:
    """EPSG code, or WKT where a CRS has none."""
    authority = str(crs.authid())
    if authority.startswith("EPSG:"):
        return authority
    return str(crs.toWkt(wkt_variant()))


def wkt_variant() -> Any:
    """WKT 2, which names every CRS; the enumeration moved in QGIS 3.36."""
    from .compat import first_of

    return first_of("Qgis.CrsWktVariant.Wkt2_2019", "QgsCoordinateReferenceSystem.WKT2_2019")


def is_overridden(layer: Any) -> bool:
    """Whether the project gives the layer another CRS than its file does."""
    own: QgsCoordinateReferenceSystem = file_crs(layer)
    return bool(own.isValid() and layer.crs().isValid() and own != layer.crs())

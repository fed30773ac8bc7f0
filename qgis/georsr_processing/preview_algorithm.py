"""Processing algorithm: super-resolve a small part of a raster, to see what a run would give."""

from __future__ import annotations

import json
from typing import Any

from qgis.core import (
    QgsCoordinateTransform,
    QgsProcessingException,
    QgsProcessingParameterNumber,
    QgsProcessingParameterPoint,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProject,
)
from qgis.utils import iface

from .base_algorithm import INPUT, GeorsrAlgorithm
from .command_line import Request
from .layer_files import raster_file
from .layer_style import load_named
from .qt_compat import INTEGER

POINT, SIZE, OUTPUT = "POINT", "SIZE", "OUTPUT"

HELP = """<p>Super-resolves a small square of a raster, in seconds, and adds it as a layer: compare
it with the map before you super-resolve all of the raster. The pixels are those of an output of
the complete raster.</p>
<h3>Red, green, blue band</h3><p>The bands given to the model. If all three are empty, they are
found by their names, colours or wavelengths, and the log says which were taken.</p>
<h3>Place</h3><p>Centre of the square; if empty, the centre of the map.</p>
<h3>Size</h3><p>Height and width of the square in pixels of the input.</p>
"""


class Preview(GeorsrAlgorithm):
    """``georsr sr`` of a small part as an algorithm."""

    help_text = HELP

    def name(self) -> str:
        """Id, with the provider's in front."""
        return "preview"

    def displayName(self) -> str:
        """Name in the toolbox."""
        return self.tr("Preview")

    def shortDescription(self) -> str:
        """Tooltip."""
        return self.tr("Super-resolves a small part at the centre of the map")

    def tags(self) -> list[str]:
        """Words that find it."""
        return ["super-resolution", "preview", "try", "compare"]

    def initAlgorithm(self, config: Any = None) -> None:
        """Define parameters and outputs."""
        self.addParameter(QgsProcessingParameterRasterLayer(INPUT, self.tr("Input raster")))
        self.add_model()
        self.add_bands()
        center = self.tr("Place (the centre of the map if empty)")
        self.addParameter(QgsProcessingParameterPoint(POINT, center, optional=True))
        size = self.tr("Size, in input pixels")
        self.addParameter(
            QgsProcessingParameterNumber(SIZE, size, INTEGER, 128, minValue=16, maxValue=1024)
        )
        self.add_device()
        preview = self.tr("Preview")
        self.addParameter(QgsProcessingParameterRasterDestination(OUTPUT, preview))

    def prepareAlgorithm(self, parameters: dict[str, Any], context: Any, feedback: Any) -> bool:
        """Read layers and the map, which is allowed in the main thread only."""
        layer = self.file_layer(parameters, INPUT, context)
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, INPUT))
        self._raster, self._renderer = raster_file(layer), layer.renderer().clone()
        self._extent = layer.extent()
        self._pixel = layer.rasterUnitsPerPixelX(), layer.rasterUnitsPerPixelY()
        self._map = None
        if iface is not None and parameters.get(POINT) in (None, ""):
            centre = iface.mapCanvas().center()
            crs = iface.mapCanvas().mapSettings().destinationCrs()
            transform = QgsCoordinateTransform(crs, layer.crs(), QgsProject.instance())
            self._map = transform.transform(centre)
        return True

    def processAlgorithm(
        self, parameters: dict[str, Any], context: Any, feedback: Any
    ) -> dict[str, Any]:
        """Run georsr on the bounds of the square, moved into the raster."""
        point = self._map or self._extent.center()
        if parameters.get(POINT) not in (None, ""):
            point = self.parameterAsPoint(parameters, POINT, context, self._raster.crs)
            if not self._extent.contains(point):
                position = f"{point.x():g}, {point.y():g}"
                raise QgsProcessingException(self.tr(f"{position}: lies outside of the raster"))
        size = self.parameterAsInt(parameters, SIZE, context)
        box = self._extent
        bounds = []
        for middle, low, high, pixel in (
            (point.x(), box.xMinimum(), box.xMaximum(), self._pixel[0]),
            (point.y(), box.yMinimum(), box.yMaximum(), self._pixel[1]),
        ):
            side = min(size * pixel, high - low)
            start = min(max(low, middle - side / 2), high - side)
            bounds.append((start, start + side))
        (west, east), (south, north) = bounds
        output = self.output_path(parameters, OUTPUT, context)
        request = Request(
            source=self._raster.source,
            output=output,
            model=self.model(parameters, context),
            indexes=self.bands(parameters, context),
            bounds=(west, south, east, north),
            device=self.device(parameters, context),
        )
        result = self.run_to_files(request.arguments(), [output], feedback)
        if result.cancelled:
            return {}
        report = json.loads(result.stdout)
        name = f"{self._raster.name} preview {report['model']}"
        load_named(output, name, context, self._renderer, report["source_bands"])
        return {OUTPUT: output}

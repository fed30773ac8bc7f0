"""Processing algorithm: write quality layers of a super-resolved raster."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessingException,
    QgsProcessingOutputString,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
)

from .base_algorithm import INPUT, MODEL_FILE, GeorsrAlgorithm
from .command_line import layers_arguments
from .layer_files import raster_file, write_mask
from .qt_compat import POLYGONS

PRODUCT, MASK, OUTPUT = "PRODUCT", "MASK", "OUTPUT"

HELP = """<p>Writes a raster on the grid of the output that estimates the reliability of each pixel:
the expected absolute error, the disagreement between predictions for eight rotations and flips and
for overlapping tiles, the inconsistency with the input, detail that the input does not support, and
the guidance maps of the network.</p>
<p>The model and options are taken from the output's tags. It takes about eight times as long as
the output did; 'Super-resolve raster' can write the layers along with the output.</p>
<h3>Input raster, super-resolved raster</h3><p>The source and the result of a run.</p>
<h3>Mask layer</h3><p>The polygons to which the output was cut, if any.</p>
<h3>Weights file</h3><p>Only if the model is not built in.</p>
"""


class QualityLayers(GeorsrAlgorithm):
    """``georsr quality layers`` as an algorithm."""

    help_text = HELP

    def name(self) -> str:
        """Id, with the provider's in front."""
        return "qualitylayers"

    def displayName(self) -> str:
        """Name in the toolbox."""
        return self.tr("Quality layers")

    def shortDescription(self) -> str:
        """Tooltip."""
        return self.tr("Writes how far each pixel of a super-resolved raster can be trusted")

    def tags(self) -> list[str]:
        """Words that find it."""
        return ["super-resolution", "uncertainty", "error", "quality", "trust", "consistency"]

    def initAlgorithm(self, config: Any = None) -> None:
        """Define parameters and outputs."""
        for name, text in ((INPUT, "Input raster"), (PRODUCT, "Super-resolved raster")):
            self.addParameter(QgsProcessingParameterRasterLayer(name, self.tr(text)))
        mask = self.tr("Mask layer to which the output was cut")
        self.addParameter(
            QgsProcessingParameterFeatureSource(MASK, mask, [POLYGONS], optional=True)
        )
        self.add_model_file(self.tr("Weights file, if the model is not built in"))
        self.add_device()
        layers = self.tr("Quality layers")
        self.addParameter(QgsProcessingParameterRasterDestination(OUTPUT, layers))
        self.addOutput(QgsProcessingOutputString("LAYERS", self.tr("Names of the layers")))

    def prepareAlgorithm(self, parameters: dict[str, Any], context: Any, feedback: Any) -> bool:
        """Read layers, which is allowed in the main thread only."""
        files = []
        for name in (INPUT, PRODUCT):
            layer = self.file_layer(parameters, name, context)
            if layer is None:
                raise QgsProcessingException(self.invalidRasterError(parameters, name))
            files.append(raster_file(layer))
        self._raster, self._output = files
        return True

    def processAlgorithm(
        self, parameters: dict[str, Any], context: Any, feedback: Any
    ) -> dict[str, Any]:
        """Run georsr."""
        output = self.output_path(parameters, OUTPUT, context)
        mask = self.parameterAsSource(parameters, MASK, context)
        with tempfile.TemporaryDirectory(prefix="georsr-") as folder:
            file = Path(folder) / "mask.geojson"
            if mask is not None:
                write_mask(mask, self._raster, context, file)
            arguments = layers_arguments(
                self._raster.source,
                self._output.source,
                output,
                str(self.parameterAsFile(parameters, MODEL_FILE, context)),
                None if mask is None else str(file),
                self.device(parameters, context),
            )
            result = self.run_to_files(arguments, [output], feedback)
        if result.cancelled:
            return {}
        report = json.loads(result.stdout)
        feedback.pushInfo(f"{', '.join(report['layers'])}; {report['uncertainty']}")
        return {OUTPUT: output, "LAYERS": ", ".join(report["layers"])}

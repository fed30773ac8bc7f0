"""Processing algorithm: describe a model, and estimate a run of it."""

from __future__ import annotations

import json
from typing import Any

from qgis.core import (
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterRasterLayer,
)

from .base_algorithm import INPUT, GeorsrAlgorithm
from .layer_files import raster_file

HELP = """<p>Writes into the log what a model is: factor, bands, what it was trained on, its
licence and measured quality. With a raster: also how many tiles, how much memory and disk, and
about how long super-resolving it would take. Nothing is written.</p>
<p>The version, devices and libraries of georsr are shown too, with a remedy for each problem.</p>
"""


class ModelInformation(GeorsrAlgorithm):
    """``georsr info`` and ``georsr doctor`` as an algorithm."""

    help_text = HELP

    def name(self) -> str:
        """Id, with the provider's in front."""
        return "modelinformation"

    def displayName(self) -> str:
        """Name in the toolbox."""
        return self.tr("Model information")

    def shortDescription(self) -> str:
        """Tooltip."""
        return self.tr("Describes a model, estimates the work for a raster, and checks georsr")

    def tags(self) -> list[str]:
        """Words that find it."""
        return ["super-resolution", "model", "weights", "version", "doctor", "estimate"]

    def initAlgorithm(self, config: Any = None) -> None:
        """Define parameters and outputs."""
        self.add_model()
        self.addParameter(
            QgsProcessingParameterRasterLayer(
                INPUT, self.tr("Raster to estimate the work for"), optional=True
            )
        )
        for name in ("NAME", "BAND_NAMES", "LICENCE", "SHA256"):
            self.addOutput(QgsProcessingOutputString(name, name.replace("_", " ").capitalize()))
        for name in ("SCALE", "TILE"):
            self.addOutput(QgsProcessingOutputNumber(name, name.capitalize()))

    def prepareAlgorithm(self, parameters: dict[str, Any], context: Any, feedback: Any) -> bool:
        """Read the layer, which is allowed in the main thread only."""
        layer = self.file_layer(parameters, INPUT, context)
        self._source = "" if layer is None else raster_file(layer).source
        return True

    def processAlgorithm(
        self, parameters: dict[str, Any], context: Any, feedback: Any
    ) -> dict[str, Any]:
        """Ask georsr."""
        model = f"--model={self.model(parameters, context)}"
        result = self.run_georsr(["info", model, "--json"], feedback)
        if result.cancelled:
            return {}
        facts = json.loads(result.stdout)
        for key, value in facts.items():
            feedback.pushInfo(f"{key}: {value}")
        feedback.setProgress(50)
        if self._source:
            plan = self.run_georsr(["info", model, "--", self._source], feedback)
            feedback.pushInfo(plan.stdout)
        else:
            feedback.pushInfo(self.run_georsr(["doctor"], feedback).stdout)
        return {
            "NAME": facts["name"],
            "BAND_NAMES": ", ".join(facts["band_names"]) or "any",
            "LICENCE": facts["licence"],
            "SHA256": facts["sha256"],
            "SCALE": facts["scale"],
            "TILE": facts["tile"],
        }

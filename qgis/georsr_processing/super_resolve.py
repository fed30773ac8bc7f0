"""Algorithm: a raster at 2x or 4x its resolution."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessingException,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterBand,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)

from . import arguments
from .algorithm import GeorsrAlgorithm, logged
from .arguments import Request, split_extra
from .layer_files import raster_file, why_unreadable, write_mask
from .qt_compat import DOUBLE, INTEGER, POLYGONS

INPUT, BANDS, EXTENT, MASK, OUTSIDE = "INPUT", "BANDS", "EXTENT", "MASK", "OUTSIDE"
TILE, NODATA, COG, EXTRA, OUTPUT = "TILE", "NODATA", "COG", "EXTRA", "OUTPUT"
KEEP, TTA, QUALITY = "CONSISTENCY", "TTA", "QUALITY"
WANTED, MODE = "PRODUCT_BANDS", "BAND_MODE"

HELP = """<p>Writes the raster at 2x or 4x its resolution, with its georeferencing, data type,
radiometry, nodata and band names kept. The file appears when it is complete and verified.</p>
<p>A network adds detail that was not measured: it is plausible, not observed.</p>
<h3>Input raster</h3><p>Any file GDAL reads. Layers of web services (WMS, WMTS, XYZ) and layers in
memory are to be saved as GeoTIFF first.</p>
<h3>Bands</h3><p>Red, green and blue, in that order, for the networks; for Sentinel-2 stacks that is
often 4, 3, 2. Empty takes those that say they are red, green and blue. The bicubic models take any
bands.</p>
<h3>Bands of the product</h3><p><i>guide</i>: those the network sees. <i>all</i>: the others too,
with the detail of those the network sees added (<i>inject</i>), or made in another way.</p>
<h3>Model</h3><p>The <i>sensor</i> models are for scenes as sensors record them; those without that
word are for images that were reduced; <i>bicubic</i> invents nothing.</p>
<h3>Extent, mask layer</h3><p>Only this part, or what these polygons cover; pixels outside the
polygons become nodata unless the option says otherwise.</p>
<h3>Tile, device</h3><p>A smaller tile needs less memory. <i>auto</i> takes the graphics card if
there is one.</p>
<h3>Make the product, shrunk again, give the input back</h3><p><i>auto</i> does so where the model
knows by which kernel its inputs were shrunk.</p>
<h3>Quality layers</h3><p>A second raster of the same grid: the expected error and what else speaks
for and against each pixel.</p>
<h3>More options</h3><p>Any other option of <code>georsr sr</code>, for example
<code>--co COMPRESS=ZSTD --dtype uint16</code>.</p>
"""


class SuperResolve(GeorsrAlgorithm):
    """``georsr sr`` as an algorithm."""

    help_text = HELP

    def name(self) -> str:
        """Id, with the provider's in front."""
        return "superresolve"

    def displayName(self) -> str:
        """Name in the toolbox."""
        return self.tr("Super-resolve raster")

    def shortDescription(self) -> str:
        """Tooltip."""
        return self.tr("Writes a raster at 2x or 4x its resolution")

    def tags(self) -> list[str]:
        """Words that find it."""
        return ["super-resolution", "upscale", "enhance", "sharpen", "resample", "SeG-SR"]

    def initAlgorithm(self, config: Any = None) -> None:
        """Define parameters and outputs."""
        self.addParameter(QgsProcessingParameterRasterLayer(INPUT, self.tr("Input raster")))
        self.add_model()
        self.addParameter(
            QgsProcessingParameterBand(
                BANDS,
                self.tr("Bands the network sees, in the model's order"),
                parentLayerParameterName=INPUT,
                optional=True,
                allowMultiple=True,
            )
        )
        wanted = self.tr("Bands of the product: those, or all")
        self.add_choice(WANTED, wanted, arguments.BANDS)
        self.addParameter(QgsProcessingParameterExtent(EXTENT, self.tr("Extent"), optional=True))
        self.addParameter(
            QgsProcessingParameterFeatureSource(
                MASK, self.tr("Mask layer"), [POLYGONS], optional=True
            )
        )
        self._add_advanced_parameters()
        self.addParameter(
            QgsProcessingParameterRasterDestination(OUTPUT, self.tr("Super-resolved"))
        )
        quality = self.tr("Quality layers (9 times the time)")
        self.addParameter(
            QgsProcessingParameterRasterDestination(
                QUALITY, quality, optional=True, createByDefault=False
            )
        )
        self.addOutput(QgsProcessingOutputNumber("SCALE", self.tr("Factor")))
        self.addOutput(QgsProcessingOutputString("MODEL_NAME", self.tr("Model")))

    def _add_advanced_parameters(self) -> None:
        outside = self.tr("Pixels outside the mask become nodata")
        self.add_advanced(QgsProcessingParameterBoolean(OUTSIDE, outside, defaultValue=True))
        self.add_advanced(
            QgsProcessingParameterNumber(
                TILE, self.tr("Tile, in source pixels"), INTEGER, optional=True, minValue=32
            )
        )
        self.add_device()
        keep = self.tr("Make the product, shrunk again, give the input back")
        self.add_choice(KEEP, keep, arguments.CONSISTENCY, advanced=True)
        mode = self.tr("How bands the network does not see are made")
        self.add_choice(MODE, mode, arguments.BAND_MODES, advanced=True)
        tta = self.tr("Mean of eight orientations (8 times the time, a little better)")
        self.add_advanced(QgsProcessingParameterBoolean(TTA, tta, defaultValue=False))
        nodata = self.tr("Nodata value of the input, if it does not say so itself")
        self.add_advanced(QgsProcessingParameterNumber(NODATA, nodata, DOUBLE, optional=True))
        cog = self.tr("Cloud Optimized GeoTIFF")
        self.add_advanced(QgsProcessingParameterBoolean(COG, cog, defaultValue=False))
        extra = self.tr("More options of 'georsr sr'")
        self.add_advanced(QgsProcessingParameterString(EXTRA, extra, optional=True))

    def checkParameterValues(self, parameters: dict[str, Any], context: Any) -> tuple[bool, str]:
        """Refuse what georsr could not read, before anything runs."""
        layer = self.parameterAsRasterLayer(parameters, INPUT, context)
        why = why_unreadable(layer) if layer is not None else ""
        if not why:
            try:
                split_extra(self.parameterAsString(parameters, EXTRA, context))
            except ValueError as error:
                why = f"More options: {error}"
        if why:
            return False, logged(why)
        return super().checkParameterValues(parameters, context)

    def prepareAlgorithm(self, parameters: dict[str, Any], context: Any, feedback: Any) -> bool:
        """Read layers, which is allowed in the main thread only."""
        layer = self.file_layer(parameters, INPUT, context)  # batches have checked nothing
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, INPUT))
        self._raster = raster_file(layer)
        if self._raster.is_overridden:
            feedback.pushWarning(
                f"The project gives '{layer.name()}' another CRS than its file has; the product "
                "has that of the file"
            )
        self._box: tuple[float, float, float, float] | None = None
        if parameters.get(EXTENT) is not None:
            box = self.parameterAsExtent(parameters, EXTENT, context, layer.crs())
            if not box.isNull():
                self._box = (box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum())
        return True

    def processAlgorithm(
        self, parameters: dict[str, Any], context: Any, feedback: Any
    ) -> dict[str, Any]:
        """Run georsr."""
        output = self.output_path(parameters, OUTPUT, context)
        quality = self.output_path(parameters, QUALITY, context)
        with tempfile.TemporaryDirectory(prefix="georsr-") as folder:
            request = self._request(parameters, context, output, quality, Path(folder))
            outcome = self.make(request.arguments(), [output, quality], feedback)
        if outcome.cancelled:
            return {}
        report = json.loads(outcome.stdout)
        feedback.pushInfo(
            f"{report['width']} x {report['height']} pixels, {report['bands']} x "
            f"{report['dtype']}, {report['model']} on {report['device']}, "
            f"{report['seconds']['total']:.1f} s"
        )
        made = {OUTPUT: output, "SCALE": report["scale"], "MODEL_NAME": report["model"]}
        return {**made, QUALITY: quality} if quality else made

    def _request(
        self, parameters: dict[str, Any], context: Any, output: str, quality: str, folder: Path
    ) -> Request:
        mask = self.parameterAsSource(parameters, MASK, context)
        if mask is not None:
            write_mask(mask, self._raster, context, folder / "mask.geojson")
        return Request(
            source=self._raster.source,
            output=output,
            model=self.model(parameters, context),
            bands=self.parameterAsInts(parameters, BANDS, context),
            box=self._box,
            mask=None if mask is None else str(folder / "mask.geojson"),
            outside_invalid=self.parameterAsBool(parameters, OUTSIDE, context),
            tile=self._optional(self.parameterAsInt, parameters, TILE, context),
            device=self.device(parameters, context),
            nodata=self._optional(self.parameterAsDouble, parameters, NODATA, context),
            cog=self.parameterAsBool(parameters, COG, context),
            consistency=self.parameterAsEnumString(parameters, KEEP, context),
            tta=self.parameterAsBool(parameters, TTA, context),
            quality=quality or None,
            product_bands=self.parameterAsEnumString(parameters, WANTED, context),
            band_mode=self.parameterAsEnumString(parameters, MODE, context),
            extra=self.parameterAsString(parameters, EXTRA, context),
        )

    @staticmethod
    def _optional(read: Any, parameters: dict[str, Any], name: str, context: Any) -> Any:
        """Value of an optional number, which QGIS would read as 0 where it is not given."""
        return None if parameters.get(name) in (None, "") else read(parameters, name, context)

"""Processing algorithm: super-resolve a raster."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessingException,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)

from . import command_line
from .base_algorithm import INPUT, GeorsrAlgorithm
from .command_line import Request, split_extra
from .layer_files import raster_file, write_mask
from .layer_style import load_named
from .qt_compat import INTEGER, POLYGONS

EXTENT, MASK, OUTSIDE = "EXTENT", "MASK", "OUTSIDE"
TILE, NODATA, COG, EXTRA, OUTPUT = "TILE", "NODATA", "COG", "EXTRA", "OUTPUT"
CONSISTENCY, SENSOR, TTA, QUALITY = "CONSISTENCY", "SENSOR", "TTA", "QUALITY"
OUTPUT_BANDS, OTHER_BANDS = "OUTPUT_BANDS", "OTHER_BANDS"

HELP = """<p>Writes the raster at 2x or 4x its resolution. Georeferencing, data type, radiometry,
nodata and band names are kept. The file appears when it is complete and verified.</p>
<p>A network adds detail that was not measured: it is plausible, not observed.</p>
<h3>Input raster</h3><p>Any file GDAL reads. Save layers of web services (WMS, WMTS, XYZ) and layers
in memory as GeoTIFF first.</p>
<h3>Red, green, blue band</h3><p>The bands given to the model; for Sentinel-2 stacks often 4, 3, 2.
If all three are empty, they are found by their names, colours or wavelengths, and the log says
which were taken. Bicubic then takes all bands.</p>
<h3>Bands of the output</h3><p><i>rgb</i>: red, green and blue. <i>all</i>: every band of
the input; the other bands get the detail of the model's bands (<i>inject</i>), or are enlarged in
another way.</p>
<h3>Model</h3><p>The <i>sensor</i> models are for scenes as sensors record them; those without that
word are for images that were downsampled; <i>bicubic</i> interpolates,
<i>nearest</i> repeats pixels, as class maps need.</p>
<h3>Scale</h3><p>Pixels of the output for each pixel of the input, along each axis. 3 is for
<i>bicubic</i> and <i>nearest</i> only. A weights file has a scale of its own.</p>
<h3>Extent, mask layer</h3><p>Only this part, or the area of these polygons. Pixels outside the
polygons become nodata unless the option is off.</p>
<h3>Tile size, device</h3><p>A smaller tile needs less memory. <i>auto</i> uses the graphics card if
there is one.</p>
<h3>Consistency with the input</h3><p>Corrects the output so that, downsampled, it reproduces the
input. <i>auto</i>: only if the model declares its downsampling kernel and noise is small.</p>
<h3>Sensor</h3><p>What the <i>sensor</i> models are told about the scene: its contrast at the
Nyquist frequency and its noise, for example <code>mtf=0.2,noise=0.01</code>. What is not given is
estimated.</p>
<h3>Quality layers</h3><p>A second raster on the same grid: for each pixel the expected error and
other measures of reliability.</p>
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
        self.add_bands()
        output_bands = self.tr("Bands of the output")
        self.add_choice(OUTPUT_BANDS, output_bands, command_line.OUTPUT_BANDS)
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
                TILE, self.tr("Tile size, in input pixels"), INTEGER, optional=True, minValue=32
            )
        )
        self.add_device()
        consistency = self.tr("Consistency with the input")
        self.add_choice(CONSISTENCY, consistency, command_line.CONSISTENCY, advanced=True)
        sensor = self.tr("Sensor, such as mtf=0.2,noise=0.01 (estimated if empty)")
        self.add_advanced(QgsProcessingParameterString(SENSOR, sensor, optional=True))
        other_bands = self.tr("How the other bands are enlarged")
        self.add_choice(OTHER_BANDS, other_bands, command_line.OTHER_BANDS, advanced=True)
        tta = self.tr("Average eight rotations and flips (8 times the time, slightly better)")
        self.add_advanced(QgsProcessingParameterBoolean(TTA, tta, defaultValue=False))
        nodata = self.tr("Nodata value of the input, instead of the declared one; none: no value")
        self.add_advanced(QgsProcessingParameterString(NODATA, nodata, optional=True))
        cog = self.tr("Cloud Optimized GeoTIFF")
        self.add_advanced(QgsProcessingParameterBoolean(COG, cog, defaultValue=False))
        extra = self.tr("More options of 'georsr sr'")
        self.add_advanced(QgsProcessingParameterString(EXTRA, extra, optional=True))

    def refusal(self, parameters: dict[str, Any], context: Any) -> str:
        """Return why georsr could not use values of the dialog; empty if it can."""
        try:
            split_extra(self.parameterAsString(parameters, EXTRA, context))
        except ValueError as error:
            return f"More options: {error}"
        return super().refusal(parameters, context)

    def prepareAlgorithm(self, parameters: dict[str, Any], context: Any, feedback: Any) -> bool:
        """Read the layers, which QGIS allows in the main thread only."""
        layer = self.file_layer(parameters, INPUT, context)  # batches have checked nothing
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, INPUT))
        self._raster = raster_file(layer)
        self._renderer = layer.renderer().clone()
        if self._raster.is_overridden:
            feedback.pushWarning(
                f"The project gives '{layer.name()}' another CRS than its file; the output has the "
                "CRS of the file"
            )
        self._bounds: tuple[float, float, float, float] | None = None
        if parameters.get(EXTENT) is not None:
            extent = self.parameterAsExtent(parameters, EXTENT, context, layer.crs())
            if not extent.isNull():
                self._bounds = (
                    extent.xMinimum(),
                    extent.yMinimum(),
                    extent.xMaximum(),
                    extent.yMaximum(),
                )
        return True

    def processAlgorithm(
        self, parameters: dict[str, Any], context: Any, feedback: Any
    ) -> dict[str, Any]:
        """Run georsr."""
        output = self.output_path(parameters, OUTPUT, context)
        quality = self.output_path(parameters, QUALITY, context)
        with tempfile.TemporaryDirectory(prefix="georsr-") as folder:
            request = self._request(parameters, context, output, quality, Path(folder))
            result = self.run_to_files(request.arguments(), [output, quality], feedback)
        if result.cancelled:
            return {}
        report = json.loads(result.stdout)
        name = f"{self._raster.name} x{report['scale']}"
        load_named(output, name, context, self._renderer, report["source_bands"])
        load_named(quality, f"{name} quality", context)
        feedback.pushInfo(
            f"{report['width']} x {report['height']} pixels, {report['bands']} x "
            f"{report['dtype']}, {report['model']} on {report['device']}, "
            f"{report['seconds']['total']:.1f} s"
        )
        results = {OUTPUT: output, "SCALE": report["scale"], "MODEL_NAME": report["model"]}
        return {**results, QUALITY: quality} if quality else results

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
            indexes=self.bands(parameters, context),
            bounds=self._bounds,
            aoi=None if mask is None else str(folder / "mask.geojson"),
            aoi_mask=self.parameterAsBool(parameters, OUTSIDE, context),
            tile_size=self.optional_number(parameters, TILE, context),
            device=self.device(parameters, context),
            src_nodata=self.parameterAsString(parameters, NODATA, context) or None,
            cog=self.parameterAsBool(parameters, COG, context),
            consistency=self.choice(parameters, CONSISTENCY, context),
            sensor=self.parameterAsString(parameters, SENSOR, context) or None,
            tta=self.parameterAsBool(parameters, TTA, context),
            quality=quality or None,
            output_bands=self.choice(parameters, OUTPUT_BANDS, context),
            other_bands=self.choice(parameters, OTHER_BANDS, context),
            extra=self.parameterAsString(parameters, EXTRA, context),
        )

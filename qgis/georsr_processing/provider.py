"""Processing provider: the algorithms in the toolbox, and the setting of the executable."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .model_info_algorithm import ModelInformation
from .preview_algorithm import Preview
from .quality_layers_algorithm import QualityLayers
from .super_resolve_algorithm import SuperResolve

EXECUTABLE = "GEORSR_EXECUTABLE"
ICON = str(Path(__file__).parent / "icon.svg")


class GeorsrProvider(QgsProcessingProvider):  # type: ignore[misc]
    """georsr among the providers of Processing; starts no process."""

    def load(self) -> bool:
        """Add the setting and the algorithms."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(
                self.name(),
                EXECUTABLE,
                "georsr executable, or the folder of its environment; empty finds it",
                "",
                valuetype=Setting.FILE,
            )
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Remove the setting."""
        ProcessingConfig.removeSetting(EXECUTABLE)

    def loadAlgorithms(self) -> None:
        """Add the algorithms."""
        for algorithm in (SuperResolve, Preview, QualityLayers, ModelInformation):
            self.addAlgorithm(algorithm())

    def id(self) -> str:
        """Prefix of the algorithms' names."""
        return "georsr"

    def name(self) -> str:
        """Name in the toolbox."""
        return "georsr"

    def longName(self) -> str:
        """Return the long name."""
        return "georsr: super-resolution of rasters"

    def versionInfo(self) -> str:
        """Version of the plugin."""
        parser = ConfigParser(interpolation=None)
        parser.read(Path(__file__).parent / "metadata.txt", encoding="utf-8")
        return parser["general"]["version"]

    def icon(self) -> Any:
        """Icon in the toolbox."""
        return QIcon(ICON)

    def svgIconPath(self) -> str:
        """Icon where models are drawn."""
        return ICON

    def supportsNonFileBasedOutput(self) -> bool:
        """Return False: outputs are files."""
        return False

    def supportedOutputRasterLayerExtensions(self) -> list[str]:
        """GeoTIFF, cloud-optimised or not, whatever its name."""
        return ["tif", "tiff"]

    def defaultRasterFileExtension(self) -> str:
        """Return the extension of temporary outputs."""
        return "tif"

"""Processing provider: the algorithms in the toolbox, one of which installs georsr, and the setting
of the executable.
"""

from __future__ import annotations

import os
import shutil
from configparser import ConfigParser
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import (
    QgsProcessingException,
    QgsProcessingOutputString,
    QgsProcessingParameterString,
    QgsProcessingProvider,
)
from qgis.PyQt.QtGui import QIcon

from .base_algorithm import FeedbackAdapter, GeorsrAlgorithm, logged
from .georsr_executable import (
    ExecutableError,
    Georsr,
    check_version,
    find_python,
    included_wheel,
    installation_steps,
    own_environment,
    process_environment,
)
from .model_info_algorithm import ModelInformation
from .preview_algorithm import Preview
from .quality_layers_algorithm import QualityLayers
from .subprocess_runner import run_process
from .super_resolve_algorithm import SuperResolve

EXECUTABLE = "GEORSR_EXECUTABLE"
ICON = str(Path(__file__).parent / "icon.svg")


INSTALL_HELP = """<p>Installs georsr, without torch, into an environment of its own in the folder of
the QGIS profile (0.5 GB). The Python of QGIS is not changed. An earlier one is replaced. It runs on
the processor; for a graphics card, install georsr in a terminal.</p>
<h3>Package</h3><p>The path of an archive of georsr (<i>.whl</i>, <i>.tar.gz</i>) or of the folder
of its source code. Empty: the archive in this plugin, if it has one.</p>
"""
PACKAGE = "PACKAGE"
NO_PACKAGE = (
    "georsr was not installed: this plugin contains no archive of georsr; give the folder of a "
    "copy of its repository as Package"
)


class InstallGeorsr(GeorsrAlgorithm):
    """Installs the light set of georsr into an environment of its own."""

    help_text = INSTALL_HELP

    def name(self) -> str:
        """Id, with the provider's in front."""
        return "install"

    def displayName(self) -> str:
        """Name in the toolbox."""
        return self.tr("Install georsr")

    def shortDescription(self) -> str:
        """Tooltip."""
        return self.tr("Installs georsr, which computes, into an environment of its own")

    def tags(self) -> list[str]:
        """Words that find it."""
        return ["setup", "environment", "pip", "update"]

    def canExecute(self) -> tuple[bool, str]:
        """Return whether this QGIS has a Python that can run georsr."""
        try:
            find_python()
        except ExecutableError as error:
            return False, logged(str(error))
        return True, ""

    def initAlgorithm(self, config: Any = None) -> None:
        """Define the parameter and the outputs."""
        text = self.tr("Package: archive or source folder; empty: the archive in this plugin")
        self.addParameter(QgsProcessingParameterString(PACKAGE, text, optional=True))
        for name in ("EXECUTABLE", "VERSION"):
            self.addOutput(QgsProcessingOutputString(name, name.capitalize()))

    def processAlgorithm(
        self, parameters: dict[str, Any], context: Any, feedback: Any
    ) -> dict[str, Any]:
        """Create the environment, and install into it."""
        package = self.parameterAsString(parameters, PACKAGE, context).strip() or included_wheel()
        if package is None:
            raise QgsProcessingException(logged(NO_PACKAGE))
        environment = own_environment()
        steps = installation_steps(environment, package, find_python())
        for i, (text, command) in enumerate(steps):
            feedback.setProgressText(self.tr(text))
            feedback.setProgress(100 * i / len(steps))
            variables = process_environment(os.environ, command[0])
            try:
                result = run_process(command, variables, FeedbackAdapter(feedback))
            except OSError as error:
                raise QgsProcessingException(logged(f"{command[0]}: {error}")) from error
            if result.cancelled:
                shutil.rmtree(environment, ignore_errors=True)
                return {}
            if result.code:
                shutil.rmtree(environment, ignore_errors=True)
                errors = [line for line in result.lines if line.startswith("ERROR")]
                raise QgsProcessingException(logged(_failure(i, errors or result.lines)))
        georsr = Georsr((str(Path(command[0]).with_stem("georsr")),), "installed by this plugin")
        try:
            return {"EXECUTABLE": georsr.command[0], "VERSION": check_version(georsr)}
        except ExecutableError as error:
            raise QgsProcessingException(logged(str(error))) from error


def _failure(step: int, lines: list[str]) -> str:
    """Return why a step of the installation failed, and what to do, in one line."""
    if step == 0:
        return (
            "georsr was not installed: the Python of QGIS cannot make an environment; on Debian "
            "and Ubuntu, install the package python3-venv"
        )
    reason = lines[-1].removeprefix("ERROR: ") if lines else "pip failed"
    return (
        f"georsr was not installed: {reason}; check that this computer is online (a proxy or a "
        "mirror is set in the configuration of pip), and the package"
    )


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
        for algorithm in (SuperResolve, Preview, QualityLayers, ModelInformation, InstallGeorsr):
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

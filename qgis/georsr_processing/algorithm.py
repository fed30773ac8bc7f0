"""What the algorithms share: finding georsr, running it, and telling QGIS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsMessageLog,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
)
from qgis.PyQt.QtCore import QCoreApplication
from qgis.PyQt.QtGui import QIcon

from .arguments import DEVICES, MODELS, WEIGHTS, shown
from .georsr_executable import ExecutableError, Georsr, check_version, find_georsr
from .layer_files import why_unreadable
from .qt_compat import ADVANCED, ANY_FILE, CRITICAL
from .subprocess_runner import (
    ProcessListener,
    ProcessResult,
    remove_unfinished,
    run_child,
    unfinished,
)

MODEL = "MODEL"
MODEL_FILE = "MODEL_FILE"
DEVICE = "DEVICE"


class Teller(ProcessListener):
    """Passes on what a child says to the log, the progress bar and the Cancel button."""

    def __init__(self, feedback: Any) -> None:
        self.feedback = feedback

    def progress(self, percent: float) -> None:
        """Move the bar."""
        self.feedback.setProgress(percent)

    def warning(self, text: str) -> None:
        """Yellow in the log."""
        self.feedback.pushWarning(text)

    def line(self, text: str) -> None:
        """Grey in the log."""
        self.feedback.pushConsoleInfo(text)

    def cancelled(self) -> bool:
        """Whether Cancel was pressed."""
        return bool(self.feedback.isCanceled())


class GeorsrAlgorithm(QgsProcessingAlgorithm):  # type: ignore[misc]
    """Base of the algorithms: they differ in parameters and in one command line."""

    help_text = ""

    def tr(self, text: str) -> str:
        """Translate, where a translation is installed."""
        return QCoreApplication.translate("georsr", text)

    def createInstance(self) -> GeorsrAlgorithm:
        """A fresh one for every run."""
        return type(self)()

    def shortHelpString(self) -> str:
        """Text beside the dialog; QGIS would make a paragraph of every line."""
        return self.tr(" ".join(self.help_text.split()))

    def icon(self) -> Any:
        """The provider's."""
        provider = self.provider()
        return provider.icon() if provider is not None else QIcon()

    def canExecute(self) -> tuple[bool, str]:
        """Whether georsr is there; starts no process."""
        try:
            self.georsr()
        except ExecutableError as error:
            return False, logged(str(error))
        return True, ""

    def georsr(self) -> Georsr:
        """The georsr to run.

        Raises
        ------
        ExecutableError
            There is none.
        """
        return find_georsr(str(ProcessingConfig.getSetting("GEORSR_EXECUTABLE") or ""))

    def run_georsr(self, arguments: list[str], feedback: Any) -> ProcessResult:
        """Run it, telling QGIS all the while.

        Raises
        ------
        QgsProcessingException
            georsr is missing, unfit, or failed; one line with the remedy, in the log of QGIS too.
        """
        try:
            georsr = self.georsr()
            version = check_version(georsr)
        except ExecutableError as error:
            raise QgsProcessingException(logged(str(error))) from error
        command = [*georsr.command, *arguments]
        feedback.pushInfo(f"georsr {version} ({georsr.found})")
        feedback.pushCommandInfo(shown(command))
        try:
            outcome = run_child(command, georsr.environment(), Teller(feedback))
        except OSError as error:
            raise QgsProcessingException(logged(f"{command[0]}: {error}")) from error
        if outcome.failure() and not outcome.cancelled:
            raise QgsProcessingException(logged(outcome.failure()))
        return outcome

    def make(self, arguments: list[str], outputs: list[str], feedback: Any) -> ProcessResult:
        """Run georsr to write files; whatever ends it, nothing unfinished is left beside them."""
        before = [(output, unfinished(output)) for output in outputs if output]
        feedback.setProgressText(self.tr("Starting georsr…"))
        try:
            return self.run_georsr(arguments, feedback)
        finally:
            for output, known in before:
                remove_unfinished(output, known)

    def file_layer(self, parameters: dict[str, Any], name: str, context: Any) -> Any:
        """Raster layer of a parameter; None if it is not given.

        Raises
        ------
        QgsProcessingException
            georsr, another process, could not read it.
        """
        layer = self.parameterAsRasterLayer(parameters, name, context)
        if layer is not None and why_unreadable(layer):
            raise QgsProcessingException(logged(why_unreadable(layer)))
        return layer

    def add_model(self) -> None:
        """Add the two parameters that choose a model."""
        self.add_choice(MODEL, self.tr("Model"), MODELS)
        self.add_model_file(self.tr("Weights file, instead of the model above"))

    def add_model_file(self, text: str) -> None:
        """Add the parameter for a model that does not come with georsr."""
        self.add_advanced(
            QgsProcessingParameterFile(
                MODEL_FILE, text, behavior=ANY_FILE, optional=True, fileFilter=WEIGHTS
            )
        )

    def add_device(self) -> None:
        """Add the parameter that says what computes."""
        self.add_choice(DEVICE, self.tr("Device"), DEVICES, advanced=True)

    def add_choice(
        self, name: str, text: str, choices: Sequence[str], advanced: bool = False
    ) -> None:
        """Add a parameter whose values are words; the first is the default."""
        parameter = QgsProcessingParameterEnum(
            name, text, options=list(choices), defaultValue=choices[0], usesStaticStrings=True
        )
        if advanced:
            self.add_advanced(parameter)
        else:
            self.addParameter(parameter)

    def add_advanced(self, parameter: Any) -> None:
        """Add a parameter to the folded part of the dialog."""
        parameter.setFlags(parameter.flags() | ADVANCED)
        self.addParameter(parameter)

    def device(self, parameters: dict[str, Any], context: Any) -> str:
        """What computes."""
        return str(self.parameterAsEnumString(parameters, DEVICE, context))

    def output_path(self, parameters: dict[str, Any], name: str, context: Any) -> str:
        """Absolute path of an output; empty if it is not wanted."""
        path = self.parameterAsOutputLayer(parameters, name, context)
        return str(Path(path).absolute()) if path else ""

    def model(self, parameters: dict[str, Any], context: Any) -> str:
        """Name or file of the chosen model."""
        file = self.parameterAsFile(parameters, MODEL_FILE, context)
        return str(file or self.parameterAsEnumString(parameters, MODEL, context))


def logged(message: str) -> str:
    """Put an error into QGIS's log panel, which outlives the dialog."""
    QgsMessageLog.logMessage(message, "georsr", CRITICAL)
    return message

"""Base class of the algorithms: find georsr, run it, and report to QGIS."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsMessageLog,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterBand,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
)
from qgis.PyQt.QtCore import QCoreApplication
from qgis.PyQt.QtGui import QIcon

from .command_line import DEVICES, MODELS, SCALES, WEIGHTS, model_name, shown, with_fields
from .georsr_executable import ExecutableError, Georsr, check_version, find_georsr
from .layer_files import why_unreadable
from .qt_compat import ADVANCED, ANY_FILE, CRITICAL
from .subprocess_runner import (
    ProcessListener,
    ProcessResult,
    remove_unfinished,
    run_process,
    unfinished,
)

INPUT = "INPUT"
MODEL = "MODEL"
SCALE = "SCALE"
HELP_URL = Path(__file__).with_name("help.html").as_uri()
MODEL_FILE = "MODEL_FILE"
DEVICE = "DEVICE"
COLORS = ("RED", "GREEN", "BLUE")


class FeedbackAdapter(ProcessListener):
    """Forwards messages and progress of a process to the log and the progress bar of QGIS.

    Parameters
    ----------
    feedback : QgsProcessingFeedback
    parameters
        Names of the parameters of the algorithm that runs georsr; None: another program.
    """

    def __init__(self, feedback: Any, parameters: Collection[str] | None = None) -> None:
        self.feedback, self.parameters = feedback, parameters

    def in_words_of_qgis(self, text: str) -> str:
        """Return a message with the fields of the dialog in place of options."""
        return text if self.parameters is None else with_fields(text, self.parameters)

    def progress(self, percent: float) -> None:
        """Set the progress bar."""
        self.feedback.setProgress(percent)

    def warning(self, text: str) -> None:
        """Show a warning in the log."""
        self.feedback.pushWarning(self.in_words_of_qgis(text))

    def line(self, text: str) -> None:
        """Show a line in the log."""
        self.feedback.pushConsoleInfo(self.in_words_of_qgis(text))

    def stage(self, text: str) -> None:
        """Show what georsr is doing above the progress bar."""
        self.feedback.setProgressText(text)

    def cancelled(self) -> bool:
        """Return whether Cancel was pressed."""
        return bool(self.feedback.isCanceled())


class GeorsrAlgorithm(QgsProcessingAlgorithm):  # type: ignore[misc]
    """Base class of the algorithms, which differ in parameters and command line."""

    help_text = ""

    def __init__(self) -> None:
        super().__init__()
        self.choices: dict[str, Sequence[str]] = {}

    def tr(self, text: str) -> str:
        """Translate, where a translation is installed."""
        return QCoreApplication.translate("georsr", text)

    def createInstance(self) -> GeorsrAlgorithm:
        """Return a new instance; QGIS asks for one for each run."""
        return type(self)()

    def shortHelpString(self) -> str:
        """Return the help text as one line; QGIS would turn each line into a paragraph."""
        return self.tr(" ".join(self.help_text.split()))

    def helpUrl(self) -> str:
        """Return the address of the page that the Help button opens."""
        return HELP_URL

    def checkParameterValues(self, parameters: dict[str, Any], context: Any) -> tuple[bool, str]:
        """Check the values of the dialog; numbers of choices count as their names."""
        reason = self.refusal(parameters, context)
        if reason:
            return False, logged(reason)
        checked: tuple[bool, str] = super().checkParameterValues(
            self.named_choices(parameters), context
        )
        return checked

    def refusal(self, parameters: dict[str, Any], context: Any) -> str:
        """Return why georsr could not use values of the dialog; empty if it can."""
        for definition in self.parameterDefinitions():
            if definition.type() == "raster":
                layer = self.parameterAsRasterLayer(parameters, definition.name(), context)
                if layer is not None and why_unreadable(layer):
                    return why_unreadable(layer)
        if 0 < len(self.bands(parameters, context)) < len(COLORS):
            return "choose the red, the green and the blue band, or none of them"
        return ""

    def named_choices(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters with names in place of the numbers that ``qgis_process`` lists."""
        named = dict(parameters)
        for name, value in parameters.items():
            choices = self.choices.get(name, ())
            text = str(value)
            if text.isdecimal() and text not in choices and int(text) < len(choices):
                named[name] = choices[int(text)]
        return named

    def choice(self, parameters: dict[str, Any], name: str, context: Any) -> str:
        """Return the chosen word of a parameter."""
        return str(self.parameterAsEnumString(self.named_choices(parameters), name, context))

    def icon(self) -> Any:
        """Return the icon of the provider."""
        provider = self.provider()
        return provider.icon() if provider is not None else QIcon()

    def canExecute(self) -> tuple[bool, str]:
        """Return whether georsr exists; starts no process."""
        try:
            self.georsr()
        except ExecutableError as error:
            return False, logged(str(error))
        return True, ""

    def georsr(self) -> Georsr:
        """Return the georsr to run.

        Raises
        ------
        ExecutableError
            georsr was not found.
        """
        return find_georsr(str(ProcessingConfig.getSetting("GEORSR_EXECUTABLE") or ""))

    def run_georsr(self, arguments: list[str], feedback: Any) -> ProcessResult:
        """Run georsr, and report its progress and messages to QGIS.

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
        listener = FeedbackAdapter(feedback, [p.name() for p in self.parameterDefinitions()])
        try:
            result = run_process(command, georsr.environment(), listener)
        except OSError as error:
            raise QgsProcessingException(logged(f"{command[0]}: {error}")) from error
        if result.failure() and not result.cancelled:
            raise QgsProcessingException(logged(listener.in_words_of_qgis(result.failure())))
        return result

    def run_to_files(
        self, arguments: list[str], outputs: list[str], feedback: Any
    ) -> ProcessResult:
        """Run georsr to write files; remove what a run that does not finish leaves next to them."""
        before = [(output, unfinished(output)) for output in outputs if output]
        feedback.setProgressText(self.tr("Starting georsr…"))
        try:
            return self.run_georsr(arguments, feedback)
        finally:
            for output, known in before:
                remove_unfinished(output, known)

    def file_layer(self, parameters: dict[str, Any], name: str, context: Any) -> Any:
        """Return the raster layer of a parameter; None if it is not given.

        Raises
        ------
        QgsProcessingException
            The layer is not a file that georsr can read.
        """
        layer = self.parameterAsRasterLayer(parameters, name, context)
        if layer is not None and why_unreadable(layer):
            raise QgsProcessingException(logged(why_unreadable(layer)))
        return layer

    def add_model(self) -> None:
        """Add the two parameters that choose a model."""
        self.add_choice(MODEL, self.tr("Model"), MODELS)
        self.add_choice(SCALE, self.tr("Scale"), SCALES)
        self.add_model_file(self.tr("Weights file, instead of the model above"))

    def add_model_file(self, text: str) -> None:
        """Add the parameter for a weights file."""
        self.add_advanced(
            QgsProcessingParameterFile(
                MODEL_FILE, text, behavior=ANY_FILE, optional=True, fileFilter=WEIGHTS
            )
        )

    def add_bands(self) -> None:
        """Add the three parameters that choose the bands given to the model."""
        for color in COLORS:
            text = self.tr(f"{color.capitalize()} band (found by itself if empty)")
            self.addParameter(
                QgsProcessingParameterBand(
                    color, text, parentLayerParameterName=INPUT, optional=True
                )
            )

    def bands(self, parameters: dict[str, Any], context: Any) -> list[int]:
        """Return the bands in the order red, green, blue; none if they are to be found."""
        bands = (self.optional_number(parameters, color, context) for color in COLORS)
        return [band for band in bands if band]

    def optional_number(self, parameters: dict[str, Any], name: str, context: Any) -> int | None:
        """Return an optional integer, which QGIS would read as 0 if it is not given."""
        if parameters.get(name) in (None, ""):
            return None
        return int(self.parameterAsInt(parameters, name, context))

    def add_device(self) -> None:
        """Add the parameter for the device."""
        self.add_choice(DEVICE, self.tr("Device"), DEVICES, advanced=True)

    def add_choice(
        self, name: str, text: str, choices: Sequence[str], advanced: bool = False
    ) -> None:
        """Add a parameter whose values are words; the first is the default."""
        self.choices[name] = choices
        parameter = QgsProcessingParameterEnum(
            name, text, options=list(choices), defaultValue=choices[0], usesStaticStrings=True
        )
        if advanced:
            self.add_advanced(parameter)
        else:
            self.addParameter(parameter)

    def add_advanced(self, parameter: Any) -> None:
        """Add a parameter to the advanced part of the dialog."""
        parameter.setFlags(parameter.flags() | ADVANCED)
        self.addParameter(parameter)

    def device(self, parameters: dict[str, Any], context: Any) -> str:
        """Return the chosen device."""
        return self.choice(parameters, DEVICE, context)

    def output_path(self, parameters: dict[str, Any], name: str, context: Any) -> str:
        """Return the absolute path of an output; empty if it is not wanted."""
        path = self.parameterAsOutputLayer(parameters, name, context)
        return str(Path(path).absolute()) if path else ""

    def model(self, parameters: dict[str, Any], context: Any) -> str:
        """Return the name or file of the chosen model."""
        file = self.parameterAsFile(parameters, MODEL_FILE, context)
        words = (self.choice(parameters, name, context) for name in (MODEL, SCALE))
        return str(file or model_name(*words))


def logged(message: str) -> str:
    """Write an error to QGIS's log panel, which outlives the dialog, and return it."""
    QgsMessageLog.logMessage(message, "georsr", CRITICAL)
    return message

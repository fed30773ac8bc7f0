"""Define the command group ``georsr``, and prepare its process."""

from __future__ import annotations

import gc
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import click

from georsr import device
from georsr.errors import (
    GeorsrWarning,
)
from georsr.reports import georsr_version
from georsr.system import GDAL_VARIABLES, foreign_variables, tune_malloc

from .exit_codes import ForcedExit, TerminatedError, exit_code, print_error, print_line

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalFlag:
    """First signal that the process received."""

    def __init__(self) -> None:
        self.first: int | None = None

    def any(self) -> bool:
        """Return whether a signal has arrived."""
        return self.first is not None

    def exit_code(self) -> int:
        """Return 130 after Ctrl-C, 143 after SIGTERM, as shells expect."""
        return 128 + (self.first or signal.SIGTERM)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: record the first one, end the process at the second."""
        if self.first is not None:
            raise ForcedExit(128 + number)
        self.first = number


@contextmanager
def catch_signals() -> Iterator[SignalFlag]:
    """Record SIGINT and SIGTERM inside the block, then restore the handlers."""
    signals = SignalFlag()
    before = {number: signal.signal(number, signals.note) for number in SIGNALS}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupt_at_signal() -> Iterator[SignalFlag]:
    """Raise an exception at Ctrl-C and SIGTERM inside the block, and record the signal as well.

    Python ignores an exception that a signal raises while an object is being deleted, GDAL one in
    its callbacks, and an extension module that is being loaded replaces it by an error of its own.
    The exception is therefore raised again at the end of the block. Code that waits can ask the
    flag.
    """
    signals = SignalFlag()

    def interrupt(number: int, frame: FrameType | None) -> None:
        signals.first = number
        raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError

    before = {
        number: signal.signal(number, interrupt)
        for number in SIGNALS
        if signal.getsignal(number) != signal.SIG_IGN  # as for jobs in the background
    }
    try:
        yield signals
    except Exception:
        if signals.first is None:
            raise
        log.debug("after a signal", exc_info=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals.first is not None:
        raise KeyboardInterrupt if signals.first == signal.SIGINT else TerminatedError


SKIPPED_DRIVERS = (
    "MRF",
    "WMS",
    "WMTS",
    "WCS",
    "HTTP",
    "GTI",
    "DERIVED",
    "STACIT",
    "STACTA",
    "PLMOSAIC",
    "PLSCENES",
    "EEDA",
    "EEDAI",
    "DAAS",
    "NGW",
    "OGCAPI",
    "PDF",
    "Rasterlite",
    "KMLSUPEROVERLAY",
    "RPFTOC",
    "ECRGTOC",
)
"""Drivers that the command line and its workers keep out of GDAL altogether, unless allowed.

They read addresses or files that a document names, or write. Other checks refuse them before GDAL
sees the document; this one holds where GDAL opens a file by itself.
"""


def skip_drivers(allowed: Iterable[str] = ()) -> None:
    """Keep `SKIPPED_DRIVERS` out of GDAL; call it before anything registers GDAL's drivers.

    Parameters
    ----------
    allowed : iterable of str
        Drivers that the user wants nonetheless.
    """
    wanted = set(allowed)
    before = os.environ.get("GDAL_SKIP", "").replace(",", " ").split()
    skipped = dict.fromkeys((*before, *SKIPPED_DRIVERS))
    os.environ["GDAL_SKIP"] = ",".join(name for name in skipped if name not in wanted)


class Forgiving(io.FileIO):
    """A file whose writes may fail: on a full disk messages are lost, not the work."""

    def write(self, data: Any) -> int:
        """Write, or pretend to."""
        try:
            written = super().write(data)
        except BrokenPipeError:
            raise  # the reader has gone, such as a QGIS that was killed: the run ends
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def open_streams() -> None:
    """Make sure that the standard streams are open, and that messages cannot end the work.

    Where a stream was closed (``2>&-``), the next file that is opened would get its number, and
    what libraries print would go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None or os.name == "posix":
        raw = io.BufferedWriter(Forgiving(2, "w", closefd=False))
        encoding = getattr(sys.stderr, "encoding", "utf-8")
        sys.stderr = io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True)


@contextmanager
def importing() -> Iterator[None]:
    """Import modules in the body without garbage collection and without interruption.

    Importing torch makes hundreds of thousands of objects that live as long as the process. The
    collector would walk them while they are made, now and then in the run, and when the process
    ends, which takes a quarter of the time of a short command. Where torch is imported already,
    the process is somebody else's, whose garbage is not ours to keep. Extension modules end the
    process, or report an error of their own, if a signal raises an exception while they are loaded.
    """
    collect = gc.isenabled() and "torch" not in sys.modules
    main_thread = threading.current_thread() is threading.main_thread()
    signals = SignalFlag()
    if collect:
        gc.disable()
    try:
        with catch_signals() if main_thread else nullcontext(signals) as signals:
            yield
    finally:
        if collect:
            gc.freeze()
            gc.enable()
        if signals.first is not None:
            signal.raise_signal(signals.first)


log = logging.getLogger("georsr")

COMMANDS = {
    "sr": ("georsr.cli.sr", "Super-resolve a raster."),
    "preview": ("georsr.cli.preview", "Show a small part of a raster by several models."),
    "view": ("georsr.cli.preview:view", "Show an output beside its source in a browser."),
    "info": ("georsr.cli.info", "Describe a raster, a model, or what a run would need."),
    "models": ("georsr.cli.models", "List, describe and convert models."),
    "train": ("georsr.cli.train", "Train a network on your images."),
    "export": ("georsr.cli.export", "Write a model as an ONNX file."),
    "quality": ("georsr.cli.quality", "Measure the reliability of an output."),
    "eval": ("georsr.cli.eval", "Measure super-resolution quality."),
    "doctor": ("georsr.cli.doctor", "Check the installation and suggest remedies."),
    "qgis": ("georsr.cli.qgis", "Install the plugin for the Processing toolbox of QGIS."),
}
"""Command -> (module or module:name, one line); modules load when their command runs."""


class LazyGroup(click.Group):
    """Group that imports the module of a command when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return a command."""
        if name not in COMMANDS:
            return None
        from importlib import import_module

        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute or "command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(georsr_version(), "--version", prog_name="georsr")
def cli() -> None:
    """Turn a georeferenced raster into the same raster at 2x or 4x the resolution.

    \b
    georsr sr scene.tif out.tif
    georsr sr scene.tif out.tif --scale 2 --bidx 3,2,1 --cog
    """


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise TerminatedError


@contextmanager
def without_bar() -> Iterator[None]:
    """Take the progress bar away while the body writes to stderr, then draw it again."""
    if "tqdm" not in sys.modules:  # then there is no bar
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        yield


def _show_warning(message: Warning | str, category: type[Warning], *location: Any) -> None:
    if issubclass(category, GeorsrWarning):
        log.debug("warning: %s", message)
        if log.handlers and log.handlers[0].level > logging.WARNING:  # --quiet
            return
        with without_bar():
            print_line(f"Warning: {message}")


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Collect warnings of georsr inside the block, and show equal notices once only.

    With --verbose, each is shown as it comes, too. A log file has them in any case.
    """
    texts: list[str] = []
    notices: set[str] = set()
    show, stream = warnings.showwarning, log.handlers[0]
    verbose = stream.level < logging.WARNING

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = text in notices
        notices.add(text)
        return verbose or not known

    def collect(message: Warning | str, category: type[Warning], *location: Any) -> None:
        is_georsr = issubclass(category, GeorsrWarning)
        if is_georsr:
            texts.append(str(message))
        if verbose or not is_georsr:
            show(message, category, *location)
        else:
            log.debug("warning: %s", message)

    warnings.showwarning = collect  # type: ignore[assignment]
    stream.addFilter(is_new)
    try:
        yield texts
    finally:
        warnings.showwarning = show
        stream.removeFilter(is_new)


def invoke(arguments: list[str] | None = None) -> int:
    """Run one command line; returns its exit code (0, 1, 2, 130 or 143)."""

    def run() -> Any:
        with interrupt_at_signal():
            return cli.main(arguments, prog_name="georsr", standalone_mode=False)

    return exit_code(run)


def leave_out_foreign_variables() -> None:
    """Remove `foreign_variables` from the environment of this process, and say so."""
    if "rasterio" in sys.modules:
        return  # which has read them already
    foreign = foreign_variables(os.environ)
    for name in foreign:
        del os.environ[name]
    if foreign:
        message = f"{' and '.join(foreign)} not used: for another GDAL or PROJ than rasterio's"
        click.echo(f"Warning: {message}; unset to silence this", err=True)


def _log_ignored(event: Any) -> None:
    """Log an exception that Python can only print."""
    log.debug("ignored in %s", event.object, exc_info=event.exc_value)


def _log_undecodable(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Log what rasterio prints: a message of GDAL that is not UTF-8, a signal. Print all others."""
    if isinstance(error, (UnicodeDecodeError, KeyboardInterrupt, TerminatedError)):
        log.debug("ignored in a callback of GDAL", exc_info=error)
    else:
        sys.__excepthook__(kind, error, trace)


def prepare_process() -> None:
    """Make warnings lines and SIGTERM an exception, in a process of the command line's own."""
    tune_malloc()
    device.torch_import_context = importing
    skip_drivers()
    open_streams()
    if any(name in os.environ for name in GDAL_VARIABLES):
        leave_out_foreign_variables()
    signal.signal(signal.SIGTERM, _terminate)
    sys.excepthook, sys.unraisablehook = _log_undecodable, _log_ignored
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    warnings.simplefilter("always", GeorsrWarning)


def main() -> None:
    """Entry point of the ``georsr`` command."""
    prepare_process()
    try:
        Path.cwd()
    except OSError:  # torch ends a process whose folder is gone
        text = "the current folder does not exist any more; change to another one"
        sys.exit(print_error(text, 1))
    code = invoke()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the work is over; leaving takes a moment
    sys.exit(code)

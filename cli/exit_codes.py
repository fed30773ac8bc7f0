"""Turn the errors of a command into one line on stderr and an exit code.

0: done. 1: an error, such as a full disk. 2: wrong usage. 130: interrupted (Ctrl-C).
143: terminated (SIGTERM).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from georsr.device import INSTALL_TORCH
from georsr.errors import (
    GeorsrError,
    InterruptedRunError,
    UsageError,
    escape_control_characters,
    options_in_messages,
    redact_url,
)
from georsr.system import GDAL_VARIABLES, NO_PROC, proc_is_missing

log = logging.getLogger("georsr")

EXIT_CODES: dict[type[GeorsrError], int] = {UsageError: 2, InterruptedRunError: 130}
"""Exit codes of errors; 1 for all others."""
FULL_PACKAGES = ("torch", "open_clip", "huggingface_hub")
"""Modules that are declared dependencies, but missing in the light set."""


class ForcedExit(SystemExit):
    """Ends the process at once with this exit code."""


class TerminatedError(BaseException):
    """The process received SIGTERM."""


def print_line(message: str) -> None:
    """Print one line on stderr, without what a file name could do to a terminal."""
    click.echo(escape_control_characters(redact_url(message)), err=True)


def print_error(message: str, code: int) -> int:
    """Print an error as one line on stderr, and return its exit code."""
    log.debug("error: %s", message)
    print_line(f"Error: {message}")
    return code


def show_error(error: GeorsrError) -> int:
    """Print an error and its notes as one line on stderr, and return its exit code."""
    log.debug("traceback", exc_info=error)
    code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
    return print_error("; ".join([str(error), *getattr(error, "__notes__", [])]), code)


def _unforeseen(error: Exception) -> tuple[str, int]:
    """Return the message and the exit code of an error that is not one of georsr's."""
    if isinstance(error, ModuleNotFoundError) and error.name in FULL_PACKAGES:
        return f"this needs {error.name}, which is not installed: {INSTALL_TORCH}", 2
    if isinstance(error, OSError) and error.strerror and error.filename:  # a name too long
        return f"{str(error.filename)[:200]}: {error.strerror}", 1
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if proc_is_missing():
        return f"{NO_PROC}; {text}", 1
    present = [name for name in GDAL_VARIABLES if name in os.environ]
    if type(error).__name__ == "CRSError" and present:
        text += f"; unset {' '.join(present)}, if set for another installation"
    return f"not foreseen: {text}; run it again with -vv for the traceback", 1


@options_in_messages()
def exit_code(call: Callable[[], Any]) -> int:
    """Call a command, print its error as one line on stderr, and return the exit code.

    A second signal ends the process here.
    """
    handlers, level = list(log.handlers), log.level
    try:
        result = call()
        return result if isinstance(result, int) else 0
    except GeorsrError as error:
        return show_error(error)
    except click.ClickException as error:
        error.message = escape_control_characters(redact_url(error.message))  # type: ignore[misc]
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return print_error("interrupted", 130)
    except TerminatedError:
        return print_error("terminated", 143)
    except BrokenPipeError:
        return 1
    except Exception as error:
        log.debug("traceback", exc_info=True)
        return print_error(*_unforeseen(error))
    except ForcedExit as ended:
        # A thread may still compute a tile. The process does not wait for it, and the usual exit
        # would free the memory of torch that the thread uses.
        sys.stderr.flush()
        os._exit(int(ended.code or 0))
    finally:
        for handler in set(log.handlers).difference(handlers):
            handler.close()
        log.handlers = handlers  # the command has set its own
        log.setLevel(level)

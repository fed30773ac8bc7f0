"""Run georsr as a subprocess: parse its progress and messages, and end it when cancelled."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .georsr_executable import process_arguments


def unfinished(output: str) -> set[Path]:
    """Return the hidden files of an unfinished output, which are next to it."""
    path = Path(output).resolve()
    if not path.parent.is_dir():
        return set()
    return set(path.parent.glob(f".{glob.escape(path.name)}.part.*"))


def remove_unfinished(output: str, before: set[Path]) -> None:
    """Remove the files of an unfinished output, except those of ``before``, of another run."""
    for path in unfinished(output) - before:
        with suppress(OSError):  # Windows holds files of a process a moment longer; they are hidden
            path.unlink()


POLL_SECONDS = 0.1
"""Seconds between checks of the Cancel button."""
TERMINATE_TIMEOUT = 10.0
"""Seconds that georsr gets to end by itself: it checks for signals after each tile."""


@dataclass
class ProcessResult:
    """Result of a process.

    Attributes
    ----------
    code : int
        Exit code; negative for a signal.
    cancelled : bool
        Whether the user cancelled it.
    stdout : str
    errors : list of str
        Lines on stderr that begin with ``Error:``, without that word.
    lines : list of str
        Other lines on stderr.
    """

    code: int = 0
    cancelled: bool = False
    stdout: str = ""
    errors: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def failure(self) -> str:
        """Return why the process failed, with a remedy, in one line; empty if it succeeded."""
        if self.code == 0:
            return ""
        if self.errors:
            return self.errors[-1]
        if self.code in (-9, 137):
            return (
                "georsr was killed by the system, most likely because memory ran out: use a "
                "smaller --tile, or close other programs"
            )
        last = self.lines[-1] if self.lines else "no message"
        return f"georsr ended with code {self.code} ({last}); run 'georsr doctor' in a terminal"


class ProcessListener:
    """Receives progress and messages of a process; subclasses forward them."""

    def progress(self, percent: float) -> None:
        """Receive the progress in percent."""

    def warning(self, text: str) -> None:
        """Receive a warning."""

    def line(self, text: str) -> None:
        """Receive another line of stderr."""

    def stage(self, text: str) -> None:
        """Receive what georsr is doing, such as ``verifying``."""

    def cancelled(self) -> bool:
        """Return whether the process has to end."""
        return False


def run_process(
    command: Sequence[str], environment: Mapping[str, str], listener: ProcessListener
) -> ProcessResult:
    """Run georsr until it ends or the listener cancels it.

    The process leads a group, so that its workers end with it. It does not run in the folder of
    the plugin, whose modules it would import.

    Raises
    ------
    OSError
        The process cannot be started.
    """
    process = subprocess.Popen(
        process_arguments(command),
        env=dict(environment),
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    result = ProcessResult()
    lines: queue.Queue[str | None] = queue.Queue()
    readers = [
        threading.Thread(target=_read_lines, args=(process.stderr, lines.put), daemon=True),
        threading.Thread(target=_read_all, args=(process.stdout, result), daemon=True),
    ]
    for reader in readers:
        reader.start()
    finished = False
    try:
        finished = _follow(lines, result, listener)
        result.cancelled = not finished
    finally:
        if not finished:
            _end(process)
    for reader in readers:
        reader.join()
    while not lines.empty():
        _parse_line(lines.get(), result, listener)
    result.code = process.wait()
    return result


def _follow(
    lines: queue.Queue[str | None], result: ProcessResult, listener: ProcessListener
) -> bool:
    """Forward lines until the process ends; return False if the listener cancels it."""
    while not listener.cancelled():
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return True
        _parse_line(line, result, listener)
    return False


def _parse_line(line: str | None, result: ProcessResult, listener: ProcessListener) -> None:
    if line is None:
        return
    event = _event(line)
    if event is not None and event["event"] == "stage":
        if event.get("stage"):
            listener.stage(str(event["stage"]))
    elif event is not None:
        if event.get("total"):
            listener.progress(100 * event.get("done", 0) / event["total"])
    elif line.startswith("Error: "):
        result.errors.append(line[len("Error: ") :])
    elif line.startswith("Warning: "):
        listener.warning(line[len("Warning: ") :])
    elif line.strip():
        result.lines.append(line)
        listener.line(line)


def _event(line: str) -> dict[str, Any] | None:
    """Return an event of ``--progress json``; None if the line is something else."""
    if not line.startswith('{"event"'):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return (
        event if isinstance(event, dict) and event.get("event") in ("progress", "stage") else None
    )


def _read_lines(stream: IO[bytes], put: Callable[[str | None], None]) -> None:
    with stream:
        for line in stream:
            put(line.decode("utf-8", "replace").rstrip("\r\n"))
    put(None)


def _read_all(stream: IO[bytes], result: ProcessResult) -> None:
    with stream:
        result.stdout = stream.read().decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the group of processes, and kill it if it does not end in time."""
    _signal_group(process, getattr(signal, "SIGTERM", 15))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TERMINATE_TIMEOUT)
    _signal_group(process, getattr(signal, "SIGKILL", 9))
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    elif process.poll() is None:  # Windows knows no request to end: it ends, with its processren
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(process.pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

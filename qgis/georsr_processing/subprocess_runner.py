"""One run of georsr as a child: lines in, progress and messages out, and an end at any time.

What a georsr that was killed leaves beside its product.
"""

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

from .georsr_executable import child_arguments


def unfinished(output: str) -> set[Path]:
    """Files of an unfinished product: hidden, beside it, named after it."""
    path = Path(output).resolve()
    if not path.parent.is_dir():
        return set()
    return set(path.parent.glob(f".{glob.escape(path.name)}.part.*"))


def remove_unfinished(output: str, before: set[Path]) -> None:
    """Remove them, but for those that were there ``before``: they are another run's."""
    for path in unfinished(output) - before:
        with suppress(OSError):  # Windows holds files of a process a moment longer; they are hidden
            path.unlink()


LOOK = 0.1
"""Seconds between looks at the Cancel button."""
TERMINATE_TIMEOUT = 10.0
"""Seconds that georsr gets to end by itself: it looks for signals after every tile."""


@dataclass
class ProcessResult:
    """How a child ended.

    Attributes
    ----------
    code : int
        Exit code; negative for a signal.
    cancelled : bool
        By the user.
    stdout : str
    errors : list of str
        Its ``Error:`` lines without that word.
    lines : list of str
        Everything else it said on stderr.
    """

    code: int = 0
    cancelled: bool = False
    stdout: str = ""
    errors: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def failure(self) -> str:
        """Why it failed, in one line with the remedy; empty if it did not."""
        if self.code == 0:
            return ""
        if self.errors:
            return self.errors[-1]
        if self.code in (-9, 137):
            return (
                "georsr was killed by the system, most likely because memory ran out: choose a "
                "smaller tile, or close other programs"
            )
        last = self.lines[-1] if self.lines else "it said nothing"
        return f"georsr ended with code {self.code} ({last}); run 'georsr doctor' in a terminal"


class ProcessListener:
    """Whom a run tells; overridden by the one that knows QGIS."""

    def progress(self, percent: float) -> None:
        """So much is done."""

    def warning(self, text: str) -> None:
        """georsr warned."""

    def line(self, text: str) -> None:
        """georsr said something else."""

    def cancelled(self) -> bool:
        """Whether to end."""
        return False


def run_child(
    command: Sequence[str], environment: Mapping[str, str], listener: ProcessListener
) -> ProcessResult:
    """Run georsr to its end, or to that of the listener's patience.

    The child is the head of a group of processes, so that workers of its own end with it, and its
    folder is of no interest: not the plugin's, whose modules it would import.

    Raises
    ------
    OSError
        It could not be started.
    """
    child = subprocess.Popen(
        child_arguments(command),
        env=dict(environment),
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    outcome = ProcessResult()
    said: queue.Queue[str | None] = queue.Queue()
    readers = [
        threading.Thread(target=_read_lines, args=(child.stderr, said.put), daemon=True),
        threading.Thread(target=_read_all, args=(child.stdout, outcome), daemon=True),
    ]
    for reader in readers:
        reader.start()
    finished = False
    try:
        finished = _follow(said, outcome, listener)
        outcome.cancelled = not finished
    finally:
        if not finished:
            _end(child)
    for reader in readers:
        reader.join()
    while not said.empty():
        _hear(said.get(), outcome, listener)
    outcome.code = child.wait()
    return outcome


def _follow(
    said: queue.Queue[str | None], outcome: ProcessResult, listener: ProcessListener
) -> bool:
    """Pass on what is said; False as soon as the listener wants no more."""
    while not listener.cancelled():
        try:
            line = said.get(timeout=LOOK)
        except queue.Empty:
            continue
        if line is None:
            return True
        _hear(line, outcome, listener)
    return False


def _hear(line: str | None, outcome: ProcessResult, listener: ProcessListener) -> None:
    if line is None:
        return
    event = _event(line)
    if event is not None:
        if event.get("total"):
            listener.progress(100 * event.get("done", 0) / event["total"])
    elif line.startswith("Error: "):
        outcome.errors.append(line[len("Error: ") :])
    elif line.startswith("Warning: "):
        listener.warning(line[len("Warning: ") :])
    elif line.strip():
        outcome.lines.append(line)
        listener.line(line)


def _event(line: str) -> dict[str, Any] | None:
    """Progress of ``--progress json``, if the line is that."""
    if not line.startswith('{"event"'):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.get("event") == "progress" else None


def _read_lines(stream: IO[bytes], put: Callable[[str | None], None]) -> None:
    with stream:
        for line in stream:
            put(line.decode("utf-8", "replace").rstrip("\r\n"))
    put(None)


def _read_all(stream: IO[bytes], outcome: ProcessResult) -> None:
    with stream:
        outcome.stdout = stream.read().decode("utf-8", "replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, and make it end if it does not."""
    _signal_group(child, getattr(signal, "SIGTERM", 15))
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(TERMINATE_TIMEOUT)
    _signal_group(child, getattr(signal, "SIGKILL", 9))
    child.wait()


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
    elif child.poll() is None:  # Windows knows no request to end: it ends, with its children
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(child.pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

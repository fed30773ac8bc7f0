"""Record the first SIGINT or SIGTERM, and end the process at the second."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ForcedExit(SystemExit):
    """Ends the process at once with this exit code."""


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
    noted = SignalFlag()
    before = {number: signal.signal(number, noted.note) for number in SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupt_at_signal() -> Iterator[SignalFlag]:
    """Raise KeyboardInterrupt at Ctrl-C inside the block, and record it as well.

    Python ignores an exception that a signal raises while an object is being deleted; code that
    waits can ask the flag.
    """
    noted = SignalFlag()

    def interrupt(number: int, frame: FrameType | None) -> None:
        noted.first = number
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)

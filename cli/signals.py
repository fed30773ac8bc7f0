"""Signals as requests: the first one is noted, the second one ends the process at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ForcedExit(SystemExit):
    """The process is to end at once, with this exit code."""


class SignalFlag:
    """What has arrived so far."""

    def __init__(self) -> None:
        self.first: int | None = None

    def any(self) -> bool:
        """Whether a signal has arrived."""
        return self.first is not None

    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, as shells expect."""
        return 128 + (self.first or signal.SIGTERM)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handler: note the first signal; end at once at the second."""
        if self.first is not None:
            raise ForcedExit(128 + number)
        self.first = number


@contextmanager
def catch_signals() -> Iterator[SignalFlag]:
    """Note SIGINT and SIGTERM inside the block instead of dying of them; then restore."""
    noted = SignalFlag()
    before = {number: signal.signal(number, noted.note) for number in SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Progress, with three faces: a bar for people, JSON lines for programs, nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, Any, Protocol, Self

from georsr.errors import InterruptedRunError


class Progress(Protocol):
    """What the engine tells while it works; used as a context manager."""

    def start(self, total: int, unit: str) -> None:
        """``total`` units of work lie ahead."""

    def advance(self, count: int = 1) -> None:
        """``count`` more units are done."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class NullProgress:
    """Says nothing."""

    def start(self, total: int, unit: str) -> None:
        """Ignore."""

    def advance(self, count: int = 1) -> None:
        """Ignore."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to end."""


class ProgressStages:
    """Several passes over the same units of work, told as one.

    Parameters
    ----------
    inner
        Who is really told.
    costs
        Of one unit in each pass, in the order of the passes.
    """

    def __init__(self, inner: Progress, costs: Sequence[int]) -> None:
        self._inner, self._costs = inner, costs
        self._whole = self._done = 0

    def stage(self, number: int) -> Progress:
        """Where pass ``number`` reports to; a pass that starts anew begins at its own start."""
        return _Stage(self, number)

    def begin(self, number: int, total: int, unit: str) -> None:
        """Pass ``number`` begins."""
        whole, before = total * sum(self._costs), total * sum(self._costs[:number])
        if whole != self._whole or before < self._done:
            self._whole, self._done = whole, 0
            self._inner.start(whole, unit)
        self._add(before - self._done)

    def advance(self, number: int, count: int) -> None:
        """So many units of a pass are done."""
        self._add(count * self._costs[number])

    def _add(self, count: int) -> None:
        self._done += count
        self._inner.advance(count)


class _Stage(NullProgress):
    def __init__(self, stages: ProgressStages, number: int) -> None:
        self._stages, self._number = stages, number

    def start(self, total: int, unit: str) -> None:
        self._stages.begin(self._number, total, unit)

    def advance(self, count: int = 1) -> None:
        self._stages.advance(self._number, count)


class Cancellable(NullProgress):
    """Passes everything on, and raises once it is asked to stop.

    Parameters
    ----------
    inner
        Who is really told.
    stopped
        Whether to stop.
    """

    def __init__(self, inner: Progress, stopped: Callable[[], bool]) -> None:
        self._inner, self.stopped = inner, stopped

    def start(self, total: int, unit: str) -> None:
        """Pass on."""
        self._inner.start(total, unit)

    def advance(self, count: int = 1) -> None:
        """Pass on, then look."""
        self._inner.advance(count)
        self.check_cancelled()

    def check_cancelled(self) -> None:
        """Raise if asked to stop.

        Raises
        ------
        InterruptedRunError
        """
        if self.stopped():
            raise InterruptedRunError("interrupted")


class AreaProgress:
    """Counts tiles by the pixels that are done: those across borders are counted in part.

    Parameters
    ----------
    inner
        Who is told of tiles.
    tiles, pixels
        Of the whole product.
    """

    def __init__(self, inner: Progress, tiles: int, pixels: int) -> None:
        self._inner, self._tiles, self._pixels = inner, tiles, pixels
        self._done = self._told = 0

    def add(self, pixels: int) -> None:
        """So many more pixels are done."""
        self._done += pixels
        now = self._tiles * self._done // self._pixels
        self._inner.advance(now - self._told)
        self._told = now


class TqdmProgress(NullProgress):
    """A tqdm bar with rate and remaining time, on stderr; only where that is a terminal.

    Parameters
    ----------
    always
        Draw also where stderr is no terminal.
    """

    def __init__(self, always: bool = False) -> None:
        from tqdm import tqdm

        self._bar: Any = None
        self._make = tqdm
        self._disable = False if always else None

    def start(self, total: int, unit: str) -> None:
        """Draw the empty bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._make(
            total=total,
            unit=f" {unit}",
            disable=self._disable,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def advance(self, count: int = 1) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(count)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


class JsonProgress(NullProgress):
    """One JSON object a line: ``{"event": "progress", "done": 12, "total": 40, ...}``."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._done = self._total = 0
        self._unit = ""

    def start(self, total: int, unit: str) -> None:
        """Write the zero line."""
        self._done, self._total, self._unit = 0, total, unit
        self.advance(0)

    def advance(self, count: int = 1) -> None:
        """Write a line."""
        self._done += count
        event = {
            "event": "progress",
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
        }
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

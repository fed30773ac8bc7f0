"""Report the progress of a run: as a bar, as JSON lines or not at all; cancel it; time its stages.

`Progress` is what a caller passes in. `RunContext` is what the stages of a run pass on to each
other: the progress of the run, whether to stop, and the seconds of each stage.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, Self, cast

from georsr.errors import InterruptedRunError, UsageError


class Progress(Protocol):
    """Receives the progress of a run; a context manager."""

    def start(self, total: int, unit: str) -> None:
        """Begin to count to ``total`` units of work."""

    def advance(self, count: int = 1) -> None:
        """Count ``count`` more units as done."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


ProgressLike = Progress | Callable[[int, int], object] | type | bool | None
"""What public functions take as ``progress``; see `open_progress`."""


class NullProgress:
    """Shows nothing."""

    def describe(self, stage: str) -> None:
        """Say what is going on; empty for the usual work."""

    def start(self, total: int, unit: str) -> None:
        """Ignore the total."""

    def advance(self, count: int = 1) -> None:
        """Ignore the count."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class TqdmProgress(NullProgress):
    """Draws a tqdm bar with rate and remaining time on stderr.

    Parameters
    ----------
    always
        Draw the bar also where stderr is not a terminal.
    bar
        Class of the bar; None for ``tqdm.tqdm``.
    """

    def __init__(self, always: bool = False, bar: type | None = None) -> None:
        from tqdm import tqdm

        self._bar: Any = None
        self._tqdm: Any = bar or tqdm
        self._disable = False if always else None

    def start(self, total: int, unit: str) -> None:
        """Draw an empty bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._tqdm(
            total=total,
            unit=f" {unit}",
            disable=self._disable,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def describe(self, stage: str) -> None:
        """Write the stage before the bar."""
        if self._bar is not None:
            self._bar.set_description(stage or None)

    def advance(self, count: int = 1) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update(count)

    def __exit__(self, *exception: object) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


class CountingProgress(NullProgress):
    """Calls a function with the units that are done, and their total.

    Parameters
    ----------
    report
        Called as ``report(done, total)``, first with 0.
    """

    def __init__(self, report: Callable[[int, int], object]) -> None:
        self._report, self._done, self._total = report, 0, 0

    def start(self, total: int, unit: str) -> None:
        """Report that nothing is done."""
        self._done, self._total = 0, total
        self._report(0, total)

    def advance(self, count: int = 1) -> None:
        """Report the sum."""
        self._done += count
        self._report(self._done, self._total)


class LineProgress(NullProgress):
    """Writes a line to stderr for every tenth of the work: for logs, where a bar is unreadable."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._unit = ""

    def start(self, total: int, unit: str) -> None:
        """Begin to count."""
        self._done, self._total, self._unit = 0, total, unit

    def describe(self, stage: str) -> None:
        """Write the stage."""
        if stage:
            sys.stderr.write(f"{stage}\n")

    def advance(self, count: int = 1) -> None:
        """Write a line if another tenth is done."""
        before, self._done = self._done, self._done + count
        if self._total > 1 and 10 * before // self._total < 10 * self._done // self._total:
            percent = 100 * self._done // self._total
            line = f"{percent} %: {self._done} of {self._total} {self._unit}"
            sys.stderr.write(f"{line}\n")


@contextmanager
def open_progress(progress: ProgressLike) -> Iterator[Progress]:
    """Return the object that shows the progress of a call, and end it with the call.

    Parameters
    ----------
    progress
        A `Progress`, which the caller ends; a function that is called as ``progress(done, total)``;
        a class of tqdm; True for a bar, also in notebooks; None or False for none.

    Raises
    ------
    UsageError
        It is none of these.
    """
    if isinstance(progress, type):
        opened: Any = TqdmProgress(always=True, bar=progress)
    elif progress is True:
        from tqdm.auto import tqdm

        opened = TqdmProgress(always=True, bar=tqdm)
    elif not progress:
        opened = NullProgress()
    elif hasattr(progress, "advance"):
        yield cast(Progress, progress)
        return
    elif callable(progress):
        opened = CountingProgress(progress)
    else:
        raise UsageError(
            f"progress is {progress!r:.80}, expected a function (done, total), a class of tqdm, "
            "True, or an object with start and advance"
        )
    with opened:
        yield opened


class JsonProgress(NullProgress):
    """Writes one JSON object per line: ``{"event": "progress", "done": 12, "total": 40, ...}``."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._done = self._total = 0
        self._unit = ""

    def start(self, total: int, unit: str) -> None:
        """Write a line with nothing done."""
        self._done, self._total, self._unit = 0, total, unit
        self.advance(0)

    def describe(self, stage: str) -> None:
        """Write a line with the stage."""
        self._write("stage", stage=stage)

    def advance(self, count: int = 1) -> None:
        """Write a line."""
        self._done += count
        self._write("progress", done=self._done, total=self._total, unit=self._unit)

    def _write(self, event: str, **values: object) -> None:
        self._stream.write(json.dumps({"event": event, **values}) + "\n")
        self._stream.flush()


class RunProgress:
    """Reports the tiles of a run of one or more passes as a single count.

    Parameters
    ----------
    progress
        Receives the count.
    costs
        Cost of one tile in each pass, in the order of the passes.
    """

    def __init__(self, progress: Progress | None = None, costs: Sequence[int] = (1,)) -> None:
        self._progress, self._costs = progress or NullProgress(), costs
        self._before = self._cost = self._done = self._total = 0

    def start_pass(self, number: int, tiles: int) -> None:
        """Begin pass ``number`` over ``tiles`` tiles, or begin it again with smaller ones."""
        total = tiles * sum(self._costs)
        self._before, self._cost = tiles * sum(self._costs[:number]), self._costs[number]
        if total != self._total or self._before < self._done:
            self._progress.start(total, "tiles")
            self._total, self._done = total, 0
        self.report(0)

    def describe(self, stage: str) -> None:
        """Say what is going on, where the progress shows it; empty for the usual work."""
        describe = getattr(self._progress, "describe", None)
        if describe is not None:
            describe(stage)

    def report(self, tiles: int) -> None:
        """Report that ``tiles`` tiles of the pass are done; a count that was passed is ignored."""
        done = self._before + tiles * self._cost
        if done > self._done:
            self._progress.advance(done - self._done)
            self._done = done


@dataclass
class Timer:
    """Adds up seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Add the time spent inside the block to stage ``name``."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - since

    def rounded(self) -> dict[str, float]:
        """Return the seconds of the finished stages, to the millisecond."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}


def never() -> bool:
    """Return False: a run that is not cancelled."""
    return False


@dataclass(frozen=True)
class RunContext:
    """Progress, cancellation and timing of a run, passed from stage to stage.

    Attributes
    ----------
    progress : RunProgress
        Counts the tiles that are done.
    should_stop : callable
        Called after each tile; the run ends when it returns True.
    timer : Timer
        Seconds by stage.
    """

    progress: RunProgress = field(default_factory=RunProgress)
    should_stop: Callable[[], bool] = never
    timer: Timer = field(default_factory=Timer)

    def check_cancelled(self) -> None:
        """Raise if the run is to stop.

        Raises
        ------
        InterruptedRunError
            ``should_stop`` returned True.
        """
        if self.should_stop():
            raise InterruptedRunError("interrupted")

"""Flight: pieces of a run that are under way, on a cluster or here; few enough for any memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from georsr.engine.cluster_worker import Hand, placed
from georsr.errors import ModelError, ResourceError

AHEAD = 2
"""Tasks under way for each worker: the next one is there when one is done."""
TOGETHER = 4
"""Of so many workers one has to be done before results come and pieces go out again: many in one
message cost much less than each alone, and the others still have their next one."""

Numbered = tuple[int, Any]
"""A piece and its number."""


class Flight(Protocol):
    """Pieces go out by number, and come back in any order."""

    machines: int
    """How many pieces can be done at once."""

    @property
    def together(self) -> int:
        """How many pieces make up a task: more than one where they are quick."""

    @property
    def running(self) -> int:
        """Pieces that went out and have not come back."""

    @property
    def tasks(self) -> int:
        """In how many tasks these are."""

    def send(self, pieces: Sequence[Numbered]) -> None:
        """Have pieces done."""

    def land(self) -> tuple[int, Any]:
        """Number and result of a piece that is done; waits for one."""


def room(flight: Flight, most: float = math.inf) -> int:
    """How many pieces to send now: none, or as many as make it worth while.

    Parameters
    ----------
    flight
        That is to take them.
    most
        Pieces that may be under way.
    """
    wanted = int(min(AHEAD * flight.machines * flight.together, most))
    slots = AHEAD * flight.machines - flight.tasks
    free = min(slots * flight.together, wanted - flight.running)
    return free if free >= max(1, wanted // (AHEAD * TOGETHER)) else 0


class LocalFlight:
    """Pieces are done here, one after the other, when they are asked for.

    Parameters
    ----------
    hand
        Does them.
    stopped
        Whether to end.
    """

    machines = together = 1

    def __init__(self, hand: Hand, stopped: Callable[[], bool]) -> None:
        self._hand, self._stopped = hand, stopped
        self._waiting = deque[Numbered]()

    @property
    def running(self) -> int:
        """Pieces that wait."""
        return len(self._waiting)

    tasks = running

    def send(self, pieces: Sequence[Numbered]) -> None:
        """Keep pieces in mind."""
        self._waiting.extend(pieces)

    def land(self) -> tuple[int, Any]:
        """Do the next piece."""
        number, piece = self._waiting.popleft()
        try:
            return number, self._hand(piece, self._stopped)
        except (ModelError, ResourceError) as error:
            raise placed(error, f"{piece} of the product") from error

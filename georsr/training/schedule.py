"""Learning rates over a run, as shares of their peak."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence


def cosine(step: int, steps: int, warmup: int, hold: float) -> float:
    """Linear rise, plateau, cosine to zero.

    Parameters
    ----------
    step, steps
        Current step (from 0) and length of the run.
    warmup
        Steps of linear rise.
    hold
        Share of the run at which the fall begins.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, int(hold * steps))
    if step < start:
        return 1.0
    progress = (step - start) / max(1, steps - start)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def milestones(step: int, warmup: int, at: Sequence[int], gamma: float) -> float:
    """Linear rise over ``warmup`` steps, then times ``gamma`` from each step of ``at`` on."""
    rise = (step + 1) / warmup if step < warmup else 1.0
    return float(rise * gamma ** bisect_right(sorted(at), step))

"""Learning rates over a run."""

from __future__ import annotations

import math


def rate(step: int, steps: int, warmup: int, hold: float) -> float:
    """Share of the peak learning rate at ``step``: linear rise, plateau, cosine to zero.

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

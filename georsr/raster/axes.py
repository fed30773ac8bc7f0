"""Axes: from the labels of a grid's rows or columns to where its pixels lie, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from georsr.errors import UsageError

SLACK = 0.05
"""Pixels by which labels may miss where they should be: they are often rounded."""


@dataclass(frozen=True)
class Axis:
    """Evenly spaced pixels along one axis.

    Attributes
    ----------
    origin : float
        Outer edge of the first pixel.
    step : float
        From one pixel to the next; its sign is that of the axis.
    length : int
        Pixels.
    anchor : float
        What of a pixel its label names: 0.5 the centre, 0 the first edge.
    """

    origin: float
    step: float
    length: int
    anchor: float = 0.5

    def labels(self) -> npt.NDArray[np.float64]:
        """One label for each pixel."""
        # the order of operations in which rioxarray makes the coordinates of a file
        first = self.anchor * self.step + self.origin
        return np.arange(self.length, dtype=np.float64) * self.step + first

    def finer(self, scale: int) -> Axis:
        """The same edges, ``scale`` pixels for each."""
        return replace(self, step=self.step / scale, length=self.length * scale)


def read_axis(
    name: str,
    labels: npt.NDArray[Any],
    written: tuple[float, float] | None = None,
    *,
    corners: bool = False,
) -> Axis:
    """What the labels of an axis say.

    Parameters
    ----------
    name
        What to call the axis in errors.
    labels
        (n,) numbers.
    written
        Origin and step as written down elsewhere. They are exact where labels are rounded, and
        count as long as the labels agree: perhaps of a part of that grid only.
    corners
        Labels may name first edges instead of centres, if that is what makes them agree.

    Raises
    ------
    UsageError
        Labels that are not numbers, not evenly spaced, or too few to tell the step.
    """
    if labels.dtype.kind not in "iuf":
        raise UsageError(f"coordinate {name!r}: holds {labels.dtype}, expected numbers")
    rounding = 4 * np.finfo(labels.dtype).eps if labels.dtype.kind == "f" else 0.0
    values = labels.astype(np.float64)
    step = _step(name, values, written)
    slack = SLACK * abs(step) + rounding * float(np.abs(values).max())
    even = values[0] + np.arange(len(values)) * step
    if not step or not np.abs(values - even).max() <= slack:
        raise UsageError(_uneven(name, values))
    if written is not None and abs(written[1] - step) * len(values) <= slack:
        step = written[1]
        for anchor in (0.5, 0.0) if corners else (0.5,):
            shift = (values[0] - written[0]) / step - anchor
            if abs(shift - round(shift)) * abs(step) <= slack:
                return Axis(written[0] + round(shift) * step, step, len(values), anchor)
    return Axis(float(values[0]) - step / 2, step, len(values))


def _step(name: str, values: npt.NDArray[np.float64], written: tuple[float, float] | None) -> float:
    if len(values) > 1:
        return float(values[-1] - values[0]) / (len(values) - 1)
    if written is None:
        raise UsageError(
            f"coordinate {name!r}: one pixel does not tell its size; "
            "write it down with da.rio.write_transform(transform)"
        )
    return written[1]


def _uneven(name: str, values: npt.NDArray[np.float64]) -> str:
    steps = np.diff(values)
    return (
        f"coordinate {name!r}: is not evenly spaced, its steps go from {steps.min():g} to "
        f"{steps.max():g}; resample it to a regular grid first, for example with da.interp"
    )

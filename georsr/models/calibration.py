"""Calibration: from what a network's answers and picture say to the error that is to be expected.

The expected absolute error of a pixel, on the scale on which the network sees 0..1, is modelled as
``(a sqrt(deviation) + b sqrt(gradient) + c) ** 2``: errors are large where the answers differ and
at edges, whose exact place the input does not fix, and never below a floor. The roots keep few
large values from deciding about all the small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from json import loads
from typing import Any

from georsr.models.spec import ModelSpec


@dataclass(frozen=True)
class Calibration:
    """The three numbers of one model.

    Attributes
    ----------
    deviation, gradient, floor : float
        a, b and c; all at least 0.
    fitted_for : str
        Name of the model whose errors they were fitted to.
    fitted_on : str
        Images and degradations.
    """

    deviation: float
    gradient: float
    floor: float
    fitted_for: str
    fitted_on: str

    def describe(self, spec: ModelSpec) -> str:
        """A sentence for a product's tags."""
        fitted = f"expected absolute error, fitted to {self.fitted_for} on {self.fitted_on}"
        if spec.name == self.fitted_for:
            return fitted
        return f"{fitted}: not calibrated for {spec.name}, ranks errors only"


def calibrations() -> dict[str, Calibration]:
    """Model name -> its calibration, as ``benchmarks/uncertainty.py --fit`` wrote them."""
    file = resources.files("georsr.models") / "calibration.json"
    table: dict[str, dict[str, Any]] = loads(file.read_text(encoding="utf-8"))
    return {name: Calibration(fitted_for=name, **numbers) for name, numbers in table.items()}


def calibration_of(spec: ModelSpec) -> Calibration:
    """The calibration of a model; of the bundled one nearest in scale for any other."""
    table = calibrations()
    if spec.name in table:
        return table[spec.name]
    scale = 2 if spec.scale <= 2 else 4
    return table[f"segsr-lite-x{scale}-sensor"]

"""Models that come with georsr, for the choices of the dialogs; other ones are files."""

from __future__ import annotations

MODELS = (
    "segsr-lite-x4-sensor",
    "segsr-lite-x2-sensor",
    "segsr-lite-x4",
    "segsr-lite-x2",
    "bicubic-x4",
    "bicubic-x3",
    "bicubic-x2",
)
"""The first is the default. A list of its own, because QGIS builds dialogs at start-up, when no
other program is to be run; a test of georsr compares it with the models there are."""

WEIGHTS = "Weights (*.safetensors *.pth *.onnx);;All files (*)"
DEVICES = ("auto", "cpu", "cuda", "mps")
CONSISTENCY = ("auto", "on", "off")
BANDS = ("guide", "all")
BAND_MODES = ("inject", "each", "bicubic")

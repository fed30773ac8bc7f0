"""Convert a network to ONNX."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import torch
from torch import nn

from georsr.errors import ModelError, UsageError
from georsr.models.spec import METADATA_KEY, ModelSpec

INPUT, OUTPUT = "image", "enlarged"
"""Names of the graph's input (N, C, h, w) and output (N, C, s * h, s * w)."""

_ONE_AT_A_TIME = threading.Lock()
"""Torch's exporter changes settings of the whole process while it works."""


def to_onnx(
    network: nn.Module,
    spec: ModelSpec,
    shape: tuple[int, ...],
    *,
    dynamic: bool = False,
    tags: dict[str, str] | None = None,
) -> bytes:
    """Convert.

    Parameters
    ----------
    network, spec
        What to convert; the contract goes into the metadata.
    shape
        (N, C, h, w) of the input.
    dynamic
        All of it but C may vary.
    tags
        More metadata.

    Returns
    -------
    bytes
        Of the file, weights included.

    Raises
    ------
    UsageError
        A package is missing.
    ModelError
        The network cannot be converted.
    """
    onnx = _exporter()
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    example = torch.zeros((2, *shape[1:]) if dynamic else shape)
    with _ONE_AT_A_TIME, mkldnn_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own inside
        try:
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(any_size,) if dynamic else None,
            )
        except Exception as error:  # whatever the exporter does not understand
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"model {spec.name}: cannot be converted to ONNX: {why[0]}") from error
    assert program is not None, "torch's exporter by way of torch.export returns a program"
    proto = program.model_proto
    for name, text in {METADATA_KEY: spec.to_json(), **(tags or {})}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, text
    buffer = BytesIO()
    onnx.save_model(proto, buffer)
    return buffer.getvalue()


@contextmanager
def mkldnn_kept() -> Iterator[None]:
    """Leave oneDNN as it was: without it, convolutions have other last digits."""
    before = torch.backends.mkldnn.enabled
    try:
        yield
    finally:
        if torch.backends.mkldnn.enabled != before:
            torch.backends.mkldnn.set_flags(before)


def _exporter() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise UsageError(
            "converting to ONNX needs the packages onnx and onnxscript: pip install 'georsr[onnx]'"
        ) from error
    return onnx

"""Convert a network of torch to ONNX."""

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

_exporter_lock = threading.Lock()
"""Torch's exporter changes settings of the process while it runs."""


def to_onnx(
    network: nn.Module,
    spec: ModelSpec,
    shape: tuple[int, ...],
    *,
    dynamic: bool = False,
    tags: dict[str, str] | None = None,
) -> bytes:
    """Convert a network to an ONNX file in memory.

    Parameters
    ----------
    network, spec
        Network to convert, and its specification, which is stored in the metadata.
    shape
        Shape (N, C, h, w) of the input.
    dynamic
        Let N, h and w vary.
    tags
        Further entries of the metadata.

    Returns
    -------
    bytes
        Content of the file, weights included.

    Raises
    ------
    UsageError
        A package is missing.
    ModelError
        The network cannot be converted.
    """
    onnx = _import_onnx()
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    example = torch.zeros((2, *shape[1:]) if dynamic else shape)
    with _exporter_lock, preserve_mkldnn(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
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
        except Exception as error:  # the exporter raises many kinds of errors
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(
                f"model {spec.name}: cannot be converted to ONNX: {reason[0]}"
            ) from error
    assert program is not None, "torch's exporter by way of torch.export returns a program"
    proto = program.model_proto
    for name, text in {METADATA_KEY: spec.to_json(), **(tags or {})}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, text
    buffer = BytesIO()
    onnx.save_model(proto, buffer)
    return buffer.getvalue()


@contextmanager
def preserve_mkldnn() -> Iterator[None]:
    """Restore the oneDNN setting: without oneDNN, convolutions round differently."""
    before = torch.backends.mkldnn.enabled
    try:
        yield
    finally:
        if torch.backends.mkldnn.enabled != before:
            torch.backends.mkldnn.set_flags(before)


def _import_onnx() -> Any:
    """Import the packages that conversion needs."""
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise UsageError(
            "converting to ONNX needs the packages onnx and onnxscript: pip install 'georsr[onnx]'"
        ) from error
    return onnx

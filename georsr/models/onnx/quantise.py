"""Quantise: the convolutions between features in whole numbers of 8 bits.

Weights are scaled channel by channel, features by the range that example tiles reach. The layers
that read and write pixels stay in float32: they are cheap, and errors there are seen at once.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from georsr.errors import ModelError, UsageError
from georsr.models.onnx.export import INPUT
from georsr.models.spec import METADATA_KEY, ModelSpec
from georsr.types import FloatArray

FEATURES = 16
"""Channels from which a convolution of as many outputs counts as one between features."""
FLOOR = 40.0
"""Least PSNR to the float32 answer, in dB, that an 8-bit network may have."""


def to_int8(data: bytes, spec: ModelSpec, tiles: Sequence[FloatArray]) -> bytes:
    """Quantise a converted network.

    Parameters
    ----------
    data
        ONNX file, float32.
    spec
        Contract that goes into the new file.
    tiles
        Examples (C, h, w) in the network's value range: features are given the range they have in
        these.

    Returns
    -------
    bytes
        ONNX file.

    Raises
    ------
    UsageError
        A package is missing.
    ModelError
        There is no such convolution in it.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise UsageError(
            "8 bits need the packages onnx and onnxruntime: pip install 'georsr[onnx]'"
        ) from error
    proto = onnx.load_model_from_string(data)
    names = _between_features(proto)
    if not names:
        raise ModelError(f"model {spec.name}: has no convolutions that 8 bits would make faster")
    with tempfile.TemporaryDirectory() as folder, _silence():
        exact, rough = Path(folder) / "exact.onnx", Path(folder) / "rough.onnx"
        exact.write_bytes(data)
        quantize_static(
            exact,
            rough,
            _Reader(tiles),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=names,
        )
        made = onnx.load_model(rough)
    tags = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(made, tags | {METADATA_KEY: spec.to_json()})
    return bytes(made.SerializeToString())


@torch.inference_mode()
def fidelity(network: nn.Module, other: nn.Module, tiles: Sequence[FloatArray]) -> float:
    """PSNR in dB of one network's answers to the other's: tiles (C, h, w), values in 0..1."""
    errors = []
    for tile in tiles:
        x = torch.from_numpy(tile)[None]
        errors.append(float((network(x) - other(x)).square().mean()))
    mean = sum(errors) / len(errors)
    return float("inf") if mean == 0 else -10 * float(np.log10(mean))


def _between_features(proto: Any) -> list[str]:
    shapes = {weights.name: list(weights.dims) for weights in proto.graph.initializer}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv"
        and (shape := shapes.get(node.input[1]))
        and shape[0] == shape[1] >= FEATURES
    ]


class _Reader:
    """Hands examples to ONNX Runtime, one by one."""

    def __init__(self, tiles: Sequence[FloatArray]) -> None:
        self._left = iter(tiles)

    def get_next(self) -> dict[str, FloatArray] | None:
        """The next one; None after the last."""
        tile = next(self._left, None)
        return None if tile is None else {INPUT: tile[None]}


@contextmanager
def _silence() -> Iterator[None]:
    """The quantiser gives advice by the root logger, and sets one up where there is none."""
    root, nobody = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(nobody)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(nobody)

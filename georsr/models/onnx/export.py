"""Export: a network as an ONNX file that says what it is, to georsr and to QGIS.

Quantise: the convolutions between features in whole numbers of 8 bits.

Weights are scaled channel by channel, features by the range that example tiles reach. The layers
that read and write pixels stay in float32: they are cheap, and errors there are seen at once.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from georsr._files import atomic_write
from georsr.errors import ModelError, OutputError, UsageError
from georsr.models.io import Model
from georsr.models.onnx.convert import INPUT, to_onnx
from georsr.models.spec import METADATA_KEY, ModelSpec
from georsr.window import FloatArray

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


TOLERANCE = 1e-4
"""Largest difference between the file's answer and torch's, for values in 0..1."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    difference : float
        The largest from torch, for values in 0..1, before anything was rounded to 8 bits.
    fidelity : float or None
        PSNR in dB of the 8-bit network's answers to those of torch, on the examples; None in
        float32.
    """

    difference: float
    fidelity: float | None = None


def export_model(
    model: Model,
    path: Path,
    *,
    tile: int | None = None,
    dynamic: bool = False,
    ground: float = 1.0,
    examples: Sequence[FloatArray] | None = None,
) -> Exported:
    """Write a model as an ONNX file, compared with torch, atomically.

    Parameters
    ----------
    model
        A model of torch.
    path
        Target; replaced if it exists.
    tile
        Height and width of its tiles; None takes the model's.
    dynamic
        Let it take any number of tiles of any size, instead of one of that size.
    ground
        Metres per pixel that QGIS proposes.
    examples
        Tiles (C, tile, tile) in 0..1: quantise the network to 8 bits by what it makes of them.

    Raises
    ------
    UsageError
        A package is missing, or the tile does not suit the model.
    ModelError
        The network cannot be converted, or answers differently.
    OutputError
        The file cannot be written.
    """
    from georsr.models.onnx.runtime import OnnxNetwork

    if isinstance(model.network, OnnxNetwork):
        raise UsageError(f"model {model.source}: is an ONNX file already")
    spec = replace(model.spec, tile=tile or model.spec.tile)
    bands = spec.bands or 3
    shape = (1, bands, spec.tile, spec.tile)
    tags = {} if dynamic else deepness_tags(spec, ground)
    data = to_onnx(model.network, spec, shape, dynamic=dynamic, tags=tags)
    shapes = [shape]
    if dynamic:
        shapes.append((2, bands, spec.tile + spec.multiple_of, spec.tile))
    worst = max(difference(model.network, OnnxNetwork(data, str(path)), size) for size in shapes)
    if not worst <= TOLERANCE:
        raise ModelError(
            f"model {spec.name}: its ONNX file differs from torch by {worst:.2g}, expected at most "
            f"{TOLERANCE:g}; nothing was written"
        )
    likeness = None
    if examples is not None:
        data, likeness = _in_8_bits(model.network, data, spec, examples)
    _write(path, data)
    return Exported(worst, likeness)


def _in_8_bits(
    network: nn.Module, data: bytes, spec: ModelSpec, examples: Sequence[FloatArray]
) -> tuple[bytes, float]:
    from georsr.models.onnx.runtime import OnnxNetwork

    lo, hi = spec.value_range
    tiles = [tile * np.float32(hi - lo) + np.float32(lo) for tile in examples]
    # figures measured in float32 are not this network's
    rough = to_int8(data, replace(spec, quality={}), tiles)
    likeness = fidelity(network, OnnxNetwork(rough, spec.name), tiles)
    if likeness < FLOOR:
        raise ModelError(
            f"model {spec.name}: in 8 bits its answers are only {likeness:.1f} dB like those of "
            f"float32, expected {FLOOR:g}; nothing was written"
        )
    return rough, likeness


def deepness_tags(spec: ModelSpec, ground: float) -> dict[str, str]:
    """What the QGIS plugin Deepness wants to know: JSON values in the metadata.

    It divides bytes by 255, then subtracts the mean and divides by the deviation. It puts tiles
    side by side and takes no overlap for super-resolution.
    """
    lo, hi = spec.value_range
    bands = spec.bands or 3
    facts = {
        "model_type": "Superresolution",
        "resolution": ground * 100,  # centimetres
        "tile_size": spec.tile,  # what it reads
        "tiles_size": spec.tile,  # what its manual says
        "tiles_overlap": 0,
        "standardization_mean": [-lo / (hi - lo)] * bands,
        "standardization_std": [1 / (hi - lo)] * bands,
    }
    return {name: json.dumps(value) for name, value in facts.items()}


@torch.inference_mode()
def difference(network: nn.Module, other: nn.Module, shape: tuple[int, ...]) -> float:
    """Largest difference of two networks' answers to an image with smooth and rough parts."""
    rng = np.random.default_rng(0)
    h, w = shape[2:]
    rough = rng.random(shape, np.float32)
    smooth = (
        np.linspace(0, 1, w, dtype=np.float32) * np.linspace(0, 1, h, dtype=np.float32)[:, None]
    )
    x = torch.from_numpy(np.where(np.arange(w) < w // 2, rough, smooth).astype(np.float32))
    ours: Tensor = network(x)
    return float((ours - other(x)).abs().max())


def _write(path: Path, data: bytes) -> None:
    try:
        with atomic_write(path) as fresh:
            fresh.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from error

"""Export: a network as an ONNX file that says what it is, to georsr and to QGIS."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from georsr._files import atomic_write
from georsr.errors import ModelError, OutputError, UsageError
from georsr.models.load import Model
from georsr.models.spec import METADATA_KEY, ModelSpec
from georsr.types import FloatArray

INPUT, OUTPUT = "image", "enlarged"
"""Names of the graph's input (N, C, h, w) and output (N, C, s * h, s * w)."""
TOLERANCE = 1e-4
"""Largest difference between the file's answer and torch's, for values in 0..1."""

_ONE_AT_A_TIME = threading.Lock()
"""Torch's exporter changes settings of the whole process while it works."""


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
    from georsr.models.onnx.session import OnnxNetwork

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
    from georsr.models.onnx.quantise import FLOOR, fidelity, to_int8
    from georsr.models.onnx.session import OnnxNetwork

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


def _exporter() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise UsageError(
            "converting to ONNX needs the packages onnx and onnxscript: pip install 'georsr[onnx]'"
        ) from error
    return onnx


def _write(path: Path, data: bytes) -> None:
    try:
        with atomic_write(path) as fresh:
            fresh.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from error

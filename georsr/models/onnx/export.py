"""Export a model as an ONNX file with metadata for georsr and for QGIS, optionally in 8 bits."""

from __future__ import annotations

import copy
import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr._files import atomic_write_bytes
from georsr.errors import ModelError, UsageError
from georsr.models.io import Model
from georsr.models.onnx.quantization import Example, in_int8
from georsr.models.onnx.runtime import (
    ESTIMATOR_SUFFIX,
    GUIDANCE,
    INPUT,
    OUTPUT,
    SENSOR,
    OnnxNetwork,
    onnxruntime,
)
from georsr.models.segsr import LightLMM
from georsr.models.spec import METADATA_KEY, ModelSpec
from georsr.window import FloatArray

MIN_HALVED = 64
"""Smallest number of values of a tensor that is stored in 16 bits."""

_exporter_lock = threading.Lock()
"""Torch's exporter changes settings of the process while it runs."""


class _WithGuidance(nn.Module):
    """A network of SeG-SR that returns its guidance maps too, and may be given a sensor."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, sensor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> (N, C, s * h, s * w) and (N, groups, hc, wc)."""
        prediction = self.network.predict(image, sensor)
        return prediction.image, torch.cat(prediction.maps, 1)


class _SplitModulation(nn.Module):
    """`LightLMM` with a convolution each for gamma and beta.

    ONNX Runtime keeps features in blocks of channels between convolutions, and would reorder all of
    them to cut gamma from beta.
    """

    def __init__(self, modulation: LightLMM) -> None:
        super().__init__()
        self.lift, last = modulation.lift, modulation.gamma_beta
        weights, biases = last.weight.detach().chunk(2), cast(Tensor, last.bias).detach().chunk(2)
        self.gamma, self.beta = (
            nn.Conv2d(last.in_channels, len(bias), 1).requires_grad_(False) for bias in biases
        )
        for conv, weight, bias in zip((self.gamma, self.beta), weights, biases, strict=True):
            conv.weight[:], cast(Tensor, conv.bias)[:] = weight, bias
        cast(Tensor, self.gamma.bias).add_(1)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Features (N, C, h, w) and a map (N, 1, hc, wc) -> (N, C, h, w)."""
        guidance = F.interpolate(guidance, x.shape[2:], mode="bilinear", align_corners=False)
        hidden = F.relu(self.lift(guidance))
        return x * self.gamma(hidden) + self.beta(hidden)


def _for_runtime(network: nn.Module) -> nn.Module:
    """Return a network as ONNX Runtime computes it fastest; a copy if that changes it."""
    modulations = getattr(network, "modulations", ())
    if not any(isinstance(modulation, LightLMM) for modulation in modulations):
        return network
    copied: Any = copy.deepcopy(network)
    for i, modulation in enumerate(modulations):
        if isinstance(modulation, LightLMM):
            copied.modulations[i] = _SplitModulation(modulation)
    return cast(nn.Module, copied)


def to_onnx(
    network: nn.Module,
    spec: ModelSpec,
    shape: tuple[int, ...],
    *,
    dynamic: bool = False,
    batches: bool = True,
    compact: bool = False,
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
        Let N, h and w vary. Guidance maps are then a second output, and the sensor description, if
        the network takes one, a second input, which need not be given.
    batches
        Let N vary; if not, it is 1.
    compact
        Store weights in 16 bits where that loses nothing.
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
    network = _for_runtime(network)
    guided = dynamic and bool(getattr(network, "guidance_count", 0))
    example = torch.zeros((2, *shape[1:]) if dynamic and batches else shape)
    arguments, inputs, outputs = [example], [INPUT], [OUTPUT]
    sensor: Tensor | None = getattr(network, "sensor", None) if guided else None
    if guided:
        outputs.append(GUIDANCE)
    if sensor is not None:
        arguments.append(sensor)
        inputs.append(SENSOR)
    proto = _convert(
        _WithGuidance(network) if guided else network,
        spec.name,
        arguments,
        (inputs, outputs),
        varying=((0, 2, 3) if batches else (2, 3)) if dynamic else (),
    )
    if compact:
        proto = _store_in_16_bits(proto)
    if sensor is not None:  # an input with a value need not be given
        values = _import_onnx().numpy_helper.from_array(sensor.numpy(), SENSOR)
        proto.graph.initializer.append(values)
    for name, text in {METADATA_KEY: spec.to_json(), **(tags or {})}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, text
    return _serialize(proto)


def estimator_to_onnx(estimator: nn.Module, name: str, bands: int) -> bytes:
    """Convert the estimator of a sensor description to an ONNX file in memory."""
    example = [torch.zeros(2, bands, 64, 64)]
    names = ([INPUT], ["sensor_mean", "sensor_variance"])
    return _serialize(
        _store_in_16_bits(_convert(estimator, name, example, names, varying=(0, 2, 3)))
    )


def _convert(
    network: nn.Module,
    name: str,
    arguments: list[Tensor],
    names: tuple[list[str], list[str]],
    *,
    varying: tuple[int, ...],
) -> Any:
    """Return a network as a protobuf; these axes of its first input vary."""
    _import_onnx()
    any_size = dict.fromkeys(varying, torch.export.Dim.DYNAMIC)
    shapes = (any_size, *({} for _ in arguments[1:])) if varying else None
    with _exporter_lock, preserve_mkldnn(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        try:
            program = torch.onnx.export(
                network.eval(),
                tuple(arguments),
                dynamo=True,
                verbose=False,
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=shapes,
            )
        except Exception as error:  # the exporter raises many kinds of errors
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"model {name}: cannot be converted to ONNX: {reason[0]}") from error
    assert program is not None, "torch's exporter by way of torch.export returns a program"
    proto: Any = program.model_proto
    # the exporter's remarks name folders of this machine
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return proto


def _serialize(proto: Any) -> bytes:
    buffer = BytesIO()
    _import_onnx().save_model(proto, buffer)
    return buffer.getvalue()


def _store_in_16_bits(proto: Any) -> Any:
    """Store the weights in 16 bits if that loses nothing."""
    onnx = _import_onnx()
    # ONNX Runtime adds features inside a convolution only if both are known to have one size
    features = [
        info for info in proto.graph.value_info if len(info.type.tensor_type.shape.dim) == 4
    ]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(features)
    casts = []
    for weights in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        half = values.astype(np.float16) if values.dtype == np.float32 else values
        if half.size < MIN_HALVED or values.dtype != np.float32 or (half != values).any():
            continue
        name = f"{weights.name}.16"
        casts.append(onnx.helper.make_node("Cast", [name], [weights.name], to=1))
        weights.CopyFrom(onnx.numpy_helper.from_array(half, name))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


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
            "converting to ONNX needs the packages onnx and onnxscript: pip install onnx onnxscript"
        ) from error
    return onnx


@torch.inference_mode()
def fidelity(network: nn.Module, other: OnnxNetwork, tiles: Sequence[FloatArray]) -> float:
    """Return the PSNR (dB) between the outputs of two networks for tiles (C, h, w) in 0..1."""
    errors = []
    for tile in tiles:
        x = torch.from_numpy(tile)[None]
        errors.append(float((network(x) - torch.from_numpy(other(tile[None]))).square().mean()))
    mean = sum(errors) / len(errors)
    return float("inf") if mean == 0 else -10 * float(np.log10(mean))


TOLERANCE = 1e-4
"""Largest difference between the outputs of the file and of torch, for values in 0..1."""
MIN_PSNR = 40.0
"""Minimum PSNR (dB) of an 8-bit network's output against that in float32."""


@dataclass(frozen=True)
class ExportReport:
    """Differences of an exported file from the network in torch."""

    difference: float
    """Largest difference of the float32 file, for values in 0..1."""
    fidelity: float | None = None
    """PSNR (dB) of the 8-bit file on the examples; None for a float32 file."""


class ConvertedNetwork:
    """A torch network that is converted to ONNX at its first call.

    Parameters
    ----------
    network, spec
        Network, and its specification.
    """

    guidance_count = 0

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        onnxruntime()  # a missing package is reported before the first tile is read
        self._network, self._spec = network, spec
        self._converted: OnnxNetwork | None = None
        self._lock = threading.Lock()

    def __call__(self, x: FloatArray, sensor: FloatArray | None = None) -> FloatArray:
        """(N, C, h, w) -> (N, C, s * h, s * w), float32; the network knows its sensor."""
        with self._lock:
            if self._converted is None:
                shape = (1, x.shape[1], self._spec.tile, self._spec.tile)
                data = to_onnx(self._network, self._spec, shape, dynamic=True)
                self._converted = OnnxNetwork(data, self._spec.name)
        return self._converted(x)

    def guidance_maps(self, x: FloatArray) -> FloatArray:
        """Raise: the conversion leaves them out."""
        raise ModelError("a converted network has no guidance maps")


def export_model(
    model: Model,
    path: Path,
    *,
    tile: int | None = None,
    dynamic: bool = False,
    ground: float = 1.0,
    examples: Sequence[FloatArray] | None = None,
) -> ExportReport:
    """Write a model as an ONNX file, atomically, after comparing it with torch.

    Parameters
    ----------
    model
        Model to export.
    path
        Path of the file; replaced if it exists. If ``dynamic``, the estimator of the sensor
        description, if the network has one, is written beside it as ``NAME.sensor.onnx``.
    tile
        Height and width of the file's tiles; None takes the model's.
    dynamic
        Let the file take any number of tiles of any size, instead of one of that size.
    ground
        Metres per pixel that Deepness in QGIS proposes.
    examples
        Tiles (C, tile, tile) in 0..1 to quantise the network to 8 bits by; None for float32.

    Raises
    ------
    UsageError
        A package is missing, or the model is an ONNX file already.
    ModelError
        The network cannot be converted, or the outputs differ.
    OutputError
        The file cannot be written.
    """
    if model.is_exported:
        raise UsageError(f"model {model.source}: is an ONNX file already")
    spec = replace(model.spec, tile=tile or model.spec.tile)
    bands = spec.bands or 3
    shape = (1, bands, spec.tile, spec.tile)
    tags = {} if dynamic else deepness_tags(spec, ground)
    compact = dynamic and examples is None
    data = to_onnx(model.network, spec, shape, dynamic=dynamic, compact=compact, tags=tags)
    shapes = [shape]
    if dynamic:
        shapes.append((2, bands, spec.tile + spec.multiple_of, spec.tile))
    worst = max(difference(model.network, OnnxNetwork(data, str(path)), size) for size in shapes)
    if not worst <= TOLERANCE:
        raise ModelError(
            f"model {spec.name}: its ONNX file differs from torch by {worst:.2g}, expected at most "
            f"{TOLERANCE:g}; nothing was written"
        )
    psnr = None
    if examples is not None:
        data, psnr = _quantise(model.network, spec, shape, examples, dynamic=dynamic, tags=tags)
    atomic_write_bytes(path, data)
    estimator = getattr(model.network, "sensor_estimator", None)
    if dynamic and estimator is not None:
        data = estimator_to_onnx(estimator, spec.name, bands)
        atomic_write_bytes(path.with_suffix(ESTIMATOR_SUFFIX), data)
    return ExportReport(worst, psnr)


def _quantise(
    network: Any,
    spec: ModelSpec,
    shape: tuple[int, ...],
    examples: Sequence[FloatArray],
    *,
    dynamic: bool,
    tags: dict[str, str],
) -> tuple[bytes, float]:
    """Return the file in 8 bits and its PSNR (dB) on the examples."""
    lo, hi = spec.value_range
    tiles = [tile * np.float32(hi - lo) + np.float32(lo) for tile in examples]
    estimator = getattr(network, "sensor_estimator", None) if dynamic else None
    inputs: list[Example] = []
    for tile in tiles:
        image = torch.from_numpy(tile)[None]
        with torch.inference_mode():
            inputs.append((image, None if estimator is None else estimator(image)[0]))
    int8 = to_onnx(
        in_int8(network, spec.name, inputs),
        replace(spec, quality={}),  # measured in float32, it is not that of 8 bits
        shape,
        dynamic=dynamic,
        batches=False,
        compact=True,
        tags=tags,
    )
    psnr = fidelity(network, OnnxNetwork(int8, spec.name), tiles)
    if psnr < MIN_PSNR:
        raise ModelError(
            f"model {spec.name}: the 8-bit output has a PSNR of {psnr:.1f} dB against float32, "
            f"expected at least {MIN_PSNR:g} dB; nothing was written"
        )
    return int8, psnr


def deepness_tags(spec: ModelSpec, ground: float) -> dict[str, str]:
    """Return the metadata that the QGIS plugin Deepness reads: JSON values by key.

    Deepness divides bytes by 255, then subtracts the mean and divides by the standard deviation.
    It places tiles next to each other: for super-resolution it takes no overlap.
    """
    lo, hi = spec.value_range
    bands = spec.bands or 3
    tags = {
        "model_type": "Superresolution",
        "resolution": ground * 100,  # centimetres
        "tile_size": spec.tile,  # the key it reads
        "tiles_size": spec.tile,  # the key in its manual
        "tiles_overlap": 0,
        "standardization_mean": [-lo / (hi - lo)] * bands,
        "standardization_std": [1 / (hi - lo)] * bands,
    }
    return {name: json.dumps(value) for name, value in tags.items()}


@torch.inference_mode()
def difference(network: nn.Module, other: OnnxNetwork, shape: tuple[int, ...]) -> float:
    """Return the largest difference between torch and an ONNX file for one test image."""
    rng = np.random.default_rng(0)
    h, w = shape[2:]
    noise = rng.random(shape, np.float32)
    smooth = (
        np.linspace(0, 1, w, dtype=np.float32) * np.linspace(0, 1, h, dtype=np.float32)[:, None]
    )
    x = np.where(np.arange(w) < w // 2, noise, smooth).astype(np.float32)
    output: Tensor = network(torch.from_numpy(x))
    return float(np.abs(output.numpy() - other(x)).max())

"""Export a model as an ONNX file with metadata for georsr and for QGIS, optionally in 8 bits.

In 8 bits, the convolutions between features are quantised: weights per channel, features by their
range on example tiles. Features that a ReLU has not cut still carry the image, in a few channels of
ten times the range of others: their channels are first scaled to one range, and the weights
inversely (as in SmoothQuant, arXiv 2211.10438). Everything else stays in float32. The residual
groups of segsr-lite are written in operators of ONNX Runtime, with channels last, so that between
their convolutions nothing is converted or reordered.
"""

from __future__ import annotations

import copy
import json
import threading
import warnings
from collections import defaultdict
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
from georsr.models.segsr_lite import PlainBackbone, ResidualBlock
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
    made: Any = copy.deepcopy(network)
    for i, modulation in enumerate(modulations):
        if isinstance(modulation, LightLMM):
            made.modulations[i] = _SplitModulation(modulation)
    return cast(nn.Module, made)


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
    return program.model_proto


def _serialize(proto: Any) -> bytes:
    buffer = BytesIO()
    _import_onnx().save_model(proto, buffer)
    return buffer.getvalue()


def _store_in_16_bits(proto: Any) -> Any:
    """Store the weights in 16 bits if that loses nothing, and drop the exporter's own remarks."""
    onnx = _import_onnx()
    del proto.metadata_props[:]
    # ONNX Runtime adds features inside a convolution only if both are known to have one size
    features = [
        info for info in proto.graph.value_info if len(info.type.tensor_type.shape.dim) == 4
    ]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(features)
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
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


MIN_CHANNELS = 16
"""Minimum channels of a convolution that is quantised; it has as many inputs as outputs, and more
than one tap: others are cheap."""
MIN_PSNR = 40.0
"""Minimum PSNR (dB) of an 8-bit network's output against that in float32."""
MARGIN = 1.5
"""Factor on the largest shift of the examples: other tiles may have larger ones."""

Example = tuple[Tensor, Tensor | None]
"""Image (1, C, h, w), and the sensor description if the network is given one."""


def _operator(
    name: str, inputs: list[Tensor], dtype: torch.dtype, shape: Any, **attributes: Any
) -> Tensor:
    """Write an operator of ONNX into the graph; it only has a value when ONNX Runtime runs it."""
    return torch.onnx.ops.symbolic(
        name,
        inputs,
        attributes,
        dtype=dtype,
        shape=shape,
        version=1 if name.startswith("com.microsoft") else None,
    )


class _Codes(nn.Module):
    """Bytes that stand for the values of a tensor: (code - zero) * scale.

    Parameters
    ----------
    low, high
        Smallest and largest value.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, low: Any, high: Any) -> None:
        super().__init__()
        low, high = min(float(low), 0.0), max(float(high), 1e-6)
        scale = (high - low) / 255
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero", torch.tensor(round(-low / scale), dtype=torch.uint8))

    def encode(self, x: Tensor) -> Tensor:
        """Return the bytes of values; those out of range become the ends of the range."""
        return _operator("QuantizeLinear", [x, self.scale, self.zero], torch.uint8, x.shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of bytes."""
        return _operator(
            "DequantizeLinear", [codes, self.scale, self.zero], torch.float32, codes.shape
        )


def _add_codes(a: Tensor, of_a: _Codes, b: Tensor, of_b: _Codes, of_sum: _Codes) -> Tensor:
    """Return the bytes of the sum of two tensors of bytes."""
    inputs = [a, of_a.scale, of_a.zero, b, of_b.scale, of_b.zero, of_sum.scale, of_sum.zero]
    return _operator("com.microsoft::QLinearAdd", inputs, torch.uint8, a.shape)


class _Int8Conv(nn.Module):
    """A convolution of bytes: (N, h, w, C) -> (N, h, w, C).

    Parameters
    ----------
    conv
        Convolution in float32.
    source, target
        Codes of its input and output.
    """

    weight: Tensor
    weight_scale: Tensor
    weight_zero: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, source: _Codes, target: _Codes) -> None:
        super().__init__()
        self.source, self.target = source, target
        weight = conv.weight.detach()
        scale = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
        bias = torch.zeros(len(scale)) if conv.bias is None else conv.bias.detach()
        # the bias is counted in steps of the products, in 32 bits
        scale = torch.maximum(scale, bias.abs() / (source.scale * 2**30))
        steps = (weight / scale[:, None, None, None]).round()
        self.register_buffer("weight", steps.to(torch.int8))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("weight_zero", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("bias", (bias / (scale * source.scale)).round().to(torch.int32))
        padding: Any = conv.padding
        self.attributes = {
            "channels_last": 1,
            "kernel_shape": list(conv.kernel_size),
            "pads": [*padding, *padding],
        }

    def forward(self, codes: Tensor, factor: Tensor | None = None) -> Tensor:
        """Convolve; the sums are multiplied by ``factor`` (C,), which costs nothing here."""
        scale = self.weight_scale if factor is None else self.weight_scale * factor
        inputs = [codes, self.source.scale, self.source.zero, self.weight, scale]
        inputs += [self.weight_zero, self.target.scale, self.target.zero, self.bias]
        return _operator(
            "com.microsoft::QLinearConv", inputs, torch.uint8, codes.shape, **self.attributes
        )


class _Permute(nn.Module):
    """Changes the order of axes."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Return the same values with their axes in another order."""
        return x.permute(self.order)


class _Int8Layer(nn.Module):
    """A convolution in 8 bits between features in float32: (N, h, w, C) -> (N, h, w, C)."""

    def __init__(self, conv: _Int8Conv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        return self.conv.target.decode(self.conv(self.conv.source.encode(x)))


class _Range:
    """Range of the channels of features (N, C, h, w), over the examples."""

    def __init__(self) -> None:
        self.low = self.high = torch.zeros(())

    def include(self, x: Tensor) -> None:
        """Widen the range by that of ``x``."""
        self.low = torch.minimum(self.low, x.amin((0, 2, 3)))
        self.high = torch.maximum(self.high, x.amax((0, 2, 3)))

    @property
    def largest(self) -> Tensor:
        """Largest magnitude of each channel."""
        return torch.maximum(-self.low, self.high).clamp_min(1e-6)

    def codes(self, factors: Tensor | float = 1.0) -> _Codes:
        """Return codes for the features, their channels multiplied by ``factors``."""
        return _Codes((self.low * factors).min(), (self.high * factors).max())


class _Observed:
    """What a network computes of the examples."""

    def __init__(self, network: Any, examples: Sequence[Example]) -> None:
        self.inputs: dict[nn.Module, _Range] = defaultdict(_Range)
        self.outputs: dict[nn.Module, _Range] = defaultdict(_Range)
        self.films: dict[nn.Module, list[tuple[Tensor, ...]]] = defaultdict(list)
        """Scale, shift, and the range of what they are applied to, of each example."""
        self._last: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        hooks = []
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                hooks.append(module.register_forward_hook(self._see_features))
            elif isinstance(module, ResidualBlock):
                hooks.append(module.register_forward_hook(self._see_film))
        with torch.inference_mode():
            for image, sensor in examples:
                _ = network(image) if sensor is None else network.predict(image, sensor)
        for hook in hooks:
            hook.remove()

    def _see_features(self, conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.inputs[conv].include(inputs[0])
        self.outputs[conv].include(output)
        self._last[conv] = output.amin((0, 2, 3)), output.amax((0, 2, 3))

    def _see_film(self, block: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        if len(inputs) > 1 and inputs[1] is not None:
            scale, shift = inputs[1]
            film = 1 + scale.flatten(), shift.flatten()
            self.films[block].append((*film, *self._last[block.conv1]))


class _Multiply(nn.Module):
    """Multiplies channels by factors (C,): (N, h, w, C) -> (N, h, w, C)."""

    factors: Tensor

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C)."""
        n, h, w, c = x.shape
        # as rows: few channels would be multiplied pixel by pixel, twice as slowly
        rows = x.reshape(n, h, w * c) * self.factors.expand(w, c).reshape(w * c)
        return rows.reshape(n, h, w, c)


def _equalised(conv: nn.Conv2d, seen: _Range) -> tuple[_Multiply, nn.Conv2d, _Codes]:
    """Return factors for the input of a convolution, it for that input, and codes for the input."""
    factors = seen.largest.max() / seen.largest
    made = copy.deepcopy(conv).requires_grad_(False)
    made.weight /= factors[:, None, None]
    return _Multiply(factors), made, seen.codes(factors)


def _in_8_bits(conv: nn.Conv2d, observed: _Observed) -> nn.Module:
    """Return a convolution in 8 bits between features (N, h, w, C) in float32."""
    seen, target = observed.inputs[conv], observed.outputs[conv].codes()
    if not (seen.low < 0).any():  # a ReLU has cut it: its channels differ less
        return _Int8Layer(_Int8Conv(conv, seen.codes(), target))
    multiply, made, codes = _equalised(conv, seen)
    return nn.Sequential(multiply, _Int8Layer(_Int8Conv(made, codes, target)))


class _Int8Block(nn.Module):
    """A `ResidualBlock` in 8 bits, of features (N, h, w, C) in float32.

    The scale of a FiLM multiplies sums of products, where a scale is applied anyway. The part of
    its shifts that the examples have in common is in the bias: what is left is small, and so is
    the loss of 8 bits.

    Parameters
    ----------
    block, observed
        Block in float32, and what was observed.
    """

    usual: Tensor
    """Shift of an unscaled channel (C,) that is in the bias."""

    def __init__(self, block: Any, observed: _Observed) -> None:
        super().__init__()
        self.multiply, first, source = _equalised(block.conv1, observed.inputs[block.conv1])
        self.inner = observed.inputs[block.conv2].codes()
        inner, films = self.inner, observed.films[block]
        if films:
            scales, shifts, *ends = (torch.stack(values) for values in zip(*films, strict=True))
            usual = (scales * shifts).sum(0) / scales.square().sum(0).clamp_min(1e-2)
            self.register_buffer("usual", usual)
            cast(Tensor, first.bias).add_(usual)
            most = MARGIN * (shifts - scales * usual).abs().amax(0)
            self.shift = _Codes(-most.max(), most.max())
            before = torch.stack([scales * (end + usual) for end in ends])
            # what is lower stays below zero whatever is added
            low = torch.maximum(before.amin((0, 1)), -most)
            inner = _Codes(low.min(), before.max())
        self.conv1 = _Int8Conv(first, source, inner)
        self.conv2 = _Int8Conv(block.conv2, self.inner, observed.outputs[block.conv2].codes())

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(N, h, w, C) -> (N, h, w, C); N is 1 if there is a FiLM."""
        codes = self.conv1.source.encode(self.multiply(x))
        inner = self.conv1(codes) if film is None else self._modulated(codes, film)
        return x + self.conv2.target.decode(self.conv2(inner))

    def _modulated(self, codes: Tensor, film: tuple[Tensor, Tensor]) -> Tensor:
        scale, shift = 1 + film[0].flatten(), film[1].flatten()
        inner = self.conv1(codes, scale)
        n, h, w, c = inner.shape
        # as rows: a shift of few channels would be added pixel by pixel, eight times as slowly
        shifts = self.shift.encode(shift - scale * self.usual).expand(w, c).reshape(w * c)
        rows = inner.reshape(n, h, w * c)
        rows = _add_codes(rows, self.conv1.target, shifts, self.shift, self.inner)
        return rows.reshape(n, h, w, c)


class _LastAxisModulation(nn.Module):
    """`LightLMM` of features (N, h, w, C)."""

    gamma: Tensor
    beta: Tensor

    def __init__(self, modulation: LightLMM) -> None:
        super().__init__()
        lift, last = modulation.lift, modulation.gamma_beta
        hidden_dim = lift.out_channels
        # one channel more, which is 1, carries the biases
        self.lift = nn.Conv2d(1, hidden_dim + 1, 3, padding=1).requires_grad_(False)
        self.lift.weight[:] = F.pad(lift.weight, (0, 0, 0, 0, 0, 0, 0, 1))
        cast(Tensor, self.lift.bias)[:] = F.pad(cast(Tensor, lift.bias), (0, 1), value=1.0)
        matrix = torch.cat([last.weight[:, :, 0, 0], cast(Tensor, last.bias)[:, None]], 1).detach()
        gamma, beta = matrix.chunk(2)
        gamma = gamma + F.pad(torch.ones(len(gamma), 1), (hidden_dim, 0))
        self.register_buffer("gamma", gamma.T.contiguous())
        self.register_buffer("beta", beta.T.contiguous())

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Features (N, h, w, C) and a map (N, 1, hc, wc) -> (N, h, w, C)."""
        guidance = F.interpolate(guidance, x.shape[1:3], mode="bilinear", align_corners=False)
        hidden = F.relu(self.lift(guidance)).permute(0, 2, 3, 1)
        return x * (hidden @ self.gamma) + hidden @ self.beta


def in_int8(network: nn.Module, name: str, examples: Sequence[Example]) -> nn.Module:
    """Return a copy of a network with its convolutions between features in 8 bits.

    It is there to be exported, and has no values in torch.

    Parameters
    ----------
    network, name
        Network, and its name in messages.
    examples
        Inputs that set the ranges of features.

    Raises
    ------
    UsageError
        Torch is too old.
    ModelError
        The network has no convolution between features.
    """
    if not hasattr(torch.onnx, "ops"):
        raise UsageError(f"8 bits need torch 2.8 or newer, got {torch.__version__}")
    network = copy.deepcopy(network).eval()
    chosen = [
        conv_name
        for conv_name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and _is_between_features(module)
    ]
    if not chosen:
        raise ModelError(f"model {name}: has no convolutions that 8 bits would make faster")
    observed = _Observed(network, examples)
    if isinstance(getattr(network, "backbone", None), PlainBackbone):
        _quantise_plain(network, observed)
        return network
    for conv_name in chosen:
        conv = cast(nn.Conv2d, network.get_submodule(conv_name))
        steps = _Permute(0, 2, 3, 1), _in_8_bits(conv, observed), _Permute(0, 3, 1, 2)
        parent, _, attribute = conv_name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, nn.Sequential(*steps))
    return network


def _is_between_features(conv: nn.Conv2d) -> bool:
    """Return whether a convolution takes long enough to be quantised."""
    plain = conv.groups == 1 and set(conv.stride) | set(conv.dilation) == {1}
    between = conv.in_channels == conv.out_channels >= MIN_CHANNELS and conv.kernel_size[0] > 1
    same_size = conv.padding == tuple(size // 2 for size in conv.kernel_size)
    return plain and between and same_size and conv.padding_mode == "zeros"


def _quantise_plain(network: Any, observed: _Observed) -> None:
    """Compute a network with a `PlainBackbone` in 8 bits, with its features as (N, h, w, C)."""
    backbone, upsampler = network.backbone, network.upsampler
    backbone.conv_first = nn.Sequential(backbone.conv_first, _Permute(0, 2, 3, 1))
    for group in backbone.groups:
        for i, block in enumerate(group):
            group[i] = _Int8Block(block, observed)
    for i, modulation in enumerate(network.modulations):
        network.modulations[i] = _LastAxisModulation(modulation)
    last, order = upsampler.conv, _Permute(0, 3, 1, 2)
    if _is_between_features(last):
        upsampler.conv = nn.Sequential(_in_8_bits(last, observed), order)
    else:
        upsampler.conv = nn.Sequential(order, last)


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


@dataclass(frozen=True)
class ExportReport:
    """Differences of an exported file from the network in torch.

    Attributes
    ----------
    difference : float
        Largest difference of the float32 file, for values in 0..1.
    fidelity : float or None
        PSNR (dB) of the 8-bit file on the examples; None for a float32 file.
    """

    difference: float
    fidelity: float | None = None


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

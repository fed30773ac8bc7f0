"""Quantise a network to 8 bits, to be exported as an ONNX file.

The convolutions between features are quantised: weights per channel, features by their range on
example tiles. Features that a ReLU has not cut still carry the image, in a few channels of ten
times the range of others: their channels are first scaled to one range, and the weights inversely
(as in SmoothQuant, arXiv 2211.10438). Everything else stays in float32. The residual groups of
segsr-lite are written in operators of ONNX Runtime, with channels last, so that between their
convolutions nothing is converted or reordered.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError, UsageError
from georsr.models.segsr import LightLMM
from georsr.models.segsr_lite import PlainBackbone, ResidualBlock

MIN_CHANNELS = 16
"""Minimum channels of a convolution that is quantised; it has as many inputs as outputs, and more
than one tap: others are cheap."""
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


def _equalised(conv: nn.Conv2d, observed: _Range) -> tuple[_Multiply, nn.Conv2d, _Codes]:
    """Return factors for the input of a convolution, it for that input, and codes for the input."""
    factors = observed.largest.max() / observed.largest
    equalised = copy.deepcopy(conv).requires_grad_(False)
    equalised.weight /= factors[:, None, None]
    return _Multiply(factors), equalised, observed.codes(factors)


def _in_8_bits(conv: nn.Conv2d, observed: _Observed) -> nn.Module:
    """Return a convolution in 8 bits between features (N, h, w, C) in float32."""
    inputs, target = observed.inputs[conv], observed.outputs[conv].codes()
    if not (inputs.low < 0).any():  # a ReLU has cut it: its channels differ less
        return _Int8Layer(_Int8Conv(conv, inputs.codes(), target))
    multiply, equalised, codes = _equalised(conv, inputs)
    return nn.Sequential(multiply, _Int8Layer(_Int8Conv(equalised, codes, target)))


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
            largest = MARGIN * (shifts - scales * usual).abs().amax(0)
            self.shift = _Codes(-largest.max(), largest.max())
            before = torch.stack([scales * (end + usual) for end in ends])
            # what is lower stays below zero whatever is added
            low = torch.maximum(before.amin((0, 1)), -largest)
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

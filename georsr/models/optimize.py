"""Optimized layers for inference, and the function that puts them into a network.

The modules of the networks are written for reading and training. `optimize_for_inference` replaces
some of their layers by subclasses that hold the same parameters: state dicts do not change, results
differ by rounding at most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary, ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SINGLE_THREAD_PRODUCTS = 2**15
"""Products below which torch computes element-wise work in one thread (its grain size)."""
MAX_CACHED = 4
"""Tensors cached per module: a tile has windows of up to four sizes."""

T = TypeVar("T", bound=nn.Module)
_Stamp = tuple["ref[Tensor]", int, int]
_lock = threading.Lock()
_cache: WeakKeyDictionary[nn.Module, dict[object, tuple[_Stamp, Tensor]]] = WeakKeyDictionary()
"""Module -> key -> source parameter at the time, and value. It lies outside the modules, so that
copies and pickles of a network hold nothing of it."""


def cached(module: nn.Module, source: Tensor, key: object, compute: Callable[[], Tensor]) -> Tensor:
    """Return ``compute()``, cached while the parameter ``source`` does not change.

    Nothing is cached while gradients are computed, or while a compiler traces the network.

    Parameters
    ----------
    module
        Module that owns the value; the value is dropped with it.
    source
        Parameter from which the value is computed.
    key
        Key of the value among those of the module.
    compute
        Function that computes the value from ``source``.
    """
    plain = type(source) in (Tensor, nn.Parameter) and not source.is_inference()
    traced = torch.is_grad_enabled() or torch.compiler.is_compiling() or source.is_meta
    if traced or not plain:
        return compute()
    with _lock:
        values = _cache.setdefault(module, {})
        stamp, value = values.get(key, (None, None))
    if stamp is not None and value is not None:
        unchanged = stamp[1:] == (source.data_ptr(), source._version)
        if unchanged and stamp[0]() is source:
            return value
    with torch.inference_mode(False), torch.no_grad():
        value = compute()
    with _lock:
        if len(values) >= MAX_CACHED:
            values.clear()
        values[key] = ((ref(source), source.data_ptr(), source._version), value)
    return value


class DeterministicLinear(nn.Linear):
    """A linear layer whose small products do not depend on the number of CPU threads.

    Matrix libraries choose their order of summation by the number of threads. A product of a few
    thousand terms, multiplied and summed element by element, has one order only. Convolutions do
    not have the problem.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        products = x.numel() * self.out_features
        small = x.device.type == "cpu" and products < SINGLE_THREAD_PRODUCTS
        if not small or torch.is_grad_enabled():
            return super().forward(x)
        y = (x.unsqueeze(-2) * self.weight).sum(-1)
        return y if self.bias is None else y + self.bias


def head_padding(head_dim: int, device: torch.device) -> int:
    """Return the channels to add to each head so that fused attention takes it: multiples of 8.

    A head of 30 falls back to the slow kernel on CUDA and is 1.2 to 1.5 times slower on the CPU.
    """
    return -head_dim % 8 if device.type in ("cpu", "cuda") else 0


class PaddedQKV(nn.Linear):
    """The linear layer before attention, with zeros after each head's channels.

    (..., C) -> (..., 3 * heads * padded head).
    """

    head_dim: int

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 3 * heads * padded head)."""
        padding = head_padding(self.head_dim, x.device)
        if padding == 0:
            return super().forward(x)

        def padded(values: Tensor) -> Tensor:
            heads = values.unflatten(0, (-1, self.head_dim))
            return F.pad(heads, (0, 0) * (values.dim() - 1) + (0, padding)).flatten(0, 1)

        weight = cached(self, self.weight, "weight", lambda: padded(self.weight))
        bias = cached(self, self.bias, "bias", lambda: padded(self.bias))
        return F.linear(x, weight, bias)


class PaddedProj(nn.Linear):
    """The linear layer after attention: (..., heads * padded head) -> (..., C)."""

    head_dim: int

    def forward(self, x: Tensor) -> Tensor:
        """(..., heads * padded head) -> (..., C)."""
        padding = head_padding(self.head_dim, x.device)
        if padding == 0:
            return super().forward(x)

        def padded() -> Tensor:
            heads = self.weight.unflatten(1, (-1, self.head_dim))
            return F.pad(heads, (0, padding)).flatten(1, 2)

        return F.linear(x, cached(self, self.weight, "weight", padded), self.bias)


def pad_heads(qkv: nn.Linear, proj: nn.Linear, num_heads: int) -> None:
    """Make the layers before and after attention pad its heads, in place."""
    head_dim = qkv.in_features // num_heads
    for layer, kind in ((qkv, PaddedQKV), (proj, PaddedProj)):
        layer.__class__ = kind  # a subclass with the same parameters
        layer.head_dim = head_dim  # type: ignore[assignment]


def optimize_for_inference(network: T) -> T:
    """Replace layers by optimized ones with the same parameters, in place; returns ``network``.

    A module with layers of its own to optimize has a method ``optimize_for_inference``, as the
    attention of HAT. All other linear layers become `DeterministicLinear`.
    """
    for module in network.modules():
        optimize = getattr(module, "optimize_for_inference", None)
        if callable(optimize):
            optimize()
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = DeterministicLinear
    return network

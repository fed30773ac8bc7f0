"""Ablation of guidance: the same network, but its scene encoder sees something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from georsr.engine.inference import Inference
from georsr.errors import UsageError
from georsr.evaluation.benchmark import Enlarge, Sample
from georsr.types import AnyArray

MODES = ("normal", "wrong", "off")
"""``wrong``: the encoder sees an image of another class. ``off``: it sees uniform grey, which no
network was trained on: a figure for the worst case, not for a network trained without guidance."""
LABELS = {"wrong": "wrong guidance", "off": "guidance off"}
GREY = 128


def with_guidance(inference: Inference, enlarge: Enlarge, mode: str) -> Enlarge:
    """A competitor whose encoder describes another picture than the one that is enlarged.

    Parameters
    ----------
    inference
        Runs a network with a submodule ``encoder``; nothing of it changes.
    enlarge
        Enlarges a sample by that very ``inference``.
    mode
        One of :data:`MODES`.

    Raises
    ------
    UsageError
        The network has no encoder, or the mode is unknown.
    """
    if mode not in MODES:
        raise UsageError(f"guidance {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "normal":
        return enlarge
    encoder = encoder_of(inference.network)
    if encoder is None:
        raise UsageError(f"model {inference.spec.name} has no guidance to change")
    picture = _partner if mode == "wrong" else _grey

    def enlarge_misguided(sample: Sample) -> AnyArray:
        described: list[Any] = []
        with _hook(encoder, lambda module, inputs, output: described.append(output)):
            enlarge(Sample("", sample.hr, picture(sample), sample.name))
        with _hook(encoder, lambda module, inputs, output: described[0]):
            return enlarge(sample)

    return enlarge_misguided


def encoder_of(network: nn.Module) -> nn.Module | None:
    """The submodule that describes the scene, if there is one."""
    encoder = getattr(network, "encoder", None)
    return encoder if isinstance(encoder, nn.Module) else None


def fitted(image: AnyArray, height: int, width: int) -> AnyArray:
    """(C, h, w) cut, or continued by its mirror image, to (C, height, width)."""
    short = [(0, 0), (0, max(0, height - image.shape[1])), (0, max(0, width - image.shape[2]))]
    return np.pad(image, short, mode="symmetric")[:, :height, :width]


def partner_of(index: int, labels: list[str]) -> int:
    """The image whose description stands in for another one's, the same one in every run.

    The first from half-way round the data set that is of another class; of a data set with one
    class, the one half-way round.

    Raises
    ------
    UsageError
        There is only one image.
    """
    count = len(labels)
    if count < 2:
        raise UsageError("guidance by another image needs a data set of at least two images")
    order = [(index + count // 2 + step) % count for step in range(count)]
    return next((i for i in order if labels[i] != labels[index]), order[0])


def _partner(sample: Sample) -> AnyArray:
    if sample.partner is None:
        raise ValueError("the sample has no partner: make it with partners")
    return sample.partner


def _grey(sample: Sample) -> AnyArray:
    return np.full_like(sample.lr, GREY)


@contextmanager
def _hook(module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()

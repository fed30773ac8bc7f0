"""Ensemble: one network, asked about a tile in all eight orientations of the square.

A network knows no up and down, so the eight answers, turned back, are eight predictions of the same
ground. Their mean is a little better than any of them ("geometric self-ensemble": Lim et al.,
"Enhanced deep residual networks for single image super-resolution", CVPRW 2017), and where they
disagree the network is guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]
"""One pass of a network: (N, C, h, w) in 0..1 -> (N, C, s * h, s * w) around 0..1, float32."""
Ask = Callable[[Forward, Tensor], Tensor]
"""How a network is asked: from it and (N, C, h, w) to (N, P, s * h, s * w)."""

MEMBERS = 8
"""Orientations of a square: four turns, each as it is and mirrored."""


def once(forward: Forward, x: Tensor) -> Tensor:
    """One pass of the network over the tile as it is."""
    return forward(x)


def predictions(forward: Forward, x: Tensor) -> Iterator[Tensor]:
    """The eight answers, each turned back to the tile as it is; the first is that of `once`."""
    for turns in range(4):
        turned = torch.rot90(x, turns, (2, 3))
        yield torch.rot90(forward(turned), -turns, (2, 3))
        yield torch.rot90(forward(turned.flip(3)).flip(3), -turns, (2, 3))


def mean_prediction(forward: Forward, x: Tensor) -> Tensor:
    """The mean of the eight answers, at eight times the cost."""
    answers = predictions(forward, x)
    total = next(answers).clone()
    for answer in answers:
        total += answer
    return total / MEMBERS


def way_of_asking(tta: bool) -> Ask:
    """What the option ``tta`` means."""
    return mean_prediction if tta else once


def passes(tta: bool) -> int:
    """Passes of the network for one tile."""
    return MEMBERS if tta else 1

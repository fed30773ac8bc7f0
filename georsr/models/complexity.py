"""Count the parameters and multiply-accumulates of a network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Complexity:
    """Parameters and multiply-accumulates of a network."""

    parameters: int
    """Number of learned values."""
    macs: int
    """Multiply-accumulates of convolutions and matrix products for one tile."""

    @property
    def gmacs(self) -> float:
        """Billions of multiply-accumulates."""
        return self.macs / 1e9


def complexity(network: nn.Module, bands: int, height: int, width: int | None = None) -> Complexity:
    """Count parameters and multiply-accumulates of one tile.

    Parameters
    ----------
    network
        Network on any device; it is not changed.
    bands
        Bands of the tile; 0 (any number) counts as one.
    height, width
        Size of the tile in input pixels; ``width`` None takes a square.

    Notes
    -----
    The network runs on meta tensors, so this takes milliseconds for any size. Element-wise
    operations, normalisation and interpolation are not counted.
    """
    state = {
        name: value.to("meta")
        for name, value in chain(network.named_parameters(), network.named_buffers())
    }
    tile = torch.empty(1, max(1, bands), height, width or height, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        functional_call(network, state, (tile,))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2)

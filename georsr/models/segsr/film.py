"""FiLM: one vector per image scales and shifts the inner features of every block.

Perez et al., *FiLM: Visual Reasoning with a General Conditioning Layer*, arXiv 1709.07871.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

Films = list[tuple[Tensor, Tensor]]
"""Scale and shift of each block's features, both (N, C, 1, 1): x -> x * (1 + scale) + shift."""


class FiLM(nn.Module):
    """A small MLP and one linear layer per block that gives its scale and shift.

    The last layers start at zero, so an untrained FiLM changes nothing.

    Parameters
    ----------
    in_dim
        Length of the vector.
    hidden_dim
        Width of the MLP.
    embed_dim
        C, channels of a block's inner features.
    num_blocks
        Blocks of the backbone.
    num_layers
        Layers of the MLP.
    gain
        Factor on the vector. The entries of a unit vector are small: 5 brings them to the size of
        other activations.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        embed_dim: int,
        num_blocks: int,
        *,
        num_layers: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.gain = gain
        sizes = [in_dim] + [hidden_dim] * num_layers
        self.mlp = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.films = nn.ModuleList(nn.Linear(hidden_dim, 2 * embed_dim) for _ in range(num_blocks))
        for parameter in self.films.parameters():
            nn.init.zeros_(parameter)

    def forward(self, vector: Tensor) -> Films:
        """(N, in_dim) -> scale and shift (N, C, 1, 1) of each block."""
        hidden = vector * self.gain
        for layer in self.mlp:
            hidden = F.relu(layer(hidden))
        pairs = [film(hidden)[:, :, None, None].chunk(2, dim=1) for film in self.films]
        return [(scale, shift) for scale, shift in pairs]


def add_films(first: Films, second: Films) -> Films:
    """Return the sums of two lists of scales and shifts; either may be empty."""
    if not first or not second:
        return first or second
    return [(a + c, b + d) for (a, b), (c, d) in zip(first, second, strict=True)]

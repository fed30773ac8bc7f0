"""A small scene encoder: what CLIP is to SeG-SR, at a thousandth of the cost.

It is pre-trained on scene classes with one learned vector per class standing where CLIP has the
embedding of a class's text (cosine similarity, temperature, cross-entropy: arXiv 2103.00020 with
the text tower replaced by a table), then trains on with the network it guides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.models.segsr.guidance import SteadyLinear

STRIDE = 4
"""LR pixels per token along each axis."""


class TokenMixer(nn.Module):
    """Depthwise 5x5 then pointwise, with a residual: context without many parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.channel = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return x + self.channel(F.relu(self.spatial(x)))


class SceneEncoder(nn.Module):
    """RGB tile -> local tokens and one global vector, both of width E and unit length.

    Parameters
    ----------
    bands
        Bands of the tile.
    width
        E, width of the tokens.
    trunk
        Channels inside.
    mixers
        Number of context layers on the token grid.
    """

    def __init__(self, bands: int, width: int, trunk: int = 48, mixers: int = 4) -> None:
        super().__init__()
        self.stem1 = nn.Conv2d(bands, trunk // 2, 3, stride=2, padding=1)
        self.stem2 = nn.Conv2d(trunk // 2, trunk, 3, stride=2, padding=1)
        self.mixers = nn.Sequential(*(TokenMixer(trunk) for _ in range(mixers)))
        self.local_head = nn.Conv2d(trunk, width, 1)
        self.scene_head = SteadyLinear(2 * trunk, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Describe a tile.

        Parameters
        ----------
        x
            (N, bands, h, w), zero-centred as the network feeds it.

        Returns
        -------
        tokens, scene
            (N, E, ceil(h / 4), ceil(w / 4)) and (N, E), L2-normalised over E.
        """
        x = F.relu(self.stem2(F.relu(self.stem1(x))))
        x = self.mixers(x)
        mean = x.mean((2, 3))
        # Mean and spread: a field and a town differ more in how much varies than in the mean.
        spread = (x - mean[:, :, None, None]).square().mean((2, 3)).add(1e-6).sqrt()
        scene = self.scene_head(torch.cat([mean, spread], dim=1))
        tokens = self.local_head(x)
        return F.normalize(tokens.float(), dim=1), F.normalize(scene.float(), dim=1)


class SceneClassifier(nn.Module):
    """Scene encoder plus one learned prompt per class: the pre-training task.

    Parameters
    ----------
    encoder
        The encoder to train.
    width
        E, the encoder's token width.
    classes
        Number of scene classes.
    """

    def __init__(self, encoder: SceneEncoder, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.class_prompts = nn.Parameter(torch.randn(classes, width))
        self.log_temperature = nn.Parameter(torch.tensor(2.3))

    def logits(self, scene: Tensor) -> Tensor:
        """Unit scene vectors (N, E) -> class logits (N, classes)."""
        return self.log_temperature.exp() * scene @ F.normalize(self.class_prompts, dim=1).T

    def forward(self, x: Tensor) -> Tensor:
        """(N, bands, h, w) -> class logits (N, classes)."""
        return self.logits(self.encoder(x)[1])

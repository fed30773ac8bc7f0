"""What a network makes of the sensor description: it estimates one, and is tuned by it.

A semantic description says what a scene shows; this one says how it was seen. A network that knows
both does not have to guess, tile by tile, whether it looks at noise or at texture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.radiometry.sensor import MAX_NORMALIZED, N_SENSOR_VALUES


class SensorEstimator(nn.Module):
    """Estimates the normalised sensor description from an image, and how sure it is.

    It is asked about a few parts of a scene, before the first tile, never about a tile.
    """

    def __init__(self, bands: int, width: int = 32) -> None:
        super().__init__()
        self.fine = nn.Conv2d(2 * bands, width, 3)
        self.middle = nn.Conv2d(width, width, 3, stride=2)
        self.coarse = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.hidden = nn.Linear(8 * width, 2 * width)
        self.head = nn.Linear(2 * width, 2 * N_SENSOR_VALUES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Describe images.

        Parameters
        ----------
        x
            (N, bands, h, w) in 0..1, float32, at least 16 x 16.

        Returns
        -------
        mean, variance
            Both (N, N_SENSOR_VALUES): of the posterior distribution of the normalised numbers.
        """
        detail = x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        # noise of one grey level and edges of a hundred, both of them visible
        x = torch.cat([(x - 0.5) * 2, torch.asinh(detail * 200)], 1)
        x = F.relu(self.fine(x))
        x = F.relu(self.middle(x))
        level, sizes = _level_and_spread(x)
        x = F.relu(self.coarse(x))
        more, larger = _level_and_spread(x)
        pooled = torch.cat([level, sizes, more, larger, x.amin((2, 3))], 1)
        mean, log_variance = self.head(F.relu(self.hidden(pooled))).chunk(2, 1)
        return mean.clamp(-MAX_NORMALIZED, MAX_NORMALIZED), log_variance.clamp(-6, 0).exp()


def _level_and_spread(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean((2, 3))
    return mean, (x - mean[:, :, None, None]).square().mean((2, 3)).add(1e-6).sqrt()


def likelihood_error(mean: Tensor, variance: Tensor, truth: Tensor) -> Tensor:
    """Return the mean negative log-density of a gaussian, without its constant.

    All arguments are (N, N_SENSOR_VALUES).
    """
    return 0.5 * ((truth - mean).square() / variance + variance.log()).mean()


def combined(mean: Tensor, variance: Tensor) -> Tensor:
    """One description out of several of one scene: (n, N_SENSOR_VALUES) -> (N_SENSOR_VALUES,).

    A mean, weighted by the information that each has gained over the standard normal prior. It
    stays as close to the prior as a single estimate: what misleads an estimate of a scene unlike
    those in training misleads all of them, so that many are no surer than one. Without any
    information the prior remains: zero.
    """
    gained = (1 / variance - 1).clamp(min=0)
    return (mean * gained).sum(0) / gained.sum(0).clamp(min=1e-6)

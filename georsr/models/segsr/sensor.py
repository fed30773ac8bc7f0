"""Estimate how an image was recorded: the sensor description of `georsr.radiometry.sensor`.

Semantic tokens describe the scene; the sensor description describes blur and noise. A network that
has both need not guess from one tile whether it contains noise or texture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.radiometry.sensor import MAX_NORMALIZED, N_SENSOR_VALUES


class SensorEstimator(nn.Module):
    """Estimates the normalised sensor description of an image, with its variance.

    It is applied to a few windows of a scene before the first tile, never to a tile.

    Parameters
    ----------
    bands
        Bands of the image.
    width
        Channels of the first layers.
    """

    def __init__(self, bands: int, width: int = 32) -> None:
        super().__init__()
        self.fine = nn.Conv2d(2 * bands, width, 3)
        self.middle = nn.Conv2d(width, width, 3, stride=2)
        self.coarse = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.hidden = nn.Linear(8 * width, 2 * width)
        self.head = nn.Linear(2 * width, 2 * N_SENSOR_VALUES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the sensor descriptions of images.

        Parameters
        ----------
        x
            (N, bands, h, w) in 0..1, float32, at least 16 x 16.

        Returns
        -------
        mean, variance
            Of the posterior distribution of the normalised values, both (N, N_SENSOR_VALUES).
        """
        detail = x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        # asinh keeps both noise of one grey level and edges of a hundred
        x = torch.cat([(x - 0.5) * 2, torch.asinh(detail * 200)], 1)
        x = F.relu(self.fine(x))
        x = F.relu(self.middle(x))
        mean1, std1 = _mean_and_std(x)
        x = F.relu(self.coarse(x))
        mean2, std2 = _mean_and_std(x)
        pooled = torch.cat([mean1, std1, mean2, std2, x.amin((2, 3))], 1)
        mean, log_variance = self.head(F.relu(self.hidden(pooled))).chunk(2, 1)
        return mean.clamp(-MAX_NORMALIZED, MAX_NORMALIZED), log_variance.clamp(-6, 0).exp()


def _mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of (N, C, h, w) over the pixels, both (N, C)."""
    mean = x.mean((2, 3))
    return mean, (x - mean[:, :, None, None]).square().mean((2, 3)).add(1e-6).sqrt()


def likelihood_error(mean: Tensor, variance: Tensor, truth: Tensor) -> Tensor:
    """Return the mean negative log-density of a gaussian, without its constant.

    All arguments are (N, N_SENSOR_VALUES).
    """
    return 0.5 * ((truth - mean).square() / variance + variance.log()).mean()


def combine_estimates(mean: Tensor, variance: Tensor) -> Tensor:
    """Combine the estimates of several windows of one scene into one description.

    The result is a mean, weighted by the information that each estimate has over the standard
    normal prior. It stays as close to the prior as a single estimate, because the errors of
    estimates of one scene are not independent. Without information it is zero, the prior.

    Parameters
    ----------
    mean, variance
        (n, N_SENSOR_VALUES), one row per window.

    Returns
    -------
    Tensor
        (N_SENSOR_VALUES,).
    """
    information = (1 / variance - 1).clamp(min=0)
    return (mean * information).sum(0) / information.sum(0).clamp(min=1e-6)

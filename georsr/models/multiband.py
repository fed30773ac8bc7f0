"""MultiBand: a network of three bands applied to a raster of any number of bands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from georsr.models.arrays import Array, box_mean, enlarge_bicubic, namespace, upsample_bilinear
from georsr.models.spec import ModelSpec

MODES = ("inject", "per-band", "bicubic")
WINDOW = 9
"""Height and width of the window in which a gain is measured (source pixels)."""
EPS_VARIANCE = 1e-4
"""Variance of detail, on the 0..1 scale, below which it is regarded as noise."""


@dataclass(frozen=True)
class MultiBand:
    """A rule for all bands of a raster, of which a network sees some (usually RGB).

    The mode ``bicubic`` enlarges another band by interpolation, ``per-band`` passes it through the
    network as a grey image. ``inject`` adds to its bicubic enlargement the detail that the network
    added to the mean of its own bands, times a local gain (`injection_gain`). This is the
    injection model of pansharpening with context-based gains (B. Aiazzi, L. Alparone, S. Baronti
    and A. Garzelli, "Context-driven fusion of high spatial and spectral resolution images based on
    oversampled multiresolution analysis", IEEE TGRS 40(10), 2002), with the super-resolved
    intensity in place of a panchromatic band.
    """

    spec: ModelSpec
    """Specification of the network."""
    network_bands: tuple[int, ...]
    """Positions of the network's bands, in its order; a position may occur several times."""
    mode: str
    """One of `MODES`."""

    def apply(self, network: Callable[[Array], Array], x: Array) -> Array:
        """Enlarge all bands.

        Parameters
        ----------
        network
            (N, len(network_bands), h, w) -> (N, len(network_bands), s * h, s * w), float32.
        x
            (N, B, h, w), a NumPy array or a tensor.

        Returns
        -------
        Array
            (N, B, s * h, s * w), same value range.
        """
        xp, scale = namespace(x), self.spec.scale
        enlarged = enlarge_bicubic(x, scale)
        bands = [enlarged[:, i] for i in range(x.shape[1])]
        network_input = x[:, list(self.network_bands)]
        sharp = network(network_input)
        others = [i for i in range(x.shape[1]) if i not in self.network_bands]
        if others and self.mode == "inject":
            bicubic = xp.stack([bands[i] for i in self.network_bands], 1)
            detail = (sharp - bicubic).mean(1)
            intensity = network_input.mean(1)[:, None]
            gains = upsample_bilinear(injection_gain(x[:, others], intensity), scale)
            for i, number in enumerate(others):
                bands[number] = bands[number] + gains[:, i] * detail
        elif self.mode == "per-band":
            for i in others:  # one by one: a convolution's last digit may depend on the batch
                bands[i] = network(x[:, [i] * len(self.network_bands)]).mean(1)
        for i in set(self.network_bands):
            channels = [k for k, position in enumerate(self.network_bands) if position == i]
            bands[i] = sharp[:, channels].mean(1)
        return xp.stack(bands, 1)


def injection_gain(bands: Array, intensity: Array) -> Array:
    """Return the gain with which detail of the intensity is added to each band.

    Detail is the difference of a source pixel from the mean of its 3 x 3 neighbourhood. The gain
    is the slope of the regression of a band's detail on the intensity's in a sliding window, times
    the square of their correlation. It is zero for a band without detail, or with other detail.

    Parameters
    ----------
    bands
        (N, B, h, w) float32 on the 0..1 scale.
    intensity
        (N, 1, h, w), mean of the network's bands.

    Returns
    -------
    Array
        (N, B, h, w).
    """
    x, y = intensity - box_mean(intensity, 3), bands - box_mean(bands, 3)
    covariance = box_mean(x * y, WINDOW)
    variance_x, variance_y = box_mean(x * x, WINDOW), box_mean(y * y, WINDOW)
    squared_correlation = covariance * covariance / (variance_x * variance_y + EPS_VARIANCE**2)
    return squared_correlation.clip(0, 1) * covariance / (variance_x + EPS_VARIANCE)

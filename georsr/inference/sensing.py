"""Estimate how a scene was recorded (sensor description), for networks that take it as input."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from georsr.config import SRConfig
from georsr.device import cpu_threads
from georsr.errors import UsageError
from georsr.inference.kernel_estimation import spread_windows
from georsr.models.io import Model
from georsr.models.multiband import MultiBand
from georsr.models.segsr.segsr import SegSR
from georsr.models.segsr.sensor import combine_estimates
from georsr.radiometry.normalization import Normalization
from georsr.radiometry.sensor import SensorDescription, parse_sensor
from georsr.window import PixelBlock, Window

TRUST, CAUTION = 0.7, 0.4
"""What is told of an estimated MTF, of its difference from the usual, and by how many standard
deviations the noise is raised. Scenes differ from all that an estimator has seen, and to take soft
for blurred, or texture for detail, does harm: at x4 this is worth 0.04 dB on
degradations unlike those in training, real pairs are as good, and a fifth to a third less of the
noise passes on flat ground."""
MIN_SIZE = 16
"""Height and width below which a probe tells nothing."""


def listener(network: nn.Module) -> SegSR | None:
    """Return the part of a network that takes a sensor description; None if it takes none."""
    inner = network.network if isinstance(network, MultiBand) else network
    return inner if isinstance(inner, SegSR) and inner.uses_sensor else None


def estimate_sensor(
    patches: Sequence[PixelBlock], stretch: Normalization, model: Model
) -> tuple[float, ...] | None:
    """Estimate the normalised sensor description of a scene, conservatively.

    Parameters
    ----------
    patches
        Of `spread_windows`, with the model's bands; those whose pixels are all valid count.
    stretch
        Of the scene.
    model
        It is asked on the CPU in float32, wherever it runs later, so that the answer does not
        depend on that.

    Returns
    -------
    tuple of float or None
        All zeros where nothing can be estimated; None for a model that need not be told.
    """
    network = listener(model.network)
    if network is None or network.sensor_estimator is None:
        return None
    guide = list(model.network.guide) if isinstance(model.network, MultiBand) else slice(None)
    means, variances = [], []
    with cpu_threads(1), torch.inference_mode():
        for patch in patches:
            whole = bool(patch.valid[guide].all()) and min(patch.values.shape[1:]) >= MIN_SIZE
            if not whole:
                continue
            seen, _ = stretch.clip_with_remainder(stretch.forward(patch.values)[guide])
            mean, variance = network.sensor_estimator(
                torch.from_numpy(np.ascontiguousarray(seen))[None]
            )
            means.append(mean)
            variances.append(variance)
    if not means:
        return (0.0,) * network.sensor.shape[1]
    both = combine_estimates(torch.cat(means), torch.cat(variances))
    both = both * both.new_tensor([TRUST, TRUST, 1, 1]) + both.new_tensor([0, 0, CAUTION, 0])
    # few digits, so that a description that is written down and given again is the same
    return tuple(round(float(x), 3) for x in both)


def told(model: Model, sensor: Sequence[float] | None) -> Model:
    """Return the model with a sensor description set; weights are shared."""
    network = listener(model.network)
    if network is None or sensor is None:
        return model
    twin = copy.copy(network)
    twin._buffers = {**network._buffers, "sensor": network.sensor.new_tensor([list(sensor)])}
    if isinstance(model.network, MultiBand):
        outer = copy.copy(model.network)
        outer._modules = {**model.network._modules, "network": twin}
        return replace(model, network=outer)
    return replace(model, network=twin)


def sensor_of(model: Model) -> tuple[float, ...] | None:
    """Return the normalised sensor description of a model; None if it has none."""
    network = listener(model.network)
    return None if network is None else tuple(round(x, 3) for x in network.sensor[0].tolist())


def scene_sensor(
    patches: Sequence[PixelBlock], stretch: Normalization, model: Model, config: SRConfig
) -> tuple[float, ...] | None:
    """Return the sensor description of a scene: as estimated, unless the options give it.

    Raises
    ------
    UsageError
        The options say something to a model that is not told.
    """
    estimated = estimate_sensor(patches, stretch, model)
    if config.sensor is None:
        return estimated
    if estimated is None:
        raise UsageError(
            f"model {model.spec.name} is not told how a scene was recorded; leave --sensor away"
        )
    description = SensorDescription.from_normalized(estimated)
    given = replace(description, **parse_sensor(config.sensor)).normalize()
    return tuple(round(x, 3) for x in given)


def told_of_scene(
    read: Callable[[Window], PixelBlock],
    height: int,
    width: int,
    stretch: Normalization,
    model: Model,
    config: SRConfig,
) -> Model:
    """Return the model with the sensor description of a scene; see `scene_sensor`.

    Parameters
    ----------
    read
        Gives the pixels of a window of the scene.
    height, width, stretch, model, config
        Of the scene, what is run on it and how.
    """
    if listener(model.network) is None and config.sensor is None:
        return model
    patches = [read(window) for window in spread_windows(height, width)]
    return told(model, scene_sensor(patches, stretch, model, config))


def description_of(model: Model) -> SensorDescription | None:
    """Return the sensor description of a model; None if it has none."""
    sensor = sensor_of(model)
    return None if sensor is None else SensorDescription.from_normalized(sensor)

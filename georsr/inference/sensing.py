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

MTF_SHRINKAGE, NOISE_MARGIN = 0.7, 0.4
"""Factor on the difference of an estimated MTF from the usual one, and number of standard
deviations by which the estimated noise is raised. Real scenes differ from those the estimator was
trained on, and mistaking a soft scene for a blurred one, or texture for detail, does harm. At x4
these values gain 0.04 dB on degradations unlike those in training, real pairs are as good, and a
fifth to a third less of the noise remains on flat ground."""
MIN_SIZE = 16
"""Smallest height and width of a patch from which the sensor is estimated."""


def sensor_network(network: nn.Module) -> SegSR | None:
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
        Pixels of `spread_windows`, with the model's bands; those with invalid pixels are skipped.
    stretch
        Normalization of the scene.
    model
        Model whose network estimates. It always runs on the CPU in float32, so that the estimate
        does not depend on the device of the run.

    Returns
    -------
    tuple of float or None
        All zeros if nothing can be estimated; None if the model takes no sensor description.
    """
    network = sensor_network(model.network)
    if network is None or network.sensor_estimator is None:
        return None
    guide = list(model.network.guide) if isinstance(model.network, MultiBand) else slice(None)
    means, variances = [], []
    with cpu_threads(1), torch.inference_mode():
        for patch in patches:
            large_enough = min(patch.values.shape[1:]) >= MIN_SIZE
            if not (large_enough and bool(patch.valid[guide].all())):
                continue
            normalized, _ = stretch.clip_with_remainder(stretch.forward(patch.values)[guide])
            mean, variance = network.sensor_estimator(
                torch.from_numpy(np.ascontiguousarray(normalized))[None]
            )
            means.append(mean)
            variances.append(variance)
    if not means:
        return (0.0,) * network.sensor.shape[1]
    combined = combine_estimates(torch.cat(means), torch.cat(variances))
    factors = combined.new_tensor([MTF_SHRINKAGE, MTF_SHRINKAGE, 1, 1])
    combined = combined * factors + combined.new_tensor([0, 0, NOISE_MARGIN, 0])
    # rounded, so that a description read from a report and passed as an option is the same
    return tuple(round(float(x), 3) for x in combined)


def with_sensor(model: Model, sensor: Sequence[float] | None) -> Model:
    """Return the model with a sensor description set; weights are shared."""
    network = sensor_network(model.network)
    if network is None or sensor is None:
        return model
    copied = copy.copy(network)
    copied._buffers = {**network._buffers, "sensor": network.sensor.new_tensor([list(sensor)])}
    if isinstance(model.network, MultiBand):
        outer = copy.copy(model.network)
        outer._modules = {**model.network._modules, "network": copied}
        return replace(model, network=outer)
    return replace(model, network=copied)


def sensor_of(model: Model) -> tuple[float, ...] | None:
    """Return the normalised sensor description of a model; None if it has none."""
    network = sensor_network(model.network)
    return None if network is None else tuple(round(x, 3) for x in network.sensor[0].tolist())


def scene_sensor(
    patches: Sequence[PixelBlock], stretch: Normalization, model: Model, config: SRConfig
) -> tuple[float, ...] | None:
    """Return the sensor description of a scene: the estimate, with the values of the options.

    Raises
    ------
    UsageError
        The options describe a sensor, but the model takes no sensor description.
    """
    estimated = estimate_sensor(patches, stretch, model)
    if config.sensor is None:
        return estimated
    if estimated is None:
        raise UsageError(f"model {model.spec.name} takes no sensor description; omit --sensor")
    description = SensorDescription.from_normalized(estimated)
    given = replace(description, **parse_sensor(config.sensor)).normalize()
    return tuple(round(x, 3) for x in given)


def with_scene_sensor(
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
        Returns the pixels of a window of the scene.
    height, width, stretch
        Size in source pixels and normalization of the scene.
    model, config
        Model and options of the run.
    """
    if sensor_network(model.network) is None and config.sensor is None:
        return model
    patches = [read(window) for window in spread_windows(height, width)]
    return with_sensor(model, scene_sensor(patches, stretch, model, config))


def description_of(model: Model) -> SensorDescription | None:
    """Return the sensor description of a model; None if it has none."""
    sensor = sensor_of(model)
    return None if sensor is None else SensorDescription.from_normalized(sensor)

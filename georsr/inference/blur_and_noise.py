"""Estimate how a scene was recorded: its kernel (point spread function), contrast and noise.

A network trained on images of all sharpnesses sharpens as much as an image needs. Its output,
downsampled with the kernel of the sensor, comes closest to the image. So the kernel with the
smallest residual is the estimate. If the residual is mostly noise, consistency is not worthwhile.
The sensor description is for networks that take it as input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from georsr.config import SRConfig
from georsr.device import DeviceConfig, cpu_threads, import_torch
from georsr.errors import UsageError
from georsr.inference.consistency import (
    downsample,
    fixed_kernel,
    requested_kernel,
    skip_if_noisy,
    softened,
)
from georsr.inference.pipeline import OrderedThreadPool
from georsr.inference.predictor import TilePredictor
from georsr.models.arrays import Array
from georsr.models.io import Model
from georsr.radiometry.kernels import (
    N_SENSOR_VALUES,
    Kernel,
    SensorDescription,
    combine_estimates,
    parse_sensor,
)
from georsr.radiometry.normalization import Normalization
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window

BLOCK = 8
"""Height and width of a block, in source pixels."""
FLAT_FRACTION = 0.1
"""Fraction of the blocks that count as flat: those with the smallest variation."""
MIN_NOISE = 2.5 / 255
"""Standard deviation below which noise is harmless, in 0..1 as the network sees it."""
MIN_FLAT_SHARE = 0.7
"""Smallest mean square of the residual on flat ground, as a fraction of that of the scene, of a
residual that is noise. Noise is the same everywhere: 0.72 or more in 52 noisy images, 0.42 to
0.70 in 9 crops of a clean Sentinel-2 scene that seemed noisy."""
MIN_VARIATION = 1e-4
"""Standard deviation below which a block is constant: saturated or filled, without noise."""


@dataclass(frozen=True)
class Residual:
    """Differences between a part of a scene and the network's downsampled output, (C, h, w)."""

    source: FloatArray
    """Source pixels in 0..1, as the network sees them."""
    residual: FloatArray
    """Source minus downsampled output."""
    counted: BoolArray
    """True for pixels that are valid and not too close to the border."""


def split_blocks(image: AnyArray, size: int) -> AnyArray:
    """Split (H, W) into full blocks: (H // size, W // size, size * size)."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return np.asarray(cut.swapaxes(1, 2).reshape(rows, columns, size * size))


def detrend_blocks(image: AnyArray, size: int) -> AnyArray:
    """Return blocks as `split_blocks` does, float64, each minus its best-fitting plane."""
    y, x = np.divmod(np.arange(size * size), size)
    plane, _ = np.linalg.qr(np.stack([np.ones(size * size), y, x], axis=1).astype(np.float64))
    blocks = split_blocks(image.astype(np.float64), size)
    parts = np.einsum("rcp,pk->rck", blocks, plane)  # without BLAS, whose threads change sums
    return np.asarray(blocks - np.einsum("rck,pk->rcp", parts, plane))


def is_noise_dominated(parts: Sequence[Residual]) -> bool:
    """Return whether consistency would restore more noise than detail.

    The source is truth plus noise, x = t + n, and its residual is r = x - D y. The error of the
    downsampled output D y is n - r, that of the source is n. The output is better if
    E[(n - r)^2] < E[n^2], that is E[r^2] < 2 E[n r]. On flat ground only n varies in x, so that
    E[n r] is the covariance of x and r there. Fine texture can look like that in a small or dark
    scene without flat ground, but then the residual is larger elsewhere.

    Parameters
    ----------
    parts
        Residuals of one scene with uniform noise.
    """
    residuals = [part.residual[part.counted] for part in parts]
    if not sum(values.size for values in residuals):
        return False
    mean_square = float(np.square(np.concatenate(residuals), dtype=np.float64).mean())
    bands = [_flat_moments(parts, band) for band in range(parts[0].source.shape[0])]
    noise, flat_square = np.mean(bands, axis=0)
    is_even = flat_square >= MIN_FLAT_SHARE * mean_square
    return bool(noise > MIN_NOISE**2 and mean_square < 2 * noise and is_even)


def _flat_moments(parts: Sequence[Residual], band: int) -> tuple[float, float]:
    """Return the covariance of a band and its residual, and the latter's mean square.

    Both are those of the flattest blocks.
    """
    variances, covariances, squares = [], [], []
    for part in parts:
        full = split_blocks(part.counted[band], BLOCK).all(-1)
        source, residual = (
            detrend_blocks(values[band], BLOCK)[full] for values in (part.source, part.residual)
        )
        variances.append(np.square(source).mean(-1))
        covariances.append((source * residual).sum(-1) / (BLOCK * BLOCK - 3))
        squares.append(np.square(split_blocks(part.residual[band], BLOCK)[full]).mean(-1))
    variance, covariance, square = map(np.concatenate, (variances, covariances, squares))
    varying = variance > MIN_VARIATION**2
    if not varying.any():
        return 0.0, 0.0
    flat = varying & (variance <= np.quantile(variance[varying], FLAT_FRACTION))
    return float(covariance[flat].mean()), float(square[flat].mean())


CANDIDATES = (
    Kernel("bicubic"),
    *(Kernel("psf", mtf) for mtf in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)),
    *(Kernel("psf", mtf, sharpen) for mtf in (0.2, 0.3, 0.4, 0.5) for sharpen in (0.4, 0.8, 1.2)),
)
"""Kernels of downsampled images, of optics, and of optics followed by sharpening."""
SHARPENED_KERNEL_MARGIN = 0.6
"""Factor by which the residual of a sharpened kernel must be smaller than that of any other: it has
two parameters to fit a scene with instead of one."""
PROBE_SIZE = 64
"""Height and width of a probe, a window on which kernels are compared, in source pixels."""
MAX_PROBES = 5
"""Largest number of probes."""
PROBE_MARGIN = 6
"""Width of the border of a probe that is not counted, because network and kernel lack pixels
beyond it."""


def probe_windows(height: int, width: int, size: int = PROBE_SIZE) -> list[Window]:
    """Return windows spread over a scene, those in its middle first."""
    h, w = min(size, height), min(size, width)
    tops, lefts = height - h, width - w
    positions = [(0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.25, 0.75), (0.75, 0.25)]
    positions += [(0.5, 0.0), (0.5, 1.0), (0.0, 0.5), (1.0, 0.5)]
    windows = [Window(round(tops * y), round(lefts * x), h, w) for y, x in positions]
    chosen: list[Window] = []
    for window in windows:
        apart = all(
            max(abs(window.top - other.top) / h, abs(window.left - other.left) / w) >= 0.5
            for other in chosen
        )
        if apart:
            chosen.append(window)
    return chosen


def estimate_kernel(
    patches: Sequence[PixelBlock],
    normalization: Normalization,
    model: Model,
    *,
    unless_noise: bool = False,
    backend: str = "torch",
) -> Kernel | None:
    """Return the candidate kernel that leaves the smallest residual in a scene.

    Parameters
    ----------
    patches
        Pixels of `probe_windows`, with the model's bands; mostly invalid ones are skipped.
    normalization
        Normalization of the scene.
    model
        Model trained on several kernels. It always runs on the CPU in float32, so that the
        estimate does not depend on the device of the run.
    unless_noise
        Return None if the residual is mostly noise.
    backend
        Backend of the run.
    """
    positions: slice | list[int] = slice(None)
    if model.multiband is not None:
        positions = list(model.multiband.network_bands)
        model = replace(model, spec=model.multiband.spec, multiband=None)
    inference = TilePredictor(model, DeviceConfig("cpu", "fp32", backend), 1)

    def residuals_of(patch: PixelBlock) -> list[Residual]:
        usable = normalization.usable(patch.values, patch.valid)
        filled = normalization.forward_filled(patch.values, usable)
        normalized, _ = normalization.clip_with_remainder(filled[positions])
        output: Array = inference([normalized], ["a probe"])[0][None]
        if backend == "torch":
            output = import_torch().from_numpy(output)
        counted = np.array(patch.valid[positions])
        if min(counted.shape[1:]) > 4 * PROBE_MARGIN:
            counted[:, :PROBE_MARGIN] = counted[:, -PROBE_MARGIN:] = False
            counted[:, :, :PROBE_MARGIN] = counted[:, :, -PROBE_MARGIN:] = False
        downsampled = (downsample(output, kernel, model.spec.scale) for kernel in CANDIDATES)
        lows = (np.asarray(low[0]) for low in downsampled)
        return [Residual(normalized, normalized - low, counted) for low in lows]

    usable = [patch for patch in patches if patch.valid.mean() > 0.5][:MAX_PROBES]
    lanes = inference.lanes(len(usable))
    # threads started later inherit the thread count of a lane, unless it is restored
    with cpu_threads(None), OrderedThreadPool(lanes.count, lanes.enter) as pool:
        results = [pool.submit(partial(residuals_of, patch)) for patch in usable]
        probes = [result() for result in results]
    by_kernel = [[probe[i] for probe in probes] for i in range(len(CANDIDATES))]
    sizes = [
        _size(parts) * (1 if kernel.sharpen else SHARPENED_KERNEL_MARGIN)
        for kernel, parts in zip(CANDIDATES, by_kernel, strict=True)
    ]
    best = int(np.argmin(sizes))
    return None if unless_noise and is_noise_dominated(by_kernel[best]) else CANDIDATES[best]


def _size(parts: Sequence[Residual]) -> float:
    """Return the sum of the absolute residuals."""
    sums = (np.abs(part.residual[part.counted]).sum(dtype=np.float64) for part in parts)
    return float(sum(sums))


def resolve_kernel(
    read: Callable[[Window], PixelBlock],
    height: int,
    width: int,
    normalization: Normalization,
    model: Model,
    config: SRConfig,
    placement: DeviceConfig,
) -> Kernel | None:
    """Return the kernel that an output must be consistent with; None for no consistency.

    Parameters
    ----------
    read
        Returns the pixels of a window of the scene.
    height, width, normalization
        Size in source pixels and normalization of the scene.
    model, config, placement
        Model and options of the run, and its backend; the network runs on the CPU.
    """
    requested = requested_kernel(model.spec, config)
    known = fixed_kernel(requested)
    if known is not None or requested is None:
        return softened(known, model.spec, config)
    fitted = estimate_kernel(
        [read(window) for window in probe_windows(height, width)],
        normalization,
        model,
        unless_noise=skip_if_noisy(config),
        backend=placement.backend,
    )
    return softened(fitted, model.spec, config)


BLUR_SHRINKAGE, SHARPNESS_SHRINKAGE, NOISE_MARGIN = 0.4, 0.7, 0.4
"""Factor on an estimated MTF below the usual one, factor on one above, and number of standard
deviations by which the estimated noise is raised. Real scenes differ from those the estimator was
trained on: it takes soft ground and lossy compression for blur, and a network that is told of blur
sharpens noise and compression errors. See docs/development/measurements.md."""
MIN_SIZE = 16
"""Smallest height and width of a patch from which the sensor is estimated."""


def estimate_sensor(
    patches: Sequence[PixelBlock],
    normalization: Normalization,
    model: Model,
    backend: str = "torch",
) -> tuple[float, ...] | None:
    """Estimate the normalised sensor description of a scene, conservatively.

    Parameters
    ----------
    patches
        Pixels of `probe_windows`, with the model's bands; those with invalid pixels are skipped.
    normalization
        Normalization of the scene.
    model
        Model whose network estimates. It always runs on the CPU in float32, so that the estimate
        does not depend on the device of the run.
    backend
        Backend of the run.

    Returns
    -------
    tuple of float or None
        All zeros if nothing can be estimated; None if the model takes no sensor description.
    """
    estimate = _sensor_estimator(model, backend)
    if estimate is None:
        return None
    positions = slice(None) if model.multiband is None else list(model.multiband.network_bands)
    estimates = []
    with cpu_threads(1):
        for patch in patches:
            large_enough = min(patch.values.shape[1:]) >= MIN_SIZE
            if not (large_enough and bool(patch.valid[positions].all())):
                continue
            normalized, _ = normalization.clip_with_remainder(
                normalization.forward(patch.values)[positions]
            )
            estimates.append(estimate(np.ascontiguousarray(normalized)[None]))
    if not estimates:
        return (0.0,) * N_SENSOR_VALUES
    means, variances = (np.concatenate(values) for values in zip(*estimates, strict=True))
    combined = combine_estimates(means, variances)
    combined[:2] *= np.where(combined[:2] < 0, BLUR_SHRINKAGE, SHARPNESS_SHRINKAGE)
    combined[2] += NOISE_MARGIN
    # rounded, so that a description read from a report and passed as an option is the same
    return tuple(round(float(x), 3) for x in combined)


def _sensor_estimator(
    model: Model, backend: str
) -> Callable[[FloatArray], tuple[FloatArray, FloatArray]] | None:
    """Return a function (1, C, h, w) -> mean and variance; None if the model has none."""
    if not model.spec_of_network.uses_sensor:
        return None
    if backend == "onnx":
        return getattr(model.array_network(), "sensor_estimator", None)
    network: Any = model.network
    estimator = getattr(network, "sensor_estimator", None)
    if estimator is None:
        return None
    torch = import_torch()

    def estimate(pixels: FloatArray) -> tuple[FloatArray, FloatArray]:
        with torch.inference_mode():
            mean, variance = estimator(torch.from_numpy(pixels))
        return mean.numpy(), variance.numpy()

    return estimate


def with_sensor(model: Model, sensor: Sequence[float] | None) -> Model:
    """Return the model with a sensor description set; weights are shared."""
    if sensor is None or not model.spec_of_network.uses_sensor:
        return model
    return replace(model, sensor=tuple(sensor))


def sensor_of(model: Model) -> tuple[float, ...] | None:
    """Return the normalised sensor description of a model; None if it takes none."""
    if not model.spec_of_network.uses_sensor:
        return None
    return tuple(round(x, 3) for x in model.sensor or (0.0,) * N_SENSOR_VALUES)


def scene_sensor(
    patches: Sequence[PixelBlock],
    normalization: Normalization,
    model: Model,
    config: SRConfig,
    backend: str = "torch",
) -> tuple[float, ...] | None:
    """Return the sensor description of a scene: the estimate, with the values of the options.

    Raises
    ------
    UsageError
        The options describe a sensor, but the model takes no sensor description.
    """
    estimated = estimate_sensor(patches, normalization, model, backend)
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
    normalization: Normalization,
    model: Model,
    config: SRConfig,
    placement: DeviceConfig,
) -> Model:
    """Return the model with the sensor description of a scene; see `scene_sensor`.

    Parameters are those of `resolve_kernel`.
    """
    if not model.spec_of_network.uses_sensor and config.sensor is None:
        return model
    patches = [read(window) for window in probe_windows(height, width)]
    return with_sensor(
        model, scene_sensor(patches, normalization, model, config, placement.backend)
    )


def description_of(model: Model) -> SensorDescription | None:
    """Return the sensor description of a model; None if it has none."""
    sensor = sensor_of(model)
    return None if sensor is None else SensorDescription.from_normalized(sensor)

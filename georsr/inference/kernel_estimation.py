"""Estimate the kernel (point spread function) of a scene.

A network trained on images of all sharpnesses sharpens as much as an image needs. Shrunk again by
the kernel that the image was really made by, its output comes closest to the image; so the kernel
that leaves the least unexplained is the scene's.

Grain: the noise of a scene, and whether it is what a network leaves unexplained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from georsr.config import SRConfig
from georsr.device import cpu_threads, select_device
from georsr.inference.consistency import (
    downsample,
    fixed_kernel,
    requested_kernel,
    skip_if_noisy,
    softened,
)
from georsr.inference.predictor import TilePredictor
from georsr.inference.threads import OrderedThreadPool
from georsr.models.io import Model
from georsr.models.multiband import MultiBand
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.nodata import fill_invalid
from georsr.radiometry.normalization import Normalization
from georsr.window import AnyArray, BoolArray, FloatArray, PixelBlock, Window

BLOCK = 8
"""Height and width of a block, in source pixels."""
FLAT_FRACTION = 0.1
"""Share of the blocks that counts as flat: those with the smallest residual."""
MIN_NOISE = 2.5 / 255
"""Noise below this, of the range that a network sees, does no harm."""
MIN_VARIATION = 1e-4
"""Variation below this is none: saturated or filled, which tells nothing of noise."""


@dataclass(frozen=True)
class Residual:
    """Differences between a part of a scene and the network's downsampled output, (C, h, w).

    Attributes
    ----------
    source : float32
        On the scale of the network.
    residual : float32
        The source less the shrunk output.
    counted : bool
        Where either is worth something.
    """

    source: FloatArray
    residual: FloatArray
    counted: BoolArray


def split_blocks(image: AnyArray, size: int) -> AnyArray:
    """Split (H, W) into full blocks: (H // size, W // size, size * size)."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return np.asarray(cut.swapaxes(1, 2).reshape(rows, columns, size * size))


def detrend_blocks(image: AnyArray, size: int) -> AnyArray:
    """Return blocks as `split_blocks` does, float64, each less its best-fitting plane."""
    y, x = np.divmod(np.arange(size * size), size)
    plane, _ = np.linalg.qr(np.stack([np.ones(size * size), y, x], axis=1).astype(np.float64))
    blocks = split_blocks(image.astype(np.float64), size)
    return np.asarray(blocks - (blocks @ plane) @ plane.T)


def is_noise_dominated(parts: Sequence[Residual]) -> bool:
    """Return whether consistency would restore more noise than detail.

    A source is the truth and noise, x = t + n, and what is left of it r = x - D y. The shrunk
    output D y errs by n - r, the source by n; the output is the better one where
    E[(n - r)^2] < E[n^2], that is E[r^2] < 2 E[n r]. On flat ground x varies by n alone, so that
    E[n r] is the covariance of x and r there.

    Parameters
    ----------
    parts
        Of one scene, whose noise is the same everywhere.
    """
    power = [part.residual[part.counted] for part in parts]
    if not sum(values.size for values in power):
        return False
    unexplained = float(np.square(np.concatenate(power), dtype=np.float64).mean())
    bands = [_shared_on_flat_ground(parts, band) for band in range(parts[0].source.shape[0])]
    shared = float(np.mean(bands))
    return shared > MIN_NOISE**2 and unexplained < 2 * shared


def _shared_on_flat_ground(parts: Sequence[Residual], band: int) -> float:
    """Return the covariance of a band and its residual in the flattest blocks."""
    spreads, shares = [], []
    for part in parts:
        whole = split_blocks(part.counted[band], BLOCK).all(-1)
        source, residual = (
            detrend_blocks(values[band], BLOCK)[whole] for values in (part.source, part.residual)
        )
        spreads.append(np.square(source).mean(-1))
        shares.append((source * residual).sum(-1) / (BLOCK * BLOCK - 3))
    spread, share = np.concatenate(spreads), np.concatenate(shares)
    some = spread > MIN_VARIATION**2
    if not some.any():
        return 0.0
    return float(share[some & (spread <= np.quantile(spread[some], FLAT_FRACTION))].mean())


CANDIDATES = (
    Kernel("bicubic"),
    *(Kernel("psf", mtf) for mtf in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)),
    *(Kernel("psf", mtf, sharpen) for mtf in (0.2, 0.3, 0.4, 0.5) for sharpen in (0.4, 0.8, 1.2)),
)
"""From what was shrunk to what optics blurred, and what archives then sharpened."""
SHARPENED_KERNEL_MARGIN = 0.6
"""A sharpened kernel, which has two numbers to fit a scene with, counts only where it leaves less
than this part of what any other leaves."""
PROBE_SIZE = 64
"""Height and width of a probe."""
PROBES = 5
"""Most probes that the network is asked about."""
PROBE_MARGIN = 6
"""Pixels at a probe's edge that do not count: neither network nor kernel sees all there."""


def spread_windows(height: int, width: int, side: int = PROBE_SIZE) -> list[Window]:
    """Yield windows of a scene to be examined, those in its middle first."""
    h, w = min(side, height), min(side, width)
    tops, lefts = height - h, width - w
    places = [(0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.25, 0.75), (0.75, 0.25)]
    places += [(0.5, 0.0), (0.5, 1.0), (0.0, 0.5), (1.0, 0.5)]
    windows = [Window(round(tops * y), round(lefts * x), h, w) for y, x in places]
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
    stretch: Normalization,
    model: Model,
    *,
    unless_noise: bool = False,
) -> Kernel | None:
    """Return the candidate kernel that leaves the smallest residual in a scene.

    Parameters
    ----------
    patches
        Of `spread_windows`, with the model's bands; those that are mostly valid count.
    stretch
        Of the scene.
    model
        One that knows several kernels. It is asked on the CPU in float32, wherever it runs later,
        so that the answer does not depend on that.
    unless_noise
        None where what is left unexplained is mostly noise.
    """
    network = model.network
    guide: slice | list[int] = slice(None)
    if isinstance(network, MultiBand):
        model = replace(model, spec=network.spec, network=network.network)
        guide = list(network.guide)
    inference = TilePredictor(model, select_device("cpu", "fp32"), 1)

    def ask(patch: PixelBlock) -> list[Residual]:
        filled = fill_invalid(patch.values.astype(np.float32), patch.valid)
        seen, _ = stretch.clip_with_remainder(stretch.forward(filled)[guide])
        output = torch.from_numpy(inference([seen], ["a probe"])[0])[None]
        counted = np.array(patch.valid[guide])
        if min(counted.shape[1:]) > 4 * PROBE_MARGIN:
            counted[:, :PROBE_MARGIN] = counted[:, -PROBE_MARGIN:] = False
            counted[:, :, :PROBE_MARGIN] = counted[:, :, -PROBE_MARGIN:] = False
        return [
            Residual(seen, seen - downsample(output, kernel, model.spec.scale)[0].numpy(), counted)
            for kernel in CANDIDATES
        ]

    usable = [patch for patch in patches if patch.valid.mean() > 0.5][:PROBES]
    lanes = inference.lanes(len(usable))
    # threads that others start later take over what a lane was given, unless it is restored
    with cpu_threads(None), OrderedThreadPool(lanes.count, lanes.enter) as side:
        answers = [side.submit(partial(ask, patch)) for patch in usable]
        probes = [answer() for answer in answers]
    found = [[probe[i] for probe in probes] for i in range(len(CANDIDATES))]
    left = [
        _size(parts) * (1 if kernel.sharpen else SHARPENED_KERNEL_MARGIN)
        for kernel, parts in zip(CANDIDATES, found, strict=True)
    ]
    best = int(np.argmin(left))
    return None if unless_noise and is_noise_dominated(found[best]) else CANDIDATES[best]


def _size(parts: Sequence[Residual]) -> float:
    left = (np.abs(part.residual[part.counted]).sum(dtype=np.float64) for part in parts)
    return float(sum(left))


def resolve_kernel(
    read: Callable[[Window], PixelBlock],
    height: int,
    width: int,
    stretch: Normalization,
    model: Model,
    config: SRConfig,
) -> Kernel | None:
    """Return the kernel an output has to be consistent with; None for no consistency.

    Parameters
    ----------
    read
        Gives the pixels of a window of the scene.
    height, width, stretch
        Of the scene.
    model, config
        What is run, and how.
    """
    asked = requested_kernel(model.spec, config)
    known = fixed_kernel(asked)
    if known is not None or asked is None:
        return softened(known, model.spec, config)
    fitted = estimate_kernel(
        [read(window) for window in spread_windows(height, width)],
        stretch,
        model,
        unless_noise=skip_if_noisy(config),
    )
    return softened(fitted, model.spec, config)

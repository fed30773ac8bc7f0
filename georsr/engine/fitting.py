"""Fitting: which kernel a scene was made by, as far as a network that knows several can tell.

A network trained on images of all sharpnesses sharpens as much as an image needs. Shrunk again by
the kernel that the image was really made by, its output comes closest to the image; so the kernel
that leaves the least unexplained is the scene's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from georsr.config import SRConfig
from georsr.device import cpu_threads, place
from georsr.engine.consistency import asked_kernel, known_kernel, softened, yields_to_noise
from georsr.engine.grain import Unexplained, noise_dominates
from georsr.engine.inference import Inference
from georsr.engine.pipeline import SideBySide
from georsr.kernels import Kernel
from georsr.models.load import Model
from georsr.models.multiband import MultiBand
from georsr.models.projection import shrunk
from georsr.raster.fill import fill_invalid
from georsr.raster.reader import Patch
from georsr.raster.stretch import Stretch
from georsr.types import Window

CANDIDATES = (
    Kernel("bicubic"),
    *(Kernel("psf", mtf) for mtf in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)),
    *(Kernel("psf", mtf, sharpen) for mtf in (0.2, 0.3, 0.4, 0.5) for sharpen in (0.4, 0.8, 1.2)),
)
"""From what was shrunk to what optics blurred, and what archives then sharpened."""
CLEARLY = 0.6
"""A sharpened kernel, which has two numbers to fit a scene with, counts only where it leaves less
than this part of what any other leaves."""
SIDE = 64
"""Height and width of a probe."""
PROBES = 5
"""Most probes that the network is asked about."""
REACH = 6
"""Pixels at a probe's edge that do not count: neither network nor kernel sees all there."""


def probe_windows(height: int, width: int, side: int = SIDE) -> list[Window]:
    """Windows of a scene that may be probed, those in its middle first."""
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


def fit_kernel(
    patches: Sequence[Patch], stretch: Stretch, model: Model, *, unless_noise: bool = False
) -> Kernel | None:
    """The candidate that leaves least of a scene unexplained.

    Parameters
    ----------
    patches
        Of `probe_windows`, with the model's bands; those that are mostly valid count.
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
    inference = Inference(model, place("cpu", "fp32"), 1)

    def ask(patch: Patch) -> list[Unexplained]:
        filled = fill_invalid(patch.values.astype(np.float32), patch.valid)
        seen, _ = stretch.split(stretch.forward(filled)[guide])
        output = torch.from_numpy(inference([seen], ["a probe"])[0])[None]
        counted = np.array(patch.valid[guide])
        if min(counted.shape[1:]) > 4 * REACH:
            counted[:, :REACH] = counted[:, -REACH:] = False
            counted[:, :, :REACH] = counted[:, :, -REACH:] = False
        return [
            Unexplained(seen, seen - shrunk(output, kernel, model.spec.scale)[0].numpy(), counted)
            for kernel in CANDIDATES
        ]

    usable = [patch for patch in patches if patch.valid.mean() > 0.5][:PROBES]
    lanes = inference.lanes(len(usable))
    # threads that others start later take over what a lane was given, unless it is restored
    with cpu_threads(None), SideBySide(lanes.count, lanes.enter) as side:
        answers = [side.start(partial(ask, patch)) for patch in usable]
        probes = [answer() for answer in answers]
    found = [[probe[i] for probe in probes] for i in range(len(CANDIDATES))]
    left = [
        _size(parts) * (1 if kernel.sharpen else CLEARLY)
        for kernel, parts in zip(CANDIDATES, found, strict=True)
    ]
    best = int(np.argmin(left))
    return None if unless_noise and noise_dominates(found[best]) else CANDIDATES[best]


def _size(parts: Sequence[Unexplained]) -> float:
    left = (np.abs(part.residual[part.counted]).sum(dtype=np.float64) for part in parts)
    return float(sum(left))


def scene_kernel(
    read: Callable[[Window], Patch],
    height: int,
    width: int,
    stretch: Stretch,
    model: Model,
    config: SRConfig,
) -> Kernel | None:
    """The kernel a scene's product is to be consistent with; None: none, or noise dominates.

    Parameters
    ----------
    read
        Gives the pixels of a window of the scene.
    height, width, stretch
        Of the scene.
    model, config
        What is run, and how.
    """
    asked = asked_kernel(model.spec, config)
    known = known_kernel(asked)
    if known is not None or asked is None:
        return softened(known, model.spec, config)
    fitted = fit_kernel(
        [read(window) for window in probe_windows(height, width)],
        stretch,
        model,
        unless_noise=yields_to_noise(config),
    )
    return softened(fitted, model.spec, config)

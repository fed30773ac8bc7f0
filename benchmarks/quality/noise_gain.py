"""Measure how much a network amplifies noise of its source, against bicubic interpolation.

    python benchmarks/quality/noise_gain.py SCENE[:BANDS] ... [--model NAME ...] [--noise 1 3]
                                    [--grain 0 0.7]

Noise is added to a scene. What that changes in the output is compared with what it changes in
bicubic interpolation of the same pixels: the ratio of the standard deviations, on the full image
and on its flattest blocks. Above 1 noise is amplified. Unlike the variation of an output on flat
ground this separates noise from texture, and needs no truth. Noise is gaussian, in 255ths of the
range 0..1 that the network sees, white (grain 0) or smoothed by a gaussian of ``grain`` pixels, as
in resampled imagery. Up to 192 x 192 pixels in the middle of the scene are used.
"""

from __future__ import annotations

import argparse

import numpy as np
import rasterio
import torch

from georsr.api import super_resolve_array
from georsr.evaluation.edges import flat_blocks, plane_residual
from georsr.inference.blur_and_noise import BLOCK
from georsr.models.interpolation import Bicubic
from georsr.models.io import Model, open_model
from georsr.radiometry.degradation import smooth_noise
from georsr.window import FloatArray

MAX_SIZE = 192


def middle(name: str) -> tuple[str, FloatArray]:
    """Return file name and pixels, (3, h, w) in 0..1, of ``SCENE`` or ``SCENE:3,2,1``."""
    path, _, bands = name.partition(":")
    numbers = [int(number) for number in bands.split(",")] if bands else [1, 2, 3]
    with rasterio.open(path) as dataset:
        height, width = min(dataset.height, MAX_SIZE), min(dataset.width, MAX_SIZE)
        top, left = (dataset.height - height) // 2, (dataset.width - width) // 2
        pixels = dataset.read(numbers, window=((top, top + height), (left, left + width)))
        low, high = 0.0, 255.0
        if dataset.dtypes[0] != "uint8":
            low, high = np.percentile(pixels, [0.5, 99.5])
    scaled = (pixels.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return path.rpartition("/")[2], np.clip(scaled, 0, 1)


class Gains:
    """Noise gains of one network on one scene.

    Parameters
    ----------
    model
        Network, which is run without consistency.
    scene
        (3, h, w) in 0..1.
    """

    def __init__(self, model: Model, scene: FloatArray) -> None:
        self.model, self.scene, self.bicubic = model, scene, Bicubic(model.spec.scale)
        self.output, self.bicubic_output = self._run(scene)
        size = BLOCK * model.spec.scale
        self.flat = flat_blocks(
            self.bicubic_output.mean(0),
            np.ones(self.bicubic_output.shape[1:], bool),
            model.spec.scale,
        )
        spread = [
            plane_residual(x.mean(0), size)[self.flat] for x in (self.output, self.bicubic_output)
        ]
        self.variation = float(spread[0].mean() / spread[1].mean())
        self.on_flat = np.kron(self.flat, np.ones((size, size), bool))

    def _run(self, scene: FloatArray) -> tuple[FloatArray, FloatArray]:
        output = super_resolve_array(scene, self.model, consistency="off", stretch="0,1")
        with torch.inference_mode():
            return np.asarray(output), self.bicubic(torch.from_numpy(scene)[None])[0].numpy()

    def measure(self, noise: float, grain: float, seed: int) -> tuple[float, float]:
        """Return the gain everywhere, and on flat blocks."""
        drawn = np.random.default_rng(seed).normal(size=self.scene.shape).astype(np.float32)
        if grain:
            drawn = smooth_noise(drawn, grain)
        drawn *= noise / 255 / drawn.std()
        output, bicubic = self._run(np.clip(self.scene + drawn, 0, 1))
        changes = output - self.output, bicubic - self.bicubic_output
        rows, columns = self.on_flat.shape
        flat = [change[:, :rows, :columns][:, self.on_flat].std() for change in changes]
        return float(changes[0].std() / changes[1].std()), float(flat[0] / flat[1])


def main() -> None:
    """Measure every model on every scene, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", metavar="SCENE[:BANDS]")
    parser.add_argument("--model", nargs="+", default=["segsr-lite-x4", "segsr-lite-x4-sensor"])
    parser.add_argument("--noise", type=float, nargs="+", default=[1, 3])
    parser.add_argument("--grain", type=float, nargs="+", default=[0, 0.7])
    arguments = parser.parse_args()
    kinds = [(noise, grain) for grain in arguments.grain for noise in arguments.noise]
    heads = [f"noise {noise:g}, grain {grain:g}" for noise, grain in kinds]
    for name in arguments.model:
        model = open_model(name)
        print(f"{name}: gain everywhere / on flat ground")
        print("scene | variation on flat ground | " + " | ".join(heads))
        for scene in arguments.scenes:
            label, pixels = middle(scene)
            gains = Gains(model, pixels)
            values = [gains.measure(noise, grain, seed=0) for noise, grain in kinds]
            row = " | ".join(f"{total:.2f} / {flat:.2f}" for total, flat in values)
            print(f"{label} | {gains.variation:.2f} | {row}", flush=True)


if __name__ == "__main__":
    main()

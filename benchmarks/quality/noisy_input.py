"""Measure the effect of consistency on noisy input: PSNR with it, without it, and with ``auto``.

    python benchmarks/quality/noisy_input.py ROOT MODEL [--limit 60] [--noise 0 2 5 10] [--mtf 0.3]

Images of UC Merced ``val`` are shrunk (bicubic, or by optics of that MTF), gaussian noise of so
many grey levels is added, they are rounded to bytes, and enlarged.
"""

from __future__ import annotations

import argparse

import numpy as np

from georsr.api import super_resolve_array
from georsr.config import SRConfig
from georsr.evaluation.dataset import UINT8_RANGE, DegradedImages
from georsr.evaluation.metrics import psnr_y
from georsr.inference.blur_and_noise import resolve_kernel, with_scene_sensor
from georsr.inference.predictor import place_model
from georsr.io.image_datasets import open_dataset
from georsr.models.io import Model, open_model
from georsr.radiometry.degradation import BicubicDegradation
from georsr.radiometry.kernels import Kernel
from georsr.window import PixelBlock

CHOICES = ("off", "on", "auto")


class Trial:
    """One network on one noisy image, (3, h, w) uint8."""

    def __init__(self, model: Model, low) -> None:
        self.low, self.model = low, model
        valid = np.ones(low.shape, bool)

        def read(window) -> PixelBlock:
            inside = (slice(None), *window.slices)
            return PixelBlock(low[inside], valid[inside], None)

        size = low.shape[1:]
        placement = place_model(model, SRConfig())
        scene = read, *size, UINT8_RANGE
        adapted = with_scene_sensor(*scene, model, SRConfig(), placement)
        self.kernels = {
            word: resolve_kernel(*scene, adapted, SRConfig(consistency=word), placement)
            for word in CHOICES
        }

    def output(self, word: str):
        """Return the output and its residual in grey levels."""
        output = super_resolve_array(self.low, self.model, consistency=word, stretch="dtype")
        shrunk = self.kernels["on"].downsample(output, self.model.spec.scale)
        return output, float(np.abs(shrunk - self.low).mean())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("model")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--noise", type=float, nargs="+", default=[0, 2, 5, 10])
    parser.add_argument("--mtf", type=float)
    given = parser.parse_args()
    model = open_model(given.model)
    kernel = Kernel("bicubic") if given.mtf is None else Kernel("psf", given.mtf)
    scale = model.spec.scale
    folder = open_dataset(given.root, split="val")
    images = DegradedImages(folder, BicubicDegradation(), scale, given.limit)
    print("| noise | PSNR Y off | on | auto | left off | residual off | on | auto |")
    print("|---|---|---|---|---|---|---|---|")
    for sigma in given.noise:
        figures = []
        for number, truth in enumerate(sample.hr for sample in images):
            noise = np.random.default_rng(number).normal(size=(3, 999, 999))
            low = kernel.downsample(truth, scale)
            low = low + sigma * noise[:, : low.shape[1], : low.shape[2]]
            trial = Trial(model, np.clip(np.rint(low), 0, 255).astype(np.uint8))
            outputs = [trial.output(word) for word in CHOICES]
            scores = [psnr_y(output, truth, scale) for output, _ in outputs]
            left = trial.kernels["auto"] is None
            figures.append([*scores, left, *(residual for _, residual in outputs)])
        mean = np.mean(figures, 0)
        cells = [f"{value:.3f}" for value in mean[:3]] + [f"{mean[3]:.0%}"]
        print(f"| {sigma:g} | {' | '.join(cells + [f'{value:.2f}' for value in mean[4:]])} |")


if __name__ == "__main__":
    main()

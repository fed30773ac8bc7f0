"""Fit the expected error of the quality layers, and measure how well it predicts the true error.

    python benchmarks/quality/uncertainty.py ROOT --fit georsr/quality/calibration.json
    python benchmarks/quality/uncertainty.py ROOT

ROOT is UC Merced; its part ``train`` is used to fit, ``val`` to measure. Every image is degraded
and super-resolved in eight orientations, as for the quality layers. The error is the mean over
bands of |output - truth|, in grey levels of 8 bits, without a border of 8 pixels. Models with a
sensor input are fitted on both degradations.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.quality import uncertainty_metrics
from georsr.config import SRConfig
from georsr.device import DeviceConfig, cpu_threads, select_device
from georsr.evaluation.dataset import UINT8_RANGE, DegradedImages
from georsr.inference.blur_and_noise import with_scene_sensor
from georsr.inference.predictor import TilePredictor
from georsr.io.image_datasets import open_dataset
from georsr.models.io import open_model
from georsr.quality.layers import (
    GRADIENT,
    VARIANCE,
    EnsemblePredictor,
    calibration_of,
    expected_error,
)
from georsr.radiometry.degradation import parse_degradation
from georsr.window import PixelBlock

MODELS = ("segsr-lite-x4", "segsr-lite-x4-sensor", "segsr-lite-x2", "segsr-lite-x2-sensor")
BICUBIC, SENSOR = "bicubic", "sensor,mtf=0.2,noise=0.005,bits=8"
BORDER = 8
STEP = 7
"""Every so many pixels one is used: neighbours are correlated, and ranks need sorting."""


def for_image(model, low):
    """Return the model with the sensor description of an image, (C, h, w) uint8."""

    def read(window):
        pixels = low[:, *window.slices]
        return PixelBlock(pixels, np.ones(pixels.shape, bool), None)

    scene = read, *low.shape[1:], UINT8_RANGE
    return with_scene_sensor(*scene, model, SRConfig(), DeviceConfig("cpu"))


def ensemble_errors(name, root, split, degradation, limit):
    """Yield deviation, gradient, error, (H, W) on the 0..1 scale, image by image."""
    model = open_model(name)
    folder = open_dataset(root, "auto", split=split)
    images = DegradedImages(folder, parse_degradation(degradation), model.spec.scale, limit)
    inner = slice(BORDER, -BORDER)
    for sample in images:
        adapted = for_image(model, sample.lr)
        predictor = TilePredictor(adapted, select_device("cpu"), 1)
        ensemble = EnsemblePredictor(adapted, select_device("cpu"), 1)
        x = (sample.lr / np.float32(255)).astype(np.float32)
        planes = ensemble([x], [sample.name])[0]
        output = np.clip(np.rint(predictor([x], [sample.name])[0] * 255), 0, 255)
        error = np.abs(output - sample.hr).mean(0) / 255
        deviation, gradient = np.sqrt(planes[VARIANCE]), planes[GRADIENT]
        yield deviation[inner, inner], gradient[inner, inner], error[inner, inner]


def fit(name, root, limit):
    """Fit the three coefficients of a model on images of the training part."""
    kinds = [BICUBIC, SENSOR] if name.endswith("-sensor") else [BICUBIC]
    parts = [[], [], []]
    for kind in kinds:
        for deviation, gradient, error in ensemble_errors(name, root, "train", kind, limit):
            for part, values in zip(parts, (deviation, gradient, error), strict=True):
                part.append(values.ravel()[::STEP])
    deviation, gradient, error = (np.concatenate(part).astype(np.float64) for part in parts)
    a, b, c = uncertainty_metrics.fit_roots([deviation, gradient], error)
    return {
        "deviation": round(a, 4),
        "gradient": round(b, 4),
        "floor": round(c, 4),
        "fitted_on": f"UC Merced, {len(parts[0]) // len(kinds)} training images, "
        + " and ".join(kinds),
    }


def measure(name, root, limit, degradation):
    """Measure the estimate of a model on images of the validation part."""
    calibration = calibration_of(open_model(name).spec)
    each, coarse, estimates, errors = [], [], [], []
    for deviation, gradient, error in ensemble_errors(name, root, "val", degradation, limit):
        estimate = expected_error(deviation, gradient, calibration)
        each.append(uncertainty_metrics.spearman(estimate.ravel()[::STEP], error.ravel()[::STEP]))
        coarse.append([uncertainty_metrics.blocks(v, 8).ravel() for v in (estimate, error)])
        estimates.append(estimate.ravel()[::STEP])
        errors.append(error.ravel()[::STEP])
    estimate, error = np.concatenate(estimates) * 255, np.concatenate(errors) * 255
    blocks = [np.concatenate([pair[i] for pair in coarse]) for i in (0, 1)]
    means = [np.array([v.mean() for v in values]) for values in (estimates, errors)]
    curve = uncertainty_metrics.sparsification(estimate, error)
    return {
        "model": name,
        "images": len(each),
        "degradation": degradation,
        "spearman": uncertainty_metrics.spearman(estimate, error),
        "spearman_image_mean": float(np.nanmean(each)),
        "spearman_blocks": uncertainty_metrics.spearman(*blocks),
        "spearman_of_images": uncertainty_metrics.spearman(*means),
        "mean_estimate": float(estimate.mean()),
        "mean_error": float(error.mean()),
        "removed": curve.removed,
        "left": curve.estimate,
        "oracle": curve.oracle,
        "ause": curve.ause,
        "tenths": uncertainty_metrics.calibration_table(estimate, error),
    }


def show(result):
    """Print a result."""
    print(
        f"{result['model']}, {result['images']} images, {result['degradation']}: Spearman "
        f"{result['spearman']:.3f} over all pixels, {result['spearman_image_mean']:.3f} within "
        f"images, {result['spearman_blocks']:.3f} over blocks of 8 x 8, "
        f"{result['spearman_of_images']:.3f} over images; expected {result['mean_estimate']:.2f}, "
        f"found {result['mean_error']:.2f}; AUSE {result['ause']:.3f}"
    )
    for key in ("removed", "left", "oracle"):
        print(f"  {key:<8}" + " ".join(f"{v:6.2f}" for v in result[key]))
    print("  tenths  " + " ".join(f"{a:.2f}:{b:.2f}" for a, b in result["tenths"]), flush=True)


def main():
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("-m", "--model", action="append")
    parser.add_argument("--limit", type=int, help="images; 42 to fit, 105 to measure by default")
    parser.add_argument("--degradation", default=BICUBIC)
    parser.add_argument("--fit", type=Path, help="write the numbers fitted on the training part")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    with cpu_threads(1):
        for name in arguments.model or MODELS:
            began = time.monotonic()
            if arguments.fit is not None:
                table = json.loads(arguments.fit.read_text()) if arguments.fit.exists() else {}
                table[name] = fit(name, arguments.root, arguments.limit or 42)
                arguments.fit.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
                print(name, table[name], f"{time.monotonic() - began:.0f} s", flush=True)
            else:
                limit = arguments.limit or 105
                results.append(measure(name, arguments.root, limit, arguments.degradation))
                show(results[-1])
                if arguments.json is not None:
                    arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

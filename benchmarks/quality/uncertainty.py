"""Does the uncertainty layer know where the errors are? Fits its numbers, and measures them.

    python benchmarks/quality/uncertainty.py ucmerced --fit georsr/quality/calibration.json  # \
        train part
    python benchmarks/quality/uncertainty.py ucmerced                                       # val \
        part

Every image is degraded, super-resolved, and asked about in eight orientations, as the layers of a
product are made. Error: mean over bands of |product - truth|, in grey levels of 8 bits, a frame of
8 pixels left out. Models that know sensors are fitted on both degradations, half and half.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.quality import uncertainty_metrics
from georsr.device import cpu_threads, select_device
from georsr.evaluation.dataset import DegradedImages
from georsr.inference.predictor import TilePredictor
from georsr.io.image_datasets import open_dataset
from georsr.models.io import open_model
from georsr.quality.layers import (
    GRADIENT,
    WITHIN,
    EnsemblePredictor,
    calibration_of,
    expected_error,
)
from georsr.radiometry.degradation_kinds import parse_degradation

MODELS = ("segsr-lite-x4", "segsr-lite-x4-sensor", "segsr-lite-x2", "segsr-lite-x2-sensor")
BICUBIC, SENSOR = "bicubic", "sensor,mtf=0.2,noise=0.005,bits=8"
FRAME = 8
EVERY = 7
"""Pixels of which one is used, in a row: neighbours say the same, and ranks need sorting."""


def soundings(name, root, split, degradation, limit):
    """Yield deviation, gradient, error, (H, W) on the 0..1 scale, image by image."""

    model = open_model(name)
    predictor = TilePredictor(model, select_device("cpu"), 1)
    ensemble = EnsemblePredictor(model, select_device("cpu"), 1)
    folder = open_dataset(root, "auto", split=split)
    images = DegradedImages(folder, parse_degradation(degradation), model.spec.scale, limit)
    inner = slice(FRAME, -FRAME)
    for sample in images:
        x = (sample.lr / np.float32(255)).astype(np.float32)
        planes = ensemble([x], [sample.name])[0]
        product = np.clip(np.rint(predictor([x], [sample.name])[0] * 255), 0, 255)
        error = np.abs(product - sample.hr).mean(0) / 255
        deviation, gradient = np.sqrt(planes[WITHIN]), planes[GRADIENT]
        yield deviation[inner, inner], gradient[inner, inner], error[inner, inner]


def fit(name, root, limit):
    """The three numbers of a model, from images of the training part."""
    kinds = [BICUBIC, SENSOR] if name.endswith("-sensor") else [BICUBIC]
    parts = [[], [], []]
    for kind in kinds:
        for deviation, gradient, error in soundings(name, root, "train", kind, limit):
            for part, values in zip(parts, (deviation, gradient, error), strict=True):
                part.append(values.ravel()[::EVERY])
    deviation, gradient, error = (np.concatenate(part).astype(np.float64) for part in parts)
    a, b, c = uncertainty_metrics.fit_roots([deviation, gradient], error)
    return {
        "deviation": round(a, 4),
        "gradient": round(b, 4),
        "floor": round(c, 4),
        "fitted_on": f"UC Merced, {len(parts[0]) // len(kinds)} training images, "
        + " and ".join(kinds),
    }


def judge(name, root, limit, degradation):
    """What the estimate of a model is worth on images of the validation part."""
    calibration = calibration_of(open_model(name).spec)
    each, coarse, estimates, errors = [], [], [], []
    for deviation, gradient, error in soundings(name, root, "val", degradation, limit):
        estimate = expected_error(deviation, gradient, calibration)
        each.append(uncertainty_metrics.spearman(estimate.ravel()[::EVERY], error.ravel()[::EVERY]))
        coarse.append([uncertainty_metrics.blocks(v, 8).ravel() for v in (estimate, error)])
        estimates.append(estimate.ravel()[::EVERY])
        errors.append(error.ravel()[::EVERY])
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
    """A few lines for people."""
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
    parser = argparse.ArgumentParser(description=__doc__)
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
                results.append(judge(name, arguments.root, limit, arguments.degradation))
                show(results[-1])
                if arguments.json is not None:
                    arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

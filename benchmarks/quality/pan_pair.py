"""Compare super-resolved multispectral imagery with the real panchromatic band.

    python benchmarks/quality/pan_pair.py MS PAN

The bands of every output of MS are mixed to a panchromatic band (least squares at the resolution
of MS) and correlated with the real one, as they are and less the local mean of 5 x 5 pixels. Where
MS repeats its pixels (nearest neighbour resampling doubled them), one of each is used. PAN is
registered to MS enlarged by bicubic interpolation, at the resolution of PAN: on the coarse grid,
aliasing of MS biases phase correlation by a third of its pixel. Every output is compared with the
same PAN.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

import georsr
from georsr.geo.registration import phase_shift

BORDER = 16
ROUNDS = 3
"""Rounds of registration; the last one changes almost nothing."""
MODELS = (
    ("bicubic-x{s}", {}),
    ("segsr-lite-x{s}", {"consistency": "off"}),
    ("segsr-lite-x{s}", {}),
    ("segsr-lite-x{s}-sensor", {"consistency": "off"}),
    ("segsr-lite-x{s}-sensor", {}),
)


def moved(image, down: float, right: float):
    """Shift (h, w) by fractions of a pixel."""
    fy, fx = (np.fft.fftfreq(n) for n in image.shape)
    phase = np.exp(-2j * np.pi * (fy[:, None] * down + fx * right))
    return np.fft.ifft2(np.fft.fft2(image) * phase).real


def averaged(image, factor: int):
    """Average blocks of (h, w)."""
    height, width = image.shape
    return image.reshape(height // factor, factor, width // factor, factor).mean((1, 3))


def fine_detail(image, side: int = 5):
    """Subtract the local mean from (h, w)."""
    padded = np.pad(image, side // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return image - windows.mean((2, 3))


def correlation(a, b) -> float:
    """Correlate two (h, w) without their border."""
    inner = (slice(BORDER, -BORDER),) * 2
    return float(np.corrcoef(a[inner].ravel(), b[inner].ravel())[0, 1])


def registered(pan, ms, ratio: int):
    """Return PAN registered to MS (C, h, w), the weights of the bands, and the shift."""
    fine = georsr.super_resolve_array(ms.astype(np.float32), "bicubic", ratio).astype(np.float64)
    moves = np.zeros(2)
    for _ in range(ROUNDS):
        shifted = moved(pan, *moves)
        low = averaged(shifted, ratio).ravel()
        mixing = np.stack([*(band.ravel() for band in ms), np.ones(low.size)], 1)
        weights = np.linalg.lstsq(mixing, low, rcond=None)[0]
        moves += phase_shift(np.tensordot(weights[:-1], fine, 1), shifted, 1.0)
    return moved(pan, *moves), weights, moves


def main(ms_path: str, pan_path: str) -> None:
    """Print a table."""
    with rasterio.open(ms_path) as dataset:
        ms, profile = dataset.read(), dataset.profile
    with rasterio.open(pan_path) as dataset:
        pan = dataset.read(1).astype(np.float64)
    if (ms[:, ::2] == ms[:, 1::2]).mean() > 0.99 and (ms[..., ::2] == ms[..., 1::2]).mean() > 0.99:
        ms = ms[:, ::2, ::2]
        profile["transform"] = profile["transform"] @ Affine.scale(2)
        print("MS repeats every pixel: one of each is used")
    profile.update(height=ms.shape[1], width=ms.shape[2], tiled=False)
    ratio = pan.shape[0] // ms.shape[1]
    pan, weights, (down, right) = registered(pan, ms, ratio)
    print(f"PAN has {ratio} pixels for one of MS; moved by {down:.2f}, {right:.2f} of its own\n")
    print("| model | consistency | correlation | of fine detail |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "ms.tif", Path(folder) / "out.tif"
        with rasterio.open(source, "w", **profile) as dataset:
            dataset.write(ms)
        for scale in (2, ratio) if ratio > 2 else (2,):
            truth = averaged(pan, ratio // scale)
            for name, options in MODELS:
                model = name.format(s=scale)
                if "segsr" in model:
                    options = {**options, "output_bands": "all", "indexes": (3, 2, 1)}
                report = georsr.super_resolve(source, out, model, overwrite=True, **options)
                with rasterio.open(out) as dataset:
                    output = dataset.read().astype(np.float64)
                mixed = np.tensordot(weights[:-1], output, 1) + weights[-1]
                kernel = "off" if report.consistency is None else report.consistency.kernel
                total = correlation(mixed, truth)
                detail = correlation(fine_detail(mixed), fine_detail(truth))
                print(f"| {model} | {kernel} | {total:.4f} | {detail:.4f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

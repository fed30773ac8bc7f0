"""Measure whether outputs preserve the radiometry of their source: bands, means, NDVI, residual.

    python benchmarks/quality/radiometry.py FOLDER

Super-resolves all bands of real scenes and compares block averages of the outputs with the
sources. FOLDER contains the scenes named below.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

import georsr


@dataclass(frozen=True)
class Scene:
    """A raster, its RGB bands, and its red and near infrared bands."""

    file: str
    guide: tuple[int, int, int]
    red: int
    nir: int
    edge: int = 192
    """Largest height and width that are used."""


SCENES = {
    "Sentinel-2": Scene("s2_13band_i16_spain_sen1floods11.tif", (4, 3, 2), 4, 8),
    "Landsat 7": Scene("l7_6band_u8_28.5m_utm25s.tif", (3, 2, 1), 3, 4),
    "NAIP": Scene("naip_4band_u8_1m_va_3607717.tif", (1, 2, 3), 1, 4),
    "HLS": Scene("hls_10band_f32_30m_utm14.tif", (3, 2, 1), 3, 4),
}


@dataclass(frozen=True)
class Fidelity:
    """Differences between an output, averaged over each source pixel, and the source."""

    ndvi: float
    """Absolute difference of the scene's mean NDVI."""
    ndvi_pixel: float
    """Mean absolute difference of NDVI, pixel by pixel."""
    means: float
    """Largest relative difference of a band's mean."""
    residual: float
    """Mean absolute difference under the kernel of the run, over the 1 to 99 % range of values."""
    kernel: str


def ndvi(image, red: int, nir: int):
    """Compute NDVI: (C, ...) -> (...)."""
    a, b = image[red - 1].astype(np.float64), image[nir - 1].astype(np.float64)
    return (b - a) / (a + b)


def measure(folder: Path, scene: Scene, model: str, **options: object) -> Fidelity:
    """Super-resolve a scene and compare."""
    with tempfile.TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "in.tif", Path(temporary) / "out.tif"
        with rasterio.open(folder / scene.file) as dataset:
            window = rasterio.windows.Window(
                0, 0, min(scene.edge, dataset.width), min(scene.edge, dataset.height)
            )
            profile = dataset.profile | {
                "width": window.width,
                "height": window.height,
                "transform": dataset.transform,  # the window begins at the corner
                "tiled": False,
            }
            values = dataset.read(window=window)
        with rasterio.open(source, "w", **profile) as copy:
            copy.write(values)
        report = georsr.super_resolve(
            source, out, model, output_bands="all", indexes=scene.guide, **options
        )
        with rasterio.open(out) as dataset:
            output = dataset.read(masked=True).filled(0)
        with rasterio.open(source) as dataset:
            valid = dataset.read_masks().all(0) != 0
    bands, height, width = values.shape
    s = report.scale
    averaged = output.reshape(bands, height, s, width, s).mean((2, 4), dtype=np.float64)
    total = values[scene.red - 1].astype(np.float64) + values[scene.nir - 1]
    # NDVI of dark pixels is mostly noise
    lit = valid & (total > 0.1 * np.median(total[valid]))
    output_ndvi, source_ndvi = (
        ndvi(image[:, lit], scene.red, scene.nir) for image in (averaged, values)
    )
    means = averaged[:, valid].mean(1), values[:, valid].mean(1, dtype=np.float64)
    low, high = np.percentile(values[:, valid], (1, 99))
    done = report.consistency
    return Fidelity(
        ndvi=abs(float(output_ndvi.mean() - source_ndvi.mean())),
        ndvi_pixel=float(np.abs(output_ndvi - source_ndvi).mean()),
        means=float(np.abs(means[0] / means[1] - 1).max()),
        residual=float("nan") if done is None else done.output_mean / float(high - low),
        kernel="-" if done is None else done.kernel,
    )


def main(folder: Path) -> None:
    """Print a table."""
    warnings.simplefilter("ignore")
    print("| scene | model | consistency | NDVI, mean | NDVI, pixels | band means | residual |")
    print("|---|---|---|---|---|---|---|")
    for name, scene in SCENES.items():
        for model in ("segsr-lite-x2", "segsr-lite-x2-sensor", "segsr-lite-x4-sensor"):
            for options in ({"consistency": "off"}, {}, {"consistency_kernel": "mean"}):
                result = measure(folder, scene, model, **options)
                kernel = "off" if result.kernel == "-" else result.kernel
                print(
                    f"| {name} | {model} | {kernel} | {result.ndvi:.5f} | "
                    f"{result.ndvi_pixel:.5f} | {100 * result.means:.3f} % | "
                    f"{100 * result.residual:.3f} % |",
                    flush=True,
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

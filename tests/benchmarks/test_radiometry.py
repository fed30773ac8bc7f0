"""Real scenes: what an output says of each source pixel is what the source said of it."""

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "quality" / "radiometry.py"


@pytest.mark.shared
@pytest.mark.parametrize("name", ["Sentinel-2", "Landsat 7", "NAIP", "HLS"])
def test_radiometry_benchmark_indices_and_means_equal_the_source(name, shared_data):
    bench = runpy.run_path(str(BENCHMARK))
    scene = bench["SCENES"][name]
    small = type(scene)(scene.file, scene.guide, scene.red, scene.nir, 96)
    found = bench["measure"](shared_data / "scenes", small, "segsr-lite-x2")
    assert found.ndvi < 0.002
    assert found.means < 0.001
    assert found.residual < 0.0015
    exact = bench["measure"](
        shared_data / "scenes", small, "segsr-lite-x2", consistency_kernel="mean"
    )
    assert exact.ndvi < 0.0002
    assert exact.means < 0.0005

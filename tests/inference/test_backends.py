"""Each backend gives the same bytes however work is divided, and does not continue another's."""

import dask.array as da
import numpy as np
import pytest
import rasterio

from georsr.api import super_resolve
from georsr.config import SRConfig
from georsr.device import cpu_supports
from georsr.errors import InterruptedRunError, UsageError
from georsr.models.io import open_model
from georsr.xarray.dask_graph import super_resolve_dask

MODEL = "segsr-lite-x2-sensor"
TILES = {"tile_size": 32, "blocksize": 32}
in_8_bits = pytest.mark.skipif(not cpu_supports("int8"), reason="the CPU lacks the instructions")
EACH = [
    pytest.param({"backend": "torch"}, id="torch"),
    pytest.param({"backend": "onnx"}, id="onnx"),
    pytest.param({"precision": "int8"}, id="int8", marks=in_8_bits),
]


@pytest.fixture
def scene(make_raster, texture):
    return make_raster(texture(3, 70, 75))


def interrupt(scene, out, **options):
    """Stop a run when some of its blocks are finished."""
    calls = iter(range(1000))
    with pytest.raises(InterruptedRunError):
        super_resolve(scene, out, MODEL, should_stop=lambda: next(calls) > 12, **TILES, **options)


@pytest.mark.parametrize("options", EACH)
def test_backend_gives_the_same_bytes_with_threads_and_interruption(options, scene, tmp_path):
    whole, out = tmp_path / "whole.tif", tmp_path / "out.tif"
    super_resolve(scene, whole, MODEL, num_threads=1, **TILES, **options)
    interrupt(scene, out, num_threads=2, **options)
    report = super_resolve(scene, out, MODEL, num_threads=3, **TILES, **options)
    assert report.blocks_resumed > 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("options", EACH)
def test_backend_gives_the_same_pixels_in_chunks(options, scene, tmp_path):
    out = tmp_path / "out.tif"
    common = {"stretch": "dtype", "sensor": "mtf=0.3,noise=0.01", "consistency": "off"}
    super_resolve(scene, out, MODEL, **TILES, **common, **options)
    with rasterio.open(scene) as source, rasterio.open(out) as made:
        chunks = da.from_array(source.read(), chunks=(3, 31, 40))
        config = SRConfig(**TILES, **common, **options)
        graph = super_resolve_dask(chunks, open_model(MODEL), config, sides=(48, 64))
        np.testing.assert_array_equal(graph.compute(scheduler="threads"), made.read())


@pytest.mark.slow
@pytest.mark.parametrize("options", EACH)
def test_backend_gives_the_same_bytes_with_workers(options, scene, tmp_path):
    for name, workers in (("one.tif", {}), ("two.tif", {"workers": 2})):
        super_resolve(scene, tmp_path / name, MODEL, **TILES, **options, **workers)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ({"backend": "torch"}, {"backend": "onnx"}, "with ONNX Runtime"),
        ({"backend": "onnx"}, {"backend": "torch"}, "with torch"),
        pytest.param({"backend": "onnx"}, {"precision": "int8"}, "is int8 on cpu", marks=in_8_bits),
    ],
)
def test_run_begun_by_one_backend_is_not_continued_by_another(
    first, second, difference, scene, tmp_path
):
    out = tmp_path / "out.tif"
    interrupt(scene, out, **first)
    with pytest.raises(UsageError, match=difference) as caught:
        super_resolve(scene, out, MODEL, resume=True, **TILES, **second)
    assert "\n" not in str(caught.value)
    super_resolve(scene, out, MODEL, resume=True, **TILES, **first)

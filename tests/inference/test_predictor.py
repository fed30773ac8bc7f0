"""Batches in flight and compiled networks."""

import os
import platform
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from georsr.device import DeviceConfig
from georsr.errors import ModelError
from georsr.inference.array import ArrayFormat
from georsr.inference.pipeline import TilePipeline
from georsr.inference.predictor import TilePredictor
from georsr.models.io import Model, open_model
from georsr.models.spec import ModelSpec
from georsr.radiometry.normalization import Normalization
from georsr.tiling.grid import make_grid
from georsr.window import PixelBlock

CPU = DeviceConfig("cpu")


class LateBatch:
    """A batch that is computed when its result is asked for, as a GPU may."""

    def __init__(self, compute, events, number):
        self.compute, self.events, self.number = compute, events, number

    def result(self):
        self.events.append(("result", self.number))
        self.batches = self.compute()
        return [values for batch in self.batches for values in batch.result()]

    def residuals(self):
        return [residual for batch in self.batches for residual in batch.residuals()]


class Watched(TilePredictor):
    """Notes when batches start and end; ``late`` acts like a device that works by itself."""

    def __init__(self, model, batch, late):
        super().__init__(model, CPU, batch)
        self.events, self.late = [], late

    @property
    def overlaps(self):
        return self.late

    def submit(self, tiles, names, targets=None, kernel=None):
        number = len([e for e in self.events if e[0] == "submit"])
        self.events.append(("submit", number))

        def compute():
            late, self.late = self.late, False  # nothing is pinned where there is no GPU
            try:
                return TilePredictor.submit(self, tiles, names, targets, kernel)
            finally:
                self.late = late

        return [LateBatch(compute, self.events, number)]


def stream(inference, image, valid=None):
    valid = np.ones(image.shape, bool) if valid is None else valid

    def read(window):
        rows, columns = window.slices
        return PixelBlock(image[:, rows, columns], valid[:, rows, columns], None)

    height, width = image.shape[1:]
    pipeline = TilePipeline(
        read=read,
        bands=3,
        tile_grid=make_grid(height, width, scale=2, tile=32, halo=4, overlap=4),
        normalization=Normalization((0.0,) * 3, (255.0,) * 3, "dtype"),
        predictor=inference,
    )
    return pipeline.blocks(ArrayFormat("float32", 3, 32))


def output(inference, image, valid=None):
    out = np.full((3, 2 * image.shape[1], 2 * image.shape[2]), np.nan, np.float32)
    with closing(stream(inference, image, valid)) as blocks:
        for window, values in blocks:
            out[(slice(None), *window.slices)] = values
    return out


@pytest.mark.parametrize("hole", [False, True])
def test_tile_pipeline_with_a_batch_in_flight_gives_the_same_output(hole, lite_model, texture):
    image = texture(3, 100, 130)
    valid = np.ones(image.shape, bool)
    if hole:
        valid[:, 30:90, 10:100] = False
    overlapping = Watched(lite_model, 3, late=True)
    late = output(overlapping, image, valid)
    np.testing.assert_array_equal(late, output(TilePredictor(lite_model, CPU, 3), image, valid))
    assert np.isfinite(late).all()
    # the next batch always starts before the one in flight is waited for, and only the next one
    flying = 0
    most = 0
    for kind, _ in overlapping.events:
        flying += 1 if kind == "submit" else -1
        most = max(most, flying)
    assert most == 2
    assert flying == 0


def test_tile_pipeline_on_cpu_finishes_each_batch_at_once(lite_model, texture):
    """Without a device of its own, a batch is finished before the next one starts."""
    inference = Watched(lite_model, 2, late=False)
    output(inference, texture(3, 80, 80))
    kinds = [kind for kind, _ in inference.events]
    assert kinds == ["submit", "result"] * (len(kinds) // 2)


def test_tile_predictor_compiled_agrees_and_compiles_once(monkeypatch):
    model = replace(open_model("bicubic", 2), weights=torch.nn.Upsample(scale_factor=2))
    tiles = list(np.random.default_rng(0).random((5, 3, 24, 24), np.float32))
    names = [f"tile {i}" for i in range(5)]
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    compiled = TilePredictor(model, CPU, 2, compiled=True)
    for ours, theirs in zip(
        compiled(tiles, names), TilePredictor(model, CPU, 2)(tiles, names), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # five tiles in batches of two: the odd one is filled up, not compiled for
    assert len(graphs) == 1


class Broken(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("no such kernel")


def test_tile_predictor_compiled_failure_names_the_option():
    spec = ModelSpec("broken", "test", 2, bands=0, band_names=(), tile=32)
    inference = TilePredictor(Model(spec, Broken(), "0" * 64, "broken"), CPU, 1, compiled=True)
    with pytest.raises(ModelError, match=r"tile 7.*without compile=True"):
        inference([np.zeros((1, 32, 32), np.float32)], ["tile 7"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_tile_predictor_on_cuda_agrees_with_cpu(compiled, lite_model, texture):
    image = texture(3, 100, 130)
    cuda = DeviceConfig("cuda")
    ours = output(TilePredictor(lite_model, cuda, 4, compiled=compiled), image)
    theirs = output(TilePredictor(lite_model, CPU, 1), image)
    np.testing.assert_allclose(ours, theirs, atol=0.05)


COUNTING = """
import resource
import numpy as np
from georsr.system import tune_malloc
tune_malloc()
np.full(2**17, 1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.full(2**17, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others are left alone")
@pytest.mark.parametrize(
    ("variables", "kept"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "65536"}, False)]
)
def test_tune_malloc_keeps_memory_unless_the_environment_is_set(variables, kept):
    # as Dask starts its workers
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"} | variables
    done = subprocess.run(
        [sys.executable, "-c", COUNTING], env=environment, stdout=subprocess.PIPE, check=True
    )
    # 1 MiB is 256 pages, and less than a huge page
    assert (int(done.stdout) < 50 * 100) is kept

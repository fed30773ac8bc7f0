"""The invariants of a run, on files; each names the one it holds."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags

from georsr.api import super_resolve
from georsr.device import DeviceConfig
from georsr.errors import ModelError, ResourceError, UsageError
from georsr.inference.array import ArrayFormat
from georsr.inference.pipeline import TilePipeline
from georsr.inference.predictor import TilePredictor
from georsr.io.reader import open_raster
from georsr.models.io import Model, open_model
from georsr.models.spec import ModelSpec
from georsr.radiometry.normalization import Normalization
from georsr.tiling.grid import make_grid
from georsr.window import PixelBlock, Window
from tests.rasters import read


def enlarge(image, s):
    return image.repeat(s, -2).repeat(s, -1)


def custom(network, *, scale=2, bands=0, tile=32, **fields):
    spec = ModelSpec(
        "test", "test", scale, bands=bands, band_names=(), tile=tile, halo=2, overlap=4, **fields
    )
    return Model(spec, network.eval(), "0" * 64, "test")


SIZES = [(1, 1), (1, 50), (47, 1), (5, 3), (31, 32), (32, 33), (61, 97)]
DTYPES = ["uint8", "int16", "uint16", "float32"]


# -- 1: nearest in, replication out; constant in, constant out ------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_run_with_nearest_replicates_pixels(size, dtype, make_raster, texture, tmp_path):
    image = texture(2, *size, dtype)
    out = tmp_path / "out.tif"
    # a stretch of the whole range, so that nothing but rounding is between source and output
    stretch = "dtype" if dtype != "float32" else "-10000,10000"
    super_resolve(
        make_raster(image), out, "nearest", 2, stretch=stretch, tile_size=32, halo=2, overlap=4
    )
    output = read(out)
    assert output.dtype == dtype
    if dtype == "float32":
        np.testing.assert_allclose(output, enlarge(image, 2), atol=20000 * 2e-7)
    else:
        np.testing.assert_array_equal(output, enlarge(image, 2))


@pytest.mark.parametrize("scale", [1, 3, 4])
def test_run_with_nearest_at_every_scale_replicates_pixels(scale, make_raster, texture, tmp_path):
    image = texture(3, 41, 70)
    super_resolve(make_raster(image), tmp_path / "o.tif", "nearest", scale, tile_size=32)
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), enlarge(image, scale))


def test_run_full_range_of_float32_with_the_lowest_as_nodata_keeps_all_others(
    make_raster, tmp_path
):
    lowest = float(np.finfo("float32").min)
    image = np.linspace(0.9995 * lowest, -lowest, 1200, dtype="float64").astype("float32")
    image = image.reshape(1, 40, 30)
    image[0, 7, 7] = lowest
    super_resolve(make_raster(image, nodata=lowest), tmp_path / "o.tif", "nearest", 2)
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), enlarge(image, 2))
    with open_raster(tmp_path / "o.tif") as output:
        assert (~output.read(Window(0, 0, 80, 60)).valid).sum() == 4


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
@pytest.mark.parametrize("model", ["nearest", "bicubic"])
def test_run_of_a_constant_stays_constant(dtype, model, make_raster, tmp_path):
    image = np.full((1, 50, 45), 37, dtype)
    super_resolve(make_raster(image), tmp_path / "o.tif", model, 2, tile_size=32)
    output = read(tmp_path / "o.tif")
    assert output.shape == (1, 100, 90)
    assert (output == 37).all()


def test_run_values_beyond_the_stretch_are_kept(make_raster, tmp_path):
    """Invariant 1 and radiometry: what the network cannot see goes round it."""
    image = np.full((1, 40, 40), 1000, "uint16")
    image[0, :, 20:] = 3000
    image[0, 10:15, 10:15] = 65535
    image[0, 30:, :5] = 0
    super_resolve(make_raster(image), tmp_path / "o.tif", "nearest", 2, stretch="900,3100")
    output = read(tmp_path / "o.tif")
    inside = output[0, 2 * 11 : 2 * 14, 2 * 11 : 2 * 14]
    assert (inside == 65535).all()
    assert output[0, -1, 0] == 0
    assert (output[0, 0:18, 0:18] == 1000).all()


# -- 2: the result does not depend on how it was computed ------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 3}, {"batch_size": 64}, {"num_threads": 2}, {"blocksize": 64}, {"cog": True}],
)
def test_run_does_not_depend_on_batch_threads_or_blocks(
    options, lite_model, make_raster, texture, tmp_path
):
    source = make_raster(texture(3, 75, 110))
    super_resolve(source, tmp_path / "a.tif", lite_model)
    super_resolve(source, tmp_path / "b.tif", lite_model, **options)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))


def test_run_repeated_gives_the_same_bytes(lite_model, make_raster, texture, tmp_path):
    source = make_raster(texture(3, 40, 70))
    for name in ("a.tif", "b.tif"):
        super_resolve(source, tmp_path / name, lite_model)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_run_with_bicubic_and_any_tile_is_seamless(make_raster, texture, tmp_path):
    """Bicubic sees two pixels: with that halo, any tiling gives the whole image's result."""
    source = make_raster(texture(1, 90, 77, "uint16"))
    outputs = []
    for tile in (24, 31, 256):
        out = tmp_path / f"{tile}.tif"
        super_resolve(source, out, "bicubic", 3, tile_size=tile, halo=2, overlap=0, stretch="dtype")
        outputs.append(read(out).astype(int))
    assert np.abs(outputs[0] - outputs[2]).max() <= 1
    assert np.abs(outputs[1] - outputs[2]).max() <= 1


# -- 3: georeferencing -------------------------------------------------------------------------


TRANSFORMS = {
    "north-up": Affine(0.5, 0, 400000, 0, -0.5, 5e6),
    "south-up": Affine(10, 0, 500000, 0, 10, 4e6),
    "rotated": Affine.translation(3e5, 6e6) @ Affine.rotation(30) @ Affine.scale(10, -8),
    "sheared": Affine(2, 0.3, 1000, -0.2, -3, 2000),
    "degrees": Affine(8.98315e-05, 0, -3.2, 0, -8.98315e-05, 41.7),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("scale", [2, 3])
def test_run_keeps_the_corners(name, scale, make_raster, texture, tmp_path):
    transform = TRANSFORMS[name]
    crs = "EPSG:4326" if name == "degrees" else "EPSG:32632"
    source = make_raster(texture(1, 30, 41), transform=transform, crs=crs)
    super_resolve(source, tmp_path / "o.tif", "nearest", scale)
    with rasterio.open(tmp_path / "o.tif") as out:
        assert out.crs == rasterio.crs.CRS.from_string(crs)
        assert (out.width, out.height) == (41 * scale, 30 * scale)
        for row, column in ((0, 0), (0, 41), (30, 0), (30, 41), (13, 29)):
            expected = transform @ (column, row)
            got = out.transform @ (column * scale, row * scale)
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-9)


def test_run_without_crs_warns(make_raster, texture, tmp_path):
    from georsr.errors import GeoreferenceWarning

    source = make_raster(texture(1, 9, 9), crs=None)
    with pytest.warns(GeoreferenceWarning, match="coordinate reference system"):
        super_resolve(source, tmp_path / "o.tif", "nearest", 2)
    with rasterio.open(tmp_path / "o.tif") as out:
        assert out.crs is None


# -- 4: the destination never holds anything unfinished ----------------------------------------


class Failing(torch.nn.Module):
    """Nearest, until a call count is reached."""

    def __init__(self, scale, after, error):
        super().__init__()
        self.scale, self.after, self.error, self.calls = scale, after, error, 0

    def forward(self, x):
        self.calls += 1
        if self.calls > self.after:
            raise self.error
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_run_failing_leaves_the_old_file(error, make_raster, texture, tmp_path):
    out = tmp_path / "o.tif"
    out.write_bytes(b"old")
    source = make_raster(texture(1, 90, 90))
    before = sorted(p.name for p in tmp_path.iterdir())
    expected = ModelError if isinstance(error, RuntimeError) else KeyboardInterrupt
    with pytest.raises(expected):
        super_resolve(source, out, custom(Failing(2, 5, error)), overwrite=True)
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_run_network_error_names_the_tile(make_raster, texture, tmp_path):
    source = make_raster(texture(1, 90, 90))
    with pytest.raises(ModelError, match=r"tile 3 .*rows .*boom"):
        super_resolve(source, tmp_path / "o.tif", custom(Failing(2, 3, RuntimeError("boom"))))


def test_run_network_non_finite_values_raise_model_error(make_raster, texture, tmp_path):
    class Nan(torch.nn.Module):
        def forward(self, x):
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3) / 0.0 * 0.0

    with pytest.raises(ModelError, match="not finite at tile 0"):
        super_resolve(make_raster(texture(1, 9, 9)), tmp_path / "o.tif", custom(Nan()))


def test_run_network_wrong_shape_raises_model_error(make_raster, texture, tmp_path):
    with pytest.raises(ModelError, match=r"expected \(1, 1, 18, 18\)"):
        super_resolve(
            make_raster(texture(1, 9, 9)), tmp_path / "o.tif", custom(torch.nn.Identity())
        )


# -- 5: memory (peak RSS is measured in test_memory.py) ------------------------------------------


class Hungry(torch.nn.Module):
    """Nearest that runs out of memory above a number of pixels per call."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.seen = limit, []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        if x.shape[0] * x.shape[2] * x.shape[3] > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_tile_predictor_out_of_memory_halves_the_batch(texture):
    image = texture(1, 90, 120)
    network = Hungry(2 * 32 * 32)
    model = custom(network)
    inference = TilePredictor(model, DeviceConfig("cpu"), 8)
    tiles = [image[:, :32, i : i + 32].astype("float32") / 255 for i in range(9)]
    outputs = inference(tiles, [f"tile {i}" for i in range(9)])
    for tile, output in zip(tiles, outputs, strict=True):
        np.testing.assert_array_equal(output, enlarge(tile, 2))
    assert inference.batch == 2
    assert [s[0] for s in network.seen] == [8, 4, 2, 2, 2, 2, 1]


def test_run_out_of_memory_halves_the_tile(lite_model, make_raster, texture, tmp_path):
    image = texture(3, 90, 120)
    source = make_raster(image)
    big = replace(lite_model.spec, tile=128)

    class Limited(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = lite_model.network

        def forward(self, x):
            if x.shape[2] > 40:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.inner(x)

    report = super_resolve(source, tmp_path / "a.tif", Model(big, Limited(), "", "test"))
    assert report.tile_size == 32
    super_resolve(source, tmp_path / "b.tif", lite_model, tile_size=32)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))


def test_run_out_of_memory_at_the_smallest_tile_names_the_tiles_tried(
    make_raster, texture, tmp_path
):
    with pytest.raises(ResourceError, match=r"tiles tried: 64, 32\)"):
        super_resolve(
            make_raster(texture(1, 99, 99)), tmp_path / "o.tif", custom(Hungry(9), tile=64)
        )


# -- 6: invalid pixels -------------------------------------------------------------------------


def test_run_nodata_footprint_is_exact(lite_model, make_raster, texture, tmp_path):
    image = texture(3, 60, 80)
    image[image == 0] = 1
    hole = np.random.default_rng(2).random((60, 80)) < 0.1
    hole[20:40, 50:] = True
    image[:, hole] = 0
    super_resolve(make_raster(image, nodata=0), tmp_path / "o.tif", lite_model)
    output = read(tmp_path / "o.tif")
    np.testing.assert_array_equal(output == 0, np.broadcast_to(enlarge(hole, 2), output.shape))


def test_run_invalid_values_do_not_affect_valid_pixels(lite_model, make_raster, texture, tmp_path):
    """Whatever stands under the mask, the valid pixels come out the same."""
    image = texture(3, 60, 80, "float32")
    hole = np.zeros((60, 80), bool)
    hole[10:30, 33:60] = True
    outputs = []
    for i, value in enumerate((-9999.0, 1e30, np.nan)):
        spoiled = image.copy()
        spoiled[:, hole] = value
        source = make_raster(spoiled, f"in{i}.tif", nodata=value)
        super_resolve(source, tmp_path / f"o{i}.tif", lite_model, stretch="-2000,2000")
        outputs.append(read(tmp_path / f"o{i}.tif"))
    fine = enlarge(~hole, 2)
    for output in outputs[1:]:
        np.testing.assert_array_equal(output[:, fine], outputs[0][:, fine])
    assert np.isnan(outputs[2][:, ~fine]).all()
    assert (outputs[0][:, ~fine] == -9999).all()


def test_run_empty_tiles_skip_the_network(make_raster, texture, tmp_path):
    image = texture(1, 200, 200, "uint16")
    image[image == 0] = 1
    image[:, :, 90:] = 0

    class Counting(torch.nn.Module):
        calls = 0

        def forward(self, x):
            Counting.calls += x.shape[0]
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    report = super_resolve(
        make_raster(image, nodata=0), tmp_path / "o.tif", custom(Counting()), stretch="dtype"
    )
    assert report.tiles_skipped >= report.tiles // 3
    assert Counting.calls == report.tiles - report.tiles_skipped
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), enlarge(image, 2))


def test_tile_pipeline_of_empty_rows_yields_blocks_at_once(texture):
    """A mosaic of nothing must not be read whole before its first block is written."""
    reads = []

    def read(window):
        reads.append(window)
        values = np.zeros((1, window.height, window.width), "uint8")
        return PixelBlock(values, np.zeros(values.shape, bool), None)

    model = custom(Failing(2, 0, RuntimeError("must not run")))
    pipeline = TilePipeline(
        read=read,
        bands=1,
        tile_grid=make_grid(5000, 40, scale=2, tile=32, halo=2, overlap=4),
        normalization=Normalization((0.0,), (255.0,), "dtype"),
        predictor=TilePredictor(model, DeviceConfig("cpu"), 1000),
    )
    with closing(pipeline.blocks(ArrayFormat("uint8", 1, 16))) as blocks:
        next(blocks)
        assert len(reads) < 6


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_run_in_half_precision_is_close_and_keeps_the_model(
    precision, lite_model, make_raster, texture, tmp_path
):
    source = make_raster(texture(3, 40, 60))
    for name, chosen in (("a", "fp32"), ("b", precision), ("c", "fp32")):
        super_resolve(source, tmp_path / f"{name}.tif", lite_model, precision=chosen)
    full, half, again = (read(tmp_path / f"{name}.tif").astype(int) for name in "abc")
    np.testing.assert_array_equal(full, again)
    assert 0 < np.abs(full - half).max() <= 4
    assert np.abs(full - half).mean() < 0.6  # of 8 bits, with untrained, large weights


def test_run_of_an_invalid_raster_skips_the_network(make_raster, tmp_path):
    failing = custom(Failing(2, 0, RuntimeError("must not run")))
    source = make_raster(np.zeros((1, 50, 50), "uint8"), nodata=0)
    report = super_resolve(source, tmp_path / "o.tif", failing)
    assert report.tiles_skipped == report.tiles
    assert (read(tmp_path / "o.tif") == 0).all()


def test_run_mask_and_alpha_are_replicated(make_raster, texture, tmp_path):
    mask = (np.random.default_rng(1).random((40, 50)) < 0.7).astype("uint8") * 255
    rgb = texture(3, 40, 50)
    masked = make_raster(rgb, "m.tif", after=lambda d: d.write_mask(mask))
    super_resolve(masked, tmp_path / "om.tif", "nearest", 2, tile_size=32)
    with rasterio.open(tmp_path / "om.tif") as out:
        assert MaskFlags.per_dataset in out.mask_flag_enums[0]
        np.testing.assert_array_equal(out.dataset_mask(), enlarge(mask, 2))

    alpha = np.random.default_rng(3).integers(0, 3, (1, 40, 50)).astype("uint8") * 100

    def colours(dataset):
        dataset.colorinterp = [
            ColorInterp.red,
            ColorInterp.green,
            ColorInterp.blue,
            ColorInterp.alpha,
        ]

    rgba = make_raster(np.concatenate([rgb, alpha]), "a.tif", after=colours)
    super_resolve(rgba, tmp_path / "oa.tif", "nearest", 2, tile_size=32)
    with rasterio.open(tmp_path / "oa.tif") as out:
        assert out.colorinterp[3] == ColorInterp.alpha
        np.testing.assert_array_equal(out.read(4), enlarge(alpha[0], 2))
        np.testing.assert_array_equal(out.read([1, 2, 3]), enlarge(rgb, 2))


# -- what else users rely on ---------------------------------------------------------------------


def test_run_keeps_metadata_and_writes_tags(make_raster, texture, tmp_path):
    def describe(dataset):
        dataset.descriptions = ("red", "near infrared")
        dataset.scales, dataset.offsets = (0.0001, 0.0001), (-0.1, -0.1)
        dataset.units = ("reflectance", "reflectance")
        dataset.update_tags(ACQUIRED="2026-05-01")
        dataset.update_tags(1, WAVELENGTH="665")

    source = make_raster(texture(2, 20, 20, "uint16"), after=describe, nodata=0)
    super_resolve(source, tmp_path / "o.tif", "bicubic", 2)
    with rasterio.open(tmp_path / "o.tif") as out:
        assert out.descriptions == ("red", "near infrared")
        assert out.scales == (0.0001, 0.0001)
        assert out.offsets == (-0.1, -0.1)
        assert out.units == ("reflectance", "reflectance")
        assert out.tags()["ACQUIRED"] == "2026-05-01"
        assert out.tags(1)["WAVELENGTH"] == "665"
        assert out.nodata == 0
        assert out.tags()["GEORSR_MODEL"] == "bicubic-x2"
        assert out.tags()["GEORSR_SOURCE"] == "in.tif"
        assert "synthesised" in out.tags()["GEORSR_NOTE"]


def test_run_report_has_sizes_counts_and_times(lite_model, make_raster, texture, tmp_path):
    report = super_resolve(make_raster(texture(3, 70, 70)), tmp_path / "o.tif", lite_model)
    facts = json.loads(report.to_json())
    assert (facts["width"], facts["height"], facts["dtype"]) == (140, 140, "uint8")
    assert facts["file_bytes"] == (tmp_path / "o.tif").stat().st_size
    assert set(facts["seconds"]) >= {"total", "network", "join", "write", "verify", "read"}


def test_run_wrong_band_count_names_the_bands(lite_model, make_raster, texture, tmp_path):
    source = make_raster(texture(5, 20, 20), photometric="minisblack")
    with pytest.raises(
        UsageError, match=r"which of its 5 bands are red, green and blue: .*indexes"
    ):
        super_resolve(source, tmp_path / "o.tif", lite_model)
    super_resolve(source, tmp_path / "o.tif", lite_model, indexes=(4, 3, 2))
    assert read(tmp_path / "o.tif").shape == (3, 40, 40)


def test_run_indexes_set_the_band_order(make_raster, texture, tmp_path):
    image = texture(4, 20, 20)
    source = make_raster(image, photometric="minisblack")
    super_resolve(source, tmp_path / "o.tif", "nearest", 2, indexes=(4, 1))
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), enlarge(image[[3, 0]], 2))


def test_run_leaves_the_process_unchanged(lite_model, make_raster, texture, tmp_path):
    import os
    import signal

    before = (
        dict(os.environ), Path.cwd(), torch.get_num_threads(), torch.get_default_dtype(),
        signal.getsignal(signal.SIGINT), torch.is_grad_enabled(),
    )  # fmt: skip
    source = make_raster(texture(3, 20, 20))
    files = {p.name for p in tmp_path.iterdir()}
    super_resolve(source, tmp_path / "o.tif", lite_model, num_threads=2)
    after = (
        dict(os.environ), Path.cwd(), torch.get_num_threads(), torch.get_default_dtype(),
        signal.getsignal(signal.SIGINT), torch.is_grad_enabled(),
    )  # fmt: skip
    assert before == after
    assert {p.name for p in tmp_path.iterdir()} - files == {"o.tif"}


def test_interpolation_models_return_scaled_shapes():
    for name in ("bicubic-x2", "bicubic-x3", "nearest-x4"):
        model = open_model(name)
        s = model.spec.scale
        assert model.network(torch.rand(2, 5, 7, 9)).shape == (2, 5, 7 * s, 9 * s)
        flat = torch.full((1, 1, 7, 9), 0.25)
        torch.testing.assert_close(model.network(flat), torch.full((1, 1, 7 * s, 9 * s), 0.25))

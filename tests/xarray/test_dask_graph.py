"""Chunks are those of one pass, whoever makes them and however source and output are cut."""

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import georsr
from georsr.config import SRConfig
from georsr.errors import ModelError, UsageError
from georsr.inference.model_cache import ModelRef, load_cached, model_ref, threads_of_worker
from georsr.models.io import open_model
from georsr.radiometry.normalization import normalization_of_sample, sample_indices
from georsr.xarray import dask_graph
from georsr.xarray.dask_graph import super_resolve_dask

SMALL = {"tile_size": 32, "halo": 2, "overlap": 4, "blocksize": 32}


def lazily(image, model, *, chunks=(2, 29, 37), sides=(48, 48), nodata=None, **options):
    array = da.from_array(image, chunks=chunks)
    config = SRConfig(**{**SMALL, **options})
    return super_resolve_dask(
        array,
        model,
        config,
        source_nodata=() if nodata is None else (nodata,),
        nodata=nodata,
        sides=sides,
    )


def compute(array, **options):
    return array.compute(scheduler="synchronous", **options)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    chunks=st.tuples(st.integers(1, 3), st.integers(1, 90), st.integers(1, 90)),
    sides=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    halo=st.integers(0, 4),
    overlap=st.integers(0, 6),
    extra=st.integers(0, 12),
    blend=st.sampled_from(["feather", "crop"]),
    dtype=st.sampled_from(["uint8", "int16", "float32"]),
)
@pytest.mark.slow
def test_super_resolve_dask_chunks_equal_one_pass(
    size, chunks, sides, halo, overlap, extra, blend, dtype, lite_file, texture
):
    image = texture(3, *size, dtype)
    tile = 2 * (halo + overlap // 2) + 3 * overlap + 4 + extra
    options = {"tile_size": tile, "halo": halo, "overlap": overlap, "blend": blend}
    model = open_model(lite_file)
    made = lazily(image, model, chunks=chunks, sides=tuple(2 * side for side in sides), **options)
    whole = georsr.super_resolve_array(image, model, **options)
    assert made.shape == whole.shape
    assert made.dtype == whole.dtype
    np.testing.assert_array_equal(compute(made), whole)
    blocks = np.ndindex(made.numblocks)
    for index in list(blocks)[-1:]:  # what is declared of the last chunk is true
        assert compute(made.blocks[index]).shape == made.blocks[index].shape


@pytest.mark.parametrize("axes", [(), (2,), (2, 3)])
def test_super_resolve_dask_scenes_are_independent(axes, texture):
    model = open_model("bicubic", 2)
    count = int(np.prod(axes, dtype=int))
    scenes = [texture(2, 40, 50, "uint16", seed=i) // (i + 1) for i in range(count)]
    stack = np.stack(scenes).reshape(*axes, 2, 40, 50)
    array = da.from_array(stack, chunks=(*axes, 1, 17, 17))
    lazy = super_resolve_dask(array, model, SRConfig(**SMALL), sides=(64, 32))
    assert lazy.chunks[: len(axes)] == tuple((1,) * n for n in axes)
    expected = [georsr.super_resolve_array(scene, model, **SMALL) for scene in scenes]
    np.testing.assert_array_equal(compute(lazy), np.stack(expected).reshape(lazy.shape))


def test_super_resolve_dask_reads_needed_chunks_only(texture):
    image = texture(3, 200, 200)
    seen = []

    def read(block, block_info=None):
        (top, _), (left, _) = block_info[0]["array-location"][1:]
        seen.append((top, left))
        return block

    array = da.from_array(image, chunks=(3, 20, 20)).map_blocks(read, meta=image[:, :0, :0])
    made = super_resolve_dask(array, open_model("bicubic", 2), SRConfig(**SMALL), sides=(80, 80))
    assert seen == []
    part = compute(made[:, :80, 320:])
    whole = georsr.super_resolve_array(image, "bicubic", 2, **SMALL)
    np.testing.assert_array_equal(part, whole[:, :80, 320:])
    assert len(seen) == len(set(seen))
    # rows 0 to 40 and columns 160 to 200 are wanted, and tiles of 32 pixels reach over them
    assert max(top for top, _ in seen) <= 60
    assert min(left for _, left in seen) >= 100


@pytest.mark.parametrize("large", [False, True])
def test_super_resolve_dask_normalization_is_that_of_the_scene(large, texture, monkeypatch):
    """Not the chunk's: values grow from left to right. In large scenes, from a sample."""
    image = (texture(1, 60, 300, "uint16") // 8 + np.arange(300) * 100).astype("uint16")
    if large:
        monkeypatch.setattr(dask_graph, "MAX_DECIMATION", 0)
    made = lazily(image, open_model("bicubic", 2), chunks=(1, 20, 30))
    np.testing.assert_array_equal(
        compute(made), georsr.super_resolve_array(image, "bicubic", 2, **SMALL)
    )


@pytest.mark.parametrize("large", [False, True])
def test_super_resolve_dask_large_scene_is_read_again_for_its_sample(large, texture, monkeypatch):
    """So that its chunks need not wait in memory for their turn in the output."""
    monkeypatch.setattr(dask_graph, "MAX_DECIMATION", 0 if large else 16)
    reads = []

    def read(block):
        reads.append(block.shape)
        return block

    image = texture(1, 60, 300, "uint16")
    array = da.from_array(image, chunks=(1, 20, 30)).map_blocks(read, meta=image[:, :0, :0])
    config = SRConfig(**SMALL)
    compute(super_resolve_dask(array, open_model("bicubic", 2), config, sides=(48, 48)))
    assert len(reads) == (2 if large else 1) * array.npartitions


def test_super_resolve_dask_nodata_and_nan_stay_in_place(lite_file, texture):
    image = texture(3, 50, 60, "float32")
    image[:, 10:20, 30:40] = -9999
    image[0, 40, 5] = np.nan
    model = open_model(lite_file)
    output = compute(lazily(image, model, nodata=-9999.0))
    hole = np.zeros(image.shape, bool)
    hole[:, 10:20, 30:40] = True
    np.testing.assert_array_equal(output == -9999, hole.repeat(2, 1).repeat(2, 2))
    assert np.isnan(output).sum() == 4


def test_super_resolve_dask_swapped_byte_order_gives_the_same(texture):
    image = texture(1, 40, 40, "float32")
    swapped = image.astype(image.dtype.newbyteorder())
    expected = georsr.super_resolve_array(image, "bicubic", 2, **SMALL)
    made = lazily(swapped, open_model("bicubic", 2))
    assert made.dtype.isnative
    np.testing.assert_array_equal(compute(made), expected)
    np.testing.assert_array_equal(
        georsr.super_resolve_array(swapped, "bicubic", 2, **SMALL), expected
    )


def test_super_resolve_dask_keys_depend_on_input_and_options(lite_file, texture):
    image, model = texture(3, 50, 60), open_model(lite_file)
    made = lazily(image, model)
    assert made.name == lazily(image, open_model(lite_file)).name
    assert {*made.dask} == {*lazily(image, model).dask}
    others = [
        lazily(image + 1, model),
        lazily(image, model, sides=(64, 48)),
        lazily(image, model, stretch="0,200"),
        lazily(image, model, overlap=2),
        lazily(image, model, dtype="uint16"),
        lazily(image, model, nodata=0),
        lazily(image, open_model("bicubic", 2)),
    ]
    assert len({made.name, *(other.name for other in others)}) == 1 + len(others)


def test_super_resolve_dask_tasks_hold_the_model_by_name(lite_file, texture):
    """What each task carries stays small."""
    made = lazily(texture(3, 50, 60, "uint16"), open_model(lite_file))
    tasks = {k: t for k, t in dict(made.dask).items() if "georsr" in str(k)}
    assert len(tasks) > 10
    assert max(len(pickle.dumps(task)) for task in tasks.values()) < 4000


# -- schedulers ----------------------------------------------------------------------------------


def test_super_resolve_dask_threads_give_the_same(lite_file, texture):
    image, model = texture(3, 90, 100), open_model(lite_file)
    made = lazily(image, model)
    with dask.config.set(scheduler="threads", num_workers=8):
        np.testing.assert_array_equal(
            made.compute(), georsr.super_resolve_array(image, model, **SMALL)
        )


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")

    def start(processes):
        return distributed.Client(
            n_workers=2 - processes,
            threads_per_worker=2,
            processes=processes,
            dashboard_address=None,
            worker_dashboard_address=None,
        )

    return start


def test_super_resolve_dask_on_a_cluster_of_threads_gives_the_same(cluster, lite_file, texture):
    image, model = texture(3, 60, 70, "uint16"), open_model(lite_file)
    with cluster(processes=False):
        output = lazily(image, model).compute()
    np.testing.assert_array_equal(output, georsr.super_resolve_array(image, model, **SMALL))


@pytest.mark.slow
def test_super_resolve_dask_on_worker_processes_gives_the_same(cluster, lite_file, texture):
    image, model = texture(3, 60, 70, "uint16"), open_model(lite_file)
    whole = georsr.super_resolve_array(image, model, **SMALL)
    with cluster(processes=True) as client:
        np.testing.assert_array_equal(lazily(image, model).compute(), whole)
        kept = da.from_array(image, chunks=30).persist()
        made = super_resolve_dask(kept, model, SRConfig(**SMALL))
        np.testing.assert_array_equal(made.compute(), whole)
        assert set(client.run(threads_of_worker).values()) <= {None, 2}


# -- models --------------------------------------------------------------------------------------


def test_model_ref_holds_an_absolute_name(lite_file, monkeypatch, tmp_path):
    assert model_ref(open_model("bicubic", 2)).name == "bicubic-x2"
    assert model_ref(open_model("segsr-lite-x2")).name == "segsr-lite-x2"
    monkeypatch.chdir(tmp_path)
    reference = model_ref(open_model("tiny-x2.safetensors"))
    assert reference == ModelRef(lite_file, open_model(lite_file).sha256)


def test_super_resolve_dask_model_in_memory_is_refused(lite_model, texture):
    with pytest.raises(UsageError, match=r"tiny-x2 exists in memory only.*save_model"):
        lazily(texture(3, 40, 40), lite_model)


def test_load_cached_other_weights_raises_model_error(lite_file):
    with pytest.raises(ModelError, match=r"checksum [0-9a-f]{12} here, expected 000000000000"):
        load_cached(ModelRef(lite_file, "0" * 64))


def test_super_resolve_dask_leaves_thread_counts_unchanged(lite_file, texture):
    import torch

    threads = torch.get_num_threads()
    compute(lazily(texture(3, 40, 40), open_model(lite_file), num_threads=2))
    assert torch.get_num_threads() == threads


def test_super_resolve_dask_sample_of_a_large_array_equals_its_file(monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60_000, (1, 4200, 4100)).astype("uint16")
    array = da.from_array(image, chunks=(1, 1000, 1000))
    samples = []

    def note(values, valid, mode):
        samples.append(values)
        return normalization_of_sample(values, valid, mode)

    monkeypatch.setattr(dask_graph, "normalization_of_sample", note)
    lazy = super_resolve_dask(array, open_model("nearest", 2), SRConfig())
    compute(lazy[:, :1, :1])
    rows, columns = sample_indices(4200, 4100)
    assert len(rows) * len(columns) == 2**20
    np.testing.assert_array_equal(samples[0], image[:, rows][:, :, columns])

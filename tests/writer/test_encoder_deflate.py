"""Tiles encoded by ISA-L are what GDAL would have made, before compression, and reads back."""

import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from georsr.io.reader import open_raster
from georsr.writer import encoder
from georsr.writer.encoder import BlockEncoder, crc32, make_encoder, tile_tables
from georsr.writer.layout import output_layout
from georsr.writer.resumable_tiff import PartialTiff
from georsr.writer.verify_and_publish import verify_output
from tests.rasters import make_raster, ramp

DTYPES = ["uint8", "int16", "uint16", "int32", "uint32", "float32"]


def layout_of(tmp_path, dtype="uint8", bands=3, masked=False, **options):
    size = 80, 100  # times 2, in blocks of 128: cut on the right and at the bottom
    mask = np.full(size, 255, "uint8") if masked else None
    if masked:
        mask[10:40, 16:] = 0
    path = make_raster(tmp_path / "a.tif", ramp(bands, *size, dtype=dtype), mask=mask)
    with open_raster(path) as reader:
        return output_layout(reader.info, 2, blocksize=128, creation_options=options)


def pixels_of(layout):
    rng = np.random.default_rng(3)
    dtype, shape = np.dtype(layout.dtype), (layout.count, layout.height, layout.width)
    if dtype.kind == "f":
        values = rng.normal(0, 1e3, shape).astype(dtype)
        values[0, 5, 5:9] = np.nan, -np.inf, -0.0, 1e-42
    else:
        ends = np.iinfo(dtype)
        values = rng.integers(ends.min, ends.max, shape, dtype, endpoint=True)
    mask = (rng.random(shape[1:]) < 0.5).astype("uint8") * 255 if layout.mask else None
    return values, mask


def blocks_of(layout, values, mask):
    encode = BlockEncoder(layout)
    for row, column, window in layout.blocks():
        here = np.ascontiguousarray(values[(slice(None), *window.slices)])
        shade = None if mask is None else np.ascontiguousarray(mask[window.slices])
        yield row, column, here, shade, encode(here, shade)


@pytest.mark.parametrize("interleave", ["PIXEL", "BAND"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_encoder_output_is_read_by_gdal(tmp_path, dtype, masked, interleave):
    layout = layout_of(tmp_path, dtype, masked=masked, INTERLEAVE=interleave)
    assert make_encoder(layout) is not None
    assert layout.mask is masked
    values, mask = pixels_of(layout)
    part = PartialTiff.create(tmp_path / "p.tif", layout)
    for row, column, _, _, block in blocks_of(layout, values, mask):
        part.append(row, column, block)
    part.finalize()
    verify_output(tmp_path / "p.tif", "p.tif", layout, part.checksums)
    with rasterio.open(tmp_path / "p.tif") as output:
        assert output.read().tobytes() == values.tobytes(), "NaN and -0.0 included"
        if mask is not None:
            np.testing.assert_array_equal(output.dataset_mask(), mask)


PREDICTORS = [*((dtype, p) for dtype in DTYPES for p in "12"), ("float32", "3")]


@pytest.mark.parametrize(("dtype", "predictor"), PREDICTORS)
def test_encoder_uncompressed_tile_equals_that_of_gdal(tmp_path, dtype, predictor):
    layout = layout_of(tmp_path, dtype, PREDICTOR=predictor)
    values, _ = pixels_of(layout)
    whole = np.ascontiguousarray(values[:, :128, :128])
    profile = layout.profile() | {"width": 128, "height": 128}
    with MemoryFile(ext=".tif") as memory:
        with memory.open(**profile) as dataset:
            dataset.write(whole)
        memory.seek(0)
        (table,) = tile_tables(memory)
        (start,), (length,) = table.offsets.read(memory), table.sizes.read(memory)
        memory.seek(int(start))
        theirs = zlib.decompress(memory.read(int(length)))
    (ours,) = make_encoder(layout)(whole, None)
    assert zlib.decompress(ours) == theirs


@pytest.mark.parametrize(
    "options",
    [
        {"COMPRESS": "LZW"},
        {"COMPRESS": "NONE"},
        {"ZLEVEL": "6"},
        {"ENDIANNESS": "BIG"},
        {"SPARSE_OK": "TRUE"},
        {"DISCARD_LSB": "2"},
    ],
    ids=str,
)
def test_make_encoder_other_options_are_left_to_gdal(tmp_path, options):
    assert make_encoder(layout_of(tmp_path, **options)) is None


def test_make_encoder_8_byte_types_are_left_to_gdal(tmp_path):
    assert make_encoder(layout_of(tmp_path, "float64")) is None


def test_encoder_without_isal_gives_readable_blocks(tmp_path, monkeypatch):
    layout = layout_of(tmp_path, masked=True)
    values, mask = pixels_of(layout)
    ours = [block for *_, block in blocks_of(layout, values, mask)]
    monkeypatch.setattr(encoder, "INSTALLED", False)
    theirs = [block for *_, block in blocks_of(layout, values, mask)]
    assert [b.checksum for b in ours] == [b.checksum for b in theirs]
    part = PartialTiff.create(tmp_path / "mixed.tif", layout)
    places = [(row, column) for row, column, _ in layout.blocks()]
    for i, place in enumerate(places):  # begun on one machine, finished on another
        part.append(*place, (ours, theirs)[i % 2][i])
    part.finalize()
    verify_output(tmp_path / "mixed.tif", "mixed.tif", layout, part.checksums)


@pytest.mark.parametrize("blocksize", [16, 32, 96, 128])
def test_encoder_bytes_depend_on_pixels_only(tmp_path, blocksize):
    """Whatever other threads encode at the same time, and have left in memory."""
    mask = np.full((200, 180), 255, "uint8")
    mask[30:90, 20:] = 0
    path = make_raster(tmp_path / "m.tif", np.zeros((3, 200, 180), "uint8"), mask=mask)
    with open_raster(path) as reader:
        layout = output_layout(reader.info, 2, blocksize=blocksize)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, (3, 1, layout.width), np.uint8).repeat(layout.height, 1)
    edges = np.add.outer(np.arange(layout.height), np.arange(layout.width)) % 23 < 11
    values, mask = rows + edges, edges.astype("uint8") * 255
    encode = make_encoder(layout)
    blocks = [
        (np.ascontiguousarray(values[(slice(None), *w.slices)]), mask[w.slices].copy())
        for _, _, w in layout.blocks()
    ]
    alone = [encode(*block) for block in blocks]
    with ThreadPoolExecutor(4) as threads:
        for seed in range(6):
            order = np.random.default_rng(seed).permutation(len(blocks)).tolist()
            made = list(threads.map(lambda i: encode(*blocks[i]), order))
            assert made == [alone[i] for i in order]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_encoder_constant_block_is_small(tmp_path, dtype):
    source = make_raster(tmp_path / "a.tif", ramp(3, 300, 300, dtype=dtype))
    with open_raster(source) as reader:
        layout = output_layout(reader.info, 2, blocksize=512)
    one = np.array([0, 7, 9], dtype)[:, None, None]
    view = np.broadcast_to(one, (3, 512, 512))
    first, second = BlockEncoder(layout)(view, None), BlockEncoder(layout)(view.copy(), None)
    assert first == second
    nothing = BlockEncoder(layout)(np.zeros_like(view), None)
    assert sum(map(len, nothing.tiles)) < view.nbytes // 900, "ISA-L: a three hundredth"
    part = PartialTiff.create(tmp_path / "out.tif", layout)
    for row, column, window in layout.blocks():
        here = np.broadcast_to(one, (3, window.height, window.width))
        part.append(row, column, BlockEncoder(layout)(here, None))
    part.finalize()
    verify_output(tmp_path / "out.tif", "out.tif", layout, part.checksums)
    with rasterio.open(tmp_path / "out.tif") as output:
        assert (output.read() == one).all()


def test_crc32_equals_that_of_zlib():
    data = np.random.default_rng(0).bytes(1000)
    assert crc32(data) == zlib.crc32(data)
    assert crc32(data[500:], crc32(data[:500])) == zlib.crc32(data)

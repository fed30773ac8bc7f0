"""Blocks encoded one by one, appended, cut off, and made a TIFF again."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from georsr.errors import OutputError
from georsr.io.gdal_env import gdal_env, suppress_rasterio_warnings
from georsr.io.reader import open_raster
from georsr.writer.encoder import CACHE_SIZE, BlockEncoder, block_checksum, tile_tables
from georsr.writer.layout import output_layout
from georsr.writer.resumable_tiff import PartialTiff
from georsr.writer.verify_and_publish import to_rasterio_window, verify_output
from tests.rasters import make_raster, ramp


def layout_of(path, scale=2, **options):
    with open_raster(path) as reader:
        return output_layout(reader.info, scale, **{"blocksize": 32, **options})


@pytest.fixture
def masked(tmp_path):
    mask = np.full((40, 50), 255, "uint8")
    mask[3:20, 30:] = 0
    return make_raster(tmp_path / "masked.tif", ramp(), mask=mask)


def data_of(layout, seed=0):
    rng = np.random.default_rng(seed)
    shape = layout.count, layout.height, layout.width
    data = rng.integers(0, 200, shape).astype(layout.dtype)
    data[:, :64, :64] = 0  # some blocks of one value
    mask = (rng.random(shape[1:]) < 0.5).astype("uint8") * 255 if layout.mask else None
    return data, mask


def encoded(layout, data, mask):
    encode = BlockEncoder(layout)
    for row, column, window in layout.blocks():
        here = window.slices
        values = np.ascontiguousarray(data[(slice(None), *here)])
        yield row, column, encode(values, None if mask is None else mask[here])


OPTIONS = {
    "default": {},
    "by GDAL": {"ZLEVEL": "6"},
    "none": {"COMPRESS": "NONE"},
    "lzw": {"COMPRESS": "LZW"},
    "zstd": {"COMPRESS": "ZSTD"},
    "lzma": {"COMPRESS": "LZMA"},
    "packbits": {"COMPRESS": "PACKBITS"},
    "lerc": {"COMPRESS": "LERC_ZSTD"},
    "webp lossless": {"COMPRESS": "WEBP", "WEBP_LOSSLESS": "YES"},
    "big": {"BIGTIFF": "YES"},
    "bands apart": {"INTERLEAVE": "BAND"},
    "sparse": {"SPARSE_OK": "TRUE"},
    "big-endian": {"ENDIANNESS": "BIG"},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["plain", "mask"])
def test_part_file_of_encoded_blocks_is_a_tiff(tmp_path, rgb, masked, name, kind):
    layout = layout_of(rgb if kind == "plain" else masked, creation_options=OPTIONS[name])
    assert layout.mask is (kind == "mask")
    data, mask = data_of(layout)
    part = PartialTiff.create(tmp_path / "p.tif", layout)
    for row, column, block in encoded(layout, data, mask):
        part.append(row, column, block)
    assert part.done.all()
    part.finalize()
    verify_output(tmp_path / "p.tif", "p.tif", layout, part.checksums)
    with rasterio.open(tmp_path / "p.tif") as output:
        np.testing.assert_array_equal(output.read(), data)
        assert output.profile["tiled"]
        assert output.profile["interleave"] == ("band" if name == "bands apart" else "pixel")
        if mask is not None:
            np.testing.assert_array_equal(output.dataset_mask(), mask)


def test_block_encoder_gives_the_bytes_of_gdal(tmp_path, masked):
    """Lossy JPEG would show any difference in tables or padding at once."""
    for options in ({"COMPRESS": "JPEG", "PHOTOMETRIC": "YCBCR"}, {"ZLEVEL": "6"}):
        layout = layout_of(masked, creation_options=options)
        data, mask = data_of(layout)
        path, env = tmp_path / "gdal.tif", gdal_env(writing=True)
        with (
            env,
            suppress_rasterio_warnings(),
            rasterio.open(path, "w", **layout.profile()) as dataset,
        ):
            for _, _, window in layout.blocks():
                dataset.write(
                    data[(slice(None), *window.slices)], window=to_rasterio_window(window)
                )
                dataset.write_mask(mask[window.slices], window=to_rasterio_window(window))
        theirs = stored_tiles(path.read_bytes())
        ours = [block.tiles for _, _, block in encoded(layout, data, mask)]
        assert [pieces[0] for pieces in ours] == theirs[0]
        assert [pieces[1] for pieces in ours] == theirs[1]


def stored_tiles(content):
    file = io.BytesIO(content)
    return [
        [
            content[offset : offset + size]
            for offset, size in zip(
                table.offsets.read(file).tolist(), table.sizes.read(file).tolist(), strict=True
            )
        ]
        for table in tile_tables(file)
    ]


@pytest.mark.parametrize("sealed", [False, True])
def test_part_file_truncated_anywhere_completes_to_the_same_bytes(tmp_path, masked, sealed):
    layout = layout_of(masked)
    data, mask = data_of(layout)
    blocks = list(encoded(layout, data, mask))

    def work(path, part, blocks):
        done = [part.append(*block) for block in blocks]
        part.sync()
        return done

    whole = PartialTiff.create(tmp_path / "whole.tif", layout)
    start = whole.header
    finished = work(tmp_path / "whole.tif", whole, blocks)
    whole.finalize()
    expected = (tmp_path / "whole.tif").read_bytes()
    for known in range(len(blocks) + 1):
        path = tmp_path / "cut.tif"
        part = PartialTiff.create(path, layout)
        work(path, part, blocks[: known + 2])  # more than is known of, and half a block of junk
        if sealed and known + 2 >= len(blocks):
            part.finalize()  # killed between sealing and publishing
        part.close()
        with path.open("ab") as file:
            file.write(b"junk" * 99)
        again = PartialTiff.reopen(path, layout, start, finished[:known])
        assert again.done.sum() == known
        work(path, again, blocks[known:])
        again.finalize()
        assert path.read_bytes() == expected
        np.testing.assert_array_equal(again.checksums, whole.checksums)


def test_part_file_misfitting_records_are_refused(tmp_path, rgb, masked):
    layout = layout_of(rgb)
    path = tmp_path / "p.tif"
    part = PartialTiff.create(path, layout)
    start = part.header
    finished = [part.append(*block) for block in encoded(layout, *data_of(layout))]
    part.close()
    with path.open("r+b") as file:
        file.truncate(part.end - 1)
    short = PartialTiff.reopen(path, layout, start, finished)
    short.close()
    assert (~short.done).sum() == 1
    with pytest.raises(ValueError, match="another header"):
        PartialTiff.reopen(path, layout_of(masked), start, [])
    other = PartialTiff.create(tmp_path / "other.tif", layout_of(rgb, blocksize=64))
    other.close()
    with pytest.raises(ValueError, match="no such block"):
        PartialTiff.reopen(
            tmp_path / "other.tif", layout_of(rgb, blocksize=64), other.header, finished
        )
    path.write_bytes(b"II*")
    nothing = PartialTiff.reopen(path, layout, start, finished)
    nothing.close()
    assert not nothing.done.any()
    with pytest.raises(FileNotFoundError):
        PartialTiff.reopen(tmp_path / "none.tif", layout, start, [])


def test_part_file_beyond_4_gib_names_bigtiff(tmp_path, rgb):
    layout = layout_of(rgb)
    part = PartialTiff.create(tmp_path / "p.tif", layout)
    row, column, block = next(encoded(layout, *data_of(layout)))
    part.end = 2**32
    with pytest.raises(OutputError, match="BIGTIFF"):
        part.append(row, column, block)
    part.close()


def test_block_encoder_constant_blocks_are_cached(rgb):
    encode = BlockEncoder(layout_of(rgb))
    blank = np.zeros((3, 32, 32), "uint8")
    first = encode(blank, None)
    assert encode(blank.copy(), None) is first
    other = blank.copy()
    other[2, 17, 31] = 1
    assert encode(other, None) != first
    assert encode(blank[:, :8], None) != first
    for value in range(2 * CACHE_SIZE):
        encode(blank + np.uint8(value), None)
    again = encode(blank, None)
    assert again == first
    assert again is not first  # the cache keeps a limited number


def test_block_encoder_cache_compares_bits(tmp_path):
    source = make_raster(tmp_path / "f.tif", ramp(1, dtype="float32"))
    encode = BlockEncoder(layout_of(source))
    nan = np.full((1, 32, 32), np.nan, "float32")
    assert encode(nan, None) is encode(nan.copy(), None)
    zero = np.zeros((1, 32, 32), "float32")
    assert encode(zero, None).checksum != encode(-zero, None).checksum


def test_block_encoder_in_threads_gives_the_same_blocks(masked):
    layout = layout_of(masked)
    data, mask = data_of(layout)
    encode = BlockEncoder(layout)

    def one(block):
        here = block[2].slices
        return encode(np.ascontiguousarray(data[(slice(None), *here)]), mask[here])

    with ThreadPoolExecutor(4) as threads, warnings.catch_warnings():
        warnings.simplefilter("error")
        many = list(threads.map(one, [*layout.blocks()] * 5))
    alone = [block for _, _, block in encoded(layout, data, mask)]
    assert many == alone * 5
    assert alone[0].checksum == block_checksum(data[:, :32, :32], mask[:32, :32])


def test_tile_tables_of_another_file_raises():
    for content in (b"", b"II", b"II*\0", b"II\x2c\0\x08\0\0\0", b"GIF89a" * 9):
        with pytest.raises(ValueError, match="TIFF"):
            tile_tables(io.BytesIO(content))
    strips = {"driver": "GTiff", "width": 9, "height": 9, "count": 1, "dtype": "uint8"}
    with MemoryFile() as memory, suppress_rasterio_warnings():
        with memory.open(**strips) as dataset:
            dataset.write(np.ones((1, 9, 9), "uint8"))
        assert tile_tables(io.BytesIO(memory.getbuffer())) == []

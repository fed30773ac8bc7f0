from pathlib import Path

import numpy as np
import pytest
import rasterio

from georsr.errors import OutputError
from georsr.io.reader import open_raster
from georsr.writer.encoder import block_checksum
from georsr.writer.layout import output_layout
from georsr.writer.resumable_tiff import PartialTiff
from georsr.writer.verify_and_publish import verify_output
from georsr.writer.writer import RasterWriter
from tests.rasters import make_raster


@pytest.fixture
def layout(tmp_path):
    source = make_raster(tmp_path / "in.tif", np.ones((3, 96, 80), "uint8"), nodata=0)
    with open_raster(source) as reader:
        return output_layout(reader.info, 2, blocksize=32)


@pytest.fixture
def values(layout):
    """Twelve of the thirty blocks have pixels, the others none."""
    values = np.zeros((3, layout.height, layout.width), "uint8")
    rng = np.random.default_rng(0)
    values[:, 40:100, 10:110] = rng.integers(1, 255, (3, 60, 100))
    return values


def write(path, layout, values):
    with RasterWriter(path, layout) as writer:
        for _, _, window in layout.blocks():
            writer.write(window, values[(slice(None), *window.slices)])
        writer.commit()


def offsets(path, interleave):
    with rasterio.open(path) as src:
        bands = src.indexes if interleave == "band" else [1]
        return {
            (row, column): int(src.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=b))
            for b in bands
            for row in range(6)
            for column in range(5)
        }


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_verify_output_identical_blocks_are_decoded_once(
    tmp_path, layout, values, monkeypatch, interleave
):
    decoded = []
    read = rasterio.io.DatasetReader.read
    monkeypatch.setattr(
        rasterio.io.DatasetReader,
        "read",
        lambda self, *args, window=None, **kw: (
            decoded.append(window),
            read(self, *args, window=window, **kw),
        )[1],
    )
    with open_raster(str(tmp_path / "in.tif")) as reader:
        layout = output_layout(
            reader.info, 2, blocksize=32, creation_options={"interleave": interleave}
        )
    write(tmp_path / "out.tif", layout, values)
    assert layout.blocks_count == 30
    assert len(decoded) == 12 + 1
    monkeypatch.undo()
    with rasterio.open(tmp_path / "out.tif") as src:
        np.testing.assert_array_equal(src.read(), values)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("block", [(5, 4), (0, 0), (2, 2)])
def test_verify_output_damaged_block_is_refused(
    tmp_path, layout, values, monkeypatch, block, interleave
):
    with open_raster(str(tmp_path / "in.tif")) as reader:
        layout = output_layout(
            reader.info, 2, blocksize=32, creation_options={"interleave": interleave}
        )
    seal = PartialTiff.finalize

    def spoil(part):
        seal(part)
        start = offsets(part.path, interleave)[block]
        with Path(part.path).open("r+b") as file:
            file.seek(start + 4)
            byte = file.read(1)
            file.seek(start + 4)
            file.write(bytes([byte[0] ^ 8]))

    monkeypatch.setattr(PartialTiff, "finalize", spoil)
    with pytest.raises(OutputError, match="read back"):
        write(tmp_path / "out.tif", layout, values)
    assert not (tmp_path / "out.tif").exists()


def test_verify_output_edge_block_with_bytes_of_a_full_one_is_accepted(tmp_path):
    """Their tiles hold the same bytes, of which the edge shows fewer."""
    source = make_raster(tmp_path / "edge.tif", np.zeros((1, 40, 40), "uint8"))
    with open_raster(source) as reader:
        layout = output_layout(reader.info, 1, blocksize=32)
    write(tmp_path / "out.tif", layout, np.zeros((1, 40, 40), "uint8"))
    with rasterio.open(tmp_path / "out.tif") as src:
        assert src.shape == (40, 40)
        assert not src.read().any()


def test_verify_output_truncated_file_is_refused(tmp_path, layout, values):
    write(tmp_path / "out.tif", layout, values)
    whole = (tmp_path / "out.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    sums = np.zeros((6, 5), "uint32")
    for row, column, window in layout.blocks():
        sums[row, column] = block_checksum(values[(slice(None), *window.slices)], None)
    verify_output(tmp_path / "out.tif", "out.tif", layout, sums)
    with pytest.raises(OutputError, match="could not be read back"):
        verify_output(tmp_path / "cut.tif", "cut.tif", layout, sums)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from georsr.tiling.grid import make_grid
from georsr.tiling.stitch import (
    BUFFER_BYTES,
    BlockAssembler,
    TileStitcher,
    blend,
    pad_to,
    raised_cosine,
)


def enlarge(image, s):
    return image.repeat(s, -2).repeat(s, -1)


def assembler(tile_grid, planes, dtype, block):
    return BlockAssembler(tile_grid.out_height, tile_grid.out_width, planes, np.dtype(dtype), block)


def join(tile_grid, image, block, change=lambda tile, values: values):
    """Run a nearest-neighbour model through stitcher and assembler; return the joined output."""
    s = tile_grid.scale
    stitcher = TileStitcher(tile_grid, image.shape[0])
    blocks = assembler(tile_grid, image.shape[0], np.float32, block)
    output = np.full(
        (image.shape[0], tile_grid.out_height, tile_grid.out_width), np.nan, np.float32
    )
    for tile in tile_grid:
        made = tile.output_window
        values = enlarge(image[(slice(None), *made.slices)], s).astype(np.float32)
        for window, pixels in blocks.add(*stitcher.add(tile, change(tile, values))):
            assert window.top % block == 0
            assert window.left % block == 0
            assert np.isnan(output[(slice(None), *window.slices)]).all(), "written twice"
            output[(slice(None), *window.slices)] = pixels
    assert blocks.n_incomplete == 0
    return output


edge_sizes = [1, 2, 3, 31, 37, 39, 40, 41, 79, 80, 81, 97]


@settings(max_examples=60, deadline=None)
@given(
    height=st.sampled_from(edge_sizes),
    width=st.sampled_from(edge_sizes),
    scale=st.integers(1, 4),
    halo=st.integers(0, 4),
    overlap=st.integers(0, 8),
    block=st.sampled_from([16, 48]),
)
def test_stitched_identity_tiles_equal_the_image(height, width, scale, halo, overlap, block):
    tile_grid = make_grid(height, width, scale=scale, tile=40, halo=halo, overlap=overlap)
    image = np.random.default_rng(0).random((2, height, width), np.float32) * 1000
    np.testing.assert_array_equal(join(tile_grid, image, block), enlarge(image, scale))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 254.99998, -1e7, 1e-30])
def test_stitched_constant_tiles_are_constant(value):
    tile_grid = make_grid(90, 131, scale=3, tile=40, halo=3, overlap=7)
    image = np.full((1, 90, 131), value, np.float32)
    assert (join(tile_grid, image, 32) == np.float32(value)).all()


def test_stitched_disagreeing_tiles_are_blended():
    """With tiles that disagree by one, the step is spread over the overlap, edges untouched."""
    tile_grid = make_grid(40, 100, scale=2, tile=40, halo=2, overlap=8)
    image = np.zeros((1, 40, 100), np.float32)
    output = join(tile_grid, image, 16, lambda tile, v: v + tile.column)[0, 0]
    assert output[0] == 0
    assert output[-1] == len(tile_grid.columns) - 1
    steps = np.diff(output)
    assert steps.min() >= 0
    assert steps.max() < 0.15
    corner = join(tile_grid, image, 16, lambda tile, v: v + 5)
    assert (corner == 5).all()


def test_stitcher_holds_one_row_of_blocks():
    tile_grid = make_grid(400, 200, scale=2, tile=40, halo=2, overlap=4)
    stitcher, blocks = TileStitcher(tile_grid, 1), assembler(tile_grid, 1, np.uint8, 32)
    most = 0
    for tile in tile_grid:
        made = tile.output_window
        values = np.zeros((1, made.height * 2, made.width * 2), np.float32)
        window, stitched = stitcher.add(tile, values)
        list(blocks.add(window, stitched.astype(np.uint8)))
        most = max(most, blocks.n_incomplete)
    across = -(-400 // 32)
    assert most <= across + 3


@pytest.mark.parametrize("block", [16, 128, 512])  # many to a slab, a few, and larger than one
def test_block_assembler_blocks_do_not_share_memory(block):
    tile_grid = make_grid(140, 190, scale=4, tile=40, halo=2, overlap=4)
    image = np.random.default_rng(0).random((2, 140, 190), np.float32)
    stitcher, blocks = TileStitcher(tile_grid, 2), assembler(tile_grid, 2, np.float32, block)
    taken = []
    for tile in tile_grid:
        values = enlarge(image[(slice(None), *tile.output_window.slices)], 4)
        taken += blocks.add(*stitcher.add(tile, values))
    assert (2 * 4 * block**2 > BUFFER_BYTES) == (block == 512)
    output = enlarge(image, 4)
    for window, pixels in taken:  # only now: later ones were made in other memory
        np.testing.assert_array_equal(pixels, output[(slice(None), *window.slices)])
        pixels[:] = np.nan
    assert sum(window.height * window.width for window, _ in taken) == output[0].size


EMPTY = 7.0


def join_sparse(tile_grid, image, block):
    """As ``join``, of an image whose invalid pixels are EMPTY; also how many blocks are views."""
    s = tile_grid.scale
    output = enlarge(image, s)

    def finish(values, window):
        if values is None:
            shape = image.shape[0], window.height, window.width
            return np.broadcast_to(np.float32(EMPTY), shape)
        there = output[(slice(None), *window.slices)]
        return np.where(there == EMPTY, np.float32(EMPTY), values)

    stitcher = TileStitcher(tile_grid, image.shape[0])
    blocks = assembler(tile_grid, image.shape[0], np.float32, block)
    joined, views = np.full_like(output, np.nan), 0
    for tile in tile_grid:
        made = image[(slice(None), *tile.output_window.slices)]
        values = None if (made == EMPTY).all() else enlarge(made, s)
        part, stitched = stitcher.add(tile, values)
        for window, pixels in blocks.add(part, finish(stitched, part)):
            joined[(slice(None), *window.slices)] = pixels
            views += pixels.strides[1:] == (0, 0)
            assert pixels.flags.writeable != (pixels.strides[1:] == (0, 0))
    return joined, output, views


@pytest.mark.parametrize("block", [16, 48, 512])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_block_assembler_constant_blocks_hold_one_pixel(share, block):
    rng = np.random.default_rng(5)
    patches = rng.random((1, 25, 24)) < share  # of 10 x 10 pixels that are not empty
    image = rng.random((2, 250, 240), np.float32)
    image[:, ~enlarge(patches, 10)[0]] = EMPTY
    tile_grid = make_grid(250, 240, scale=2, tile=40, halo=3, overlap=6)
    joined, output, views = join_sparse(tile_grid, image, block)
    np.testing.assert_array_equal(joined, output)
    blocks = (-(-500 // block)) * (-(-480 // block))
    assert (views == blocks) if share == 0 else (views < blocks)


def test_block_assembler_empty_blocks_take_no_memory():
    tile_grid = make_grid(60, 5000, scale=4, tile=40, halo=2, overlap=4)
    stitcher, blocks = TileStitcher(tile_grid, 3), assembler(tile_grid, 3, np.uint8, 256)
    nothing = np.zeros((3, 1, 1), np.uint8)
    for tile in tile_grid:
        window, _ = stitcher.add(tile, None)
        shape = (3, max(0, window.height), max(0, window.width))
        list(blocks.add(window, np.broadcast_to(nothing, shape)))
        assert blocks.buffer_bytes == 1, "no buffer was allocated"


def test_raised_cosine_is_symmetric_and_between_0_and_1():
    for n in (1, 2, 7, 32):
        weights = raised_cosine(n)
        np.testing.assert_allclose(weights + weights[::-1], 1, atol=1e-6)
        assert (weights > 0).all()
        assert (weights < 1).all()
        assert (np.diff(weights) > 0).all()
    assert raised_cosine(0).shape == (0,)


def test_blend_of_equal_tiles_is_exact():
    a = np.random.default_rng(1).random((2, 5, 9), np.float32)
    np.testing.assert_array_equal(blend(a, a.copy(), raised_cosine(9)), a)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (1, 2, 5), (3, 7, 8)])
def test_pad_to_reflects_and_keeps_the_image(shape):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    padded = pad_to(image, 16, 17)
    assert padded.shape == (shape[0], 16, 17)
    np.testing.assert_array_equal(padded[:, : shape[1], : shape[2]], image)
    assert set(np.unique(padded)) <= set(np.unique(image))
    if shape[1] > 2:
        np.testing.assert_array_equal(padded[:, shape[1], 0], image[:, shape[1] - 2, 0])

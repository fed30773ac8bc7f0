import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from georsr.errors import UsageError
from georsr.tiling.grid import axis_spans, make_grid
from georsr.tiling.stitch import BlockAssembler, TileStitcher
from georsr.window import Window

sizes = st.one_of(st.integers(1, 70), st.sampled_from([97, 127, 128, 129, 255, 256, 257]))


@st.composite
def axes(draw):
    multiple = draw(st.sampled_from([1, 2, 8]))
    halo = draw(st.integers(0, 6))
    overlap = draw(st.integers(0, 6))
    if multiple > 1:
        overlap = -2 * halo % multiple + multiple * draw(st.integers(0, 1))
    smallest = 2 * halo + max(3 * overlap, 1)
    tile = -(-(smallest + draw(st.integers(0, 40))) // multiple) * multiple
    return draw(sizes), tile, halo, overlap, multiple


@given(axes())
def test_axis_spans_output_partitions_the_axis(axis):
    length, _, halo, overlap, multiple = axis
    spans = axis_spans(*axis)
    owners = [0] * length
    for k, span in enumerate(spans):
        assert span.start % multiple == 0
        assert span.size % multiple == 0
        assert span.start <= span.out_start < span.out_stop <= span.start + span.size
        assert span.overlap_before + span.overlap_after <= span.out_stop - span.out_start
        for i in range(span.out_start + span.overlap_before, span.out_stop - span.overlap_after):
            owners[i] += 1
        if k:
            before = spans[k - 1]
            assert (
                before.out_stop - span.out_start
                == span.overlap_before
                == before.overlap_after
                == overlap
            )
            # nothing of a tile's frame is used where a neighbour covers it
            assert span.out_start - span.start >= halo
            assert before.start + before.size - before.out_stop >= halo
            for i in range(span.out_start, before.out_stop):
                owners[i] += 1
    assert owners == [1] * length
    assert spans[0].out_start == 0
    assert spans[-1].out_stop == length


@given(axes())
def test_axis_spans_end_within_one_multiple_of_the_edge(axis):
    length, tile, _, _, multiple = axis
    last = axis_spans(*axis)[-1]
    assert last.start + last.size - length < multiple
    if length > tile:
        assert last.size == tile


def test_axis_spans_do_not_depend_on_the_length():
    small = axis_spans(500, 128, 8, 8, 1)
    large = axis_spans(5000, 128, 8, 8, 1)
    assert small[:-2] == large[: len(small) - 2]


@pytest.mark.parametrize(
    ("tile", "multiple", "message"),
    [(20, 1, "at least 40"), (100, 16, "use 112"), (128, 16, "not a multiple of 16")],
)
def test_make_grid_impossible_tile_is_refused(tile, multiple, message):
    with pytest.raises(UsageError, match=message):
        make_grid(
            300, 300, scale=2, tile=tile, halo=8, overlap=8 + (tile == 128), multiple_of=multiple
        )


def test_make_grid_of_an_empty_raster_is_refused():
    with pytest.raises(UsageError, match="has no pixels"):
        make_grid(0, 5, scale=2, tile=16, halo=0, overlap=0)


def test_row_window_lies_inside_the_image():
    tile_grid = make_grid(300, 77, scale=2, tile=64, halo=4, overlap=8, multiple_of=16)
    for row in range(len(tile_grid.rows)):
        strip = tile_grid.row_window(row)
        assert 0 <= strip.top < strip.bottom <= 300
        assert (strip.left, strip.width) == (0, 77)
    assert len(list(tile_grid)) == len(tile_grid) == len(tile_grid.rows) * len(tile_grid.columns)
    assert [tile.index for tile in tile_grid] == list(range(len(tile_grid)))


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("overlap", [0, 4])
def test_subgrid_gives_the_pixels_of_the_grid(scale, overlap):
    """Every pixel of the part is made of the same tiles with the same weights."""
    height, width = 97, 130
    tile_grid = make_grid(height, width, scale=scale, tile=32, halo=3, overlap=overlap)
    rng = np.random.default_rng(0)
    scene = rng.random((1, height * scale, width * scale), dtype=np.float32)

    def blocks(tile_grid, down, right, top=0):
        stitcher = TileStitcher(tile_grid, 1)
        size = (tile_grid.out_height, tile_grid.out_width)
        collected = BlockAssembler(*size, 1, np.dtype("float32"), 16, top)
        output = np.full((1, tile_grid.out_height, tile_grid.out_width), np.nan, np.float32)
        for row in range(tile_grid.first_row_for(top), len(tile_grid.rows)):
            for tile in tile_grid.tiles_in_row(row):
                read = tile.input_window.moved(down, right)  # in the whole image
                rows, columns = tile.output_window.moved(down, right).scaled(scale).slices
                # each tile has its own opinion, as networks do
                opinion = np.float32(hash((read.top, read.left)) % 97)
                pixels = scene[:, rows, columns] + opinion
                for window, values in collected.add(*stitcher.add(tile, pixels)):
                    output[(slice(None), *window.slices)] = values
        assert collected.n_incomplete == 0
        return output

    whole = blocks(tile_grid, 0, 0)
    for _ in range(40):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        h, w = 1 + int(rng.integers(height - top)), 1 + int(rng.integers(width - left))
        part = tile_grid.subgrid(Window(top, left, h, w))
        assert len(part) <= len(tile_grid)
        strips = [part.row_window(row).moved(top, left) for row in range(len(part.rows))]
        assert all(s.top >= 0 and s.left >= 0 and s.bottom <= height and s.right <= width
                   for s in strips)  # fmt: skip
        expected = whole[(slice(None), *Window(top, left, h, w).scaled(scale).slices)]
        np.testing.assert_array_equal(blocks(part, top, left), expected)
        later = part.out_height // 2 // 16 * 16
        np.testing.assert_array_equal(
            blocks(part, top, left, later)[:, later:], expected[:, later:]
        )


def test_subgrid_of_the_full_window_is_the_grid():
    tile_grid = make_grid(97, 130, scale=2, tile=32, halo=3, overlap=4)
    part = tile_grid.subgrid(Window(0, 0, 97, 130))
    assert (part.rows, part.columns) == (tile_grid.rows, tile_grid.columns)
    assert [part.row_window(i) for i in range(len(part.rows))] == [
        tile_grid.row_window(i) for i in range(len(tile_grid.rows))
    ]

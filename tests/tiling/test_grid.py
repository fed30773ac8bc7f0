import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from georsr.errors import UsageError
from georsr.tiling.grid import Span, axis_spans, make_grid, spread_starts, spread_windows
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


def test_axis_spans_of_a_small_axis_are_those_worked_out_by_hand():
    """Tiles of 8 start 4 apart and share 4 pixels, of which the middle 2 are blended."""
    first = (Span(0, 8, 0, 7, 0, 2), Span(4, 8, 5, 11, 2, 2), Span(8, 8, 9, 15, 2, 2))
    assert axis_spans(20, 8, 1, 2, 1) == (*first, Span(12, 8, 13, 20, 2, 0))
    # the last tile may end up to 3 pixels beyond the edge where starts are multiples of 4
    assert axis_spans(21, 8, 1, 2, 4)[-2:] == (Span(12, 8, 13, 19, 2, 2), Span(16, 8, 17, 21, 2, 0))
    assert axis_spans(8, 8, 1, 2, 1) == (Span(0, 8, 0, 8, 0, 0),)
    assert axis_spans(5, 8, 1, 2, 4) == (Span(0, 8, 0, 5, 0, 0),)
    assert axis_spans(5, 8, 1, 2, 1) == (Span(0, 5, 0, 5, 0, 0),)


@pytest.mark.parametrize(
    ("tile", "halo", "overlap", "multiple", "fits"),
    [
        (5, 2, 0, 1, True), (4, 2, 0, 1, False), (8, 1, 2, 1, True), (7, 1, 2, 1, False),
        (16, 1, 2, 4, True), (16, 2, 2, 4, False), (12, 1, 3, 4, False), (16, 2, 4, 8, True),
    ],
)  # fmt: skip
def test_make_grid_smallest_tile_has_three_overlaps(tile, halo, overlap, multiple, fits):
    options = {"scale": 2, "halo": halo, "overlap": overlap, "multiple_of": multiple}
    if fits:
        assert make_grid(30, 40, tile=tile, **options).columns[-1].out_stop == 40
    else:
        with pytest.raises(UsageError, match=r"too small|not a multiple"):
            make_grid(30, 40, tile=tile, **options)


def test_make_grid_too_many_tiles_are_refused(monkeypatch):
    monkeypatch.setattr("georsr.tiling.grid.MAX_TILES", 3)
    options = {"scale": 2, "tile": 8, "halo": 1, "overlap": 2}  # one tile every 4 pixels
    assert len(make_grid(1, 12, **options)) == 2
    assert len(make_grid(12, 1, **options)) == 2
    for size in ((1, 13), (13, 1)):
        with pytest.raises(UsageError, match="takes more than 3 tiles of 8 along one side"):
            make_grid(*size, **options)


@pytest.mark.parametrize(("height", "width"), [(0, 1), (1, 0), (-1, 5)])
def test_make_grid_without_pixels_is_refused(height, width):
    with pytest.raises(UsageError, match="has no pixels"):
        make_grid(height, width, scale=2, tile=16, halo=0, overlap=0)
    assert len(make_grid(1, 1, scale=2, tile=16, halo=0, overlap=0)) == 1


def test_tile_grid_positions_are_those_worked_out_by_hand():
    grid = make_grid(20, 12, scale=2, tile=8, halo=1, overlap=2)
    assert (grid.out_height, grid.out_width, len(grid)) == (40, 24, 8)
    tile = grid.tile_at(2, 1)
    assert (tile.index, tile.row, tile.column) == (5, 2, 1)
    assert tile.input_window == Window(8, 4, 8, 8)
    assert tile.output_window == Window(9, 5, 6, 7)
    assert [t.index for t in grid.tiles_in_row(3)] == [6, 7]
    assert [grid.first_row_for(row) for row in (0, 13, 14, 21, 22, 39)] == [0, 0, 1, 1, 2, 3]
    assert grid.tiles_in_pixels(40 * 24 // 2) == 4
    assert grid.tiles_in_pixels(40 * 24 // 8 - 1) == 0
    part = grid.subgrid(Window(7, 5, 2, 3))
    assert part.rows == (Span(-3, 8, -2, 4, 0, 0),)
    assert part.columns == (Span(-5, 8, -5, 2, 0, 2), Span(-1, 8, 0, 7, 2, 0))
    assert part.image_window == Window(-7, -5, 20, 12)
    assert part.row_window(0) == Window(-3, -5, 8, 12)


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        ((10, 4, 3), [0, 3, 6]), ((11, 4, 1), [3]), ((3, 4, 2), [0]), ((10, 4, 2), [0, 6]),
        ((9, 4, 3), [0, 2, 5]), ((4, 4, 9), [0]), ((5, 4, 9), [0, 1]),
    ],
)  # fmt: skip
def test_spread_starts_are_even(arguments, starts):
    assert spread_starts(*arguments) == starts


def test_spread_windows_are_even_and_cut_at_the_edges():
    corners = [Window(0, 0, 2, 2), Window(0, 8, 2, 1), Window(4, 0, 1, 2), Window(4, 8, 1, 1)]
    assert list(spread_windows(5, 9, 2, 2)) == corners
    every = [Window(top, left, 2, 2) for top in (0, 2) for left in (0, 2, 4)]
    assert list(spread_windows(4, 6, 2, 3)) == every
    assert [w.left for w in spread_windows(2, 14, 2, 3)] == [0, 6, 12]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from georsr.tiling.grid import make_grid
from georsr.tiling.partition import MAX_TASK_TILES, TaskGrid, parts_grid, task_grid
from georsr.window import Window

ROOM = 2**40


def plan_of(height, width, scale=4, tile=128, halo=8, overlap=16):
    return make_grid(height, width, scale=scale, tile=tile, halo=halo, overlap=overlap)


def tiles(tile_grid, window):
    return len(tile_grid.subgrid(window.coarser(tile_grid.scale)))


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from([16, 48, 128]),
)
def test_task_and_parts_grid_cover_the_output_once(height, width, scale, machines, block):
    tile_grid = plan_of(height, width, scale, tile=40, halo=2, overlap=4)
    for grid in (
        task_grid(tile_grid, block, machines, width * scale, ROOM),
        parts_grid(tile_grid, block),
    ):
        seen = np.zeros((tile_grid.out_height, tile_grid.out_width), int)
        for number, window in enumerate(grid):
            seen[window.slices] += 1
            assert window.top % block == window.left % block == 0
            assert window.top % scale == window.left % scale == 0
            assert grid.index_at(window.top, window.left) == number
            assert grid.index_at(window.bottom - 1, window.right - 1) == number
        assert (seen == 1).all()
        assert len(grid) == grid.rows * grid.columns


@pytest.mark.parametrize("machines", [1, 4, 16])
def test_task_grid_of_a_large_output_has_64_to_256_tiles(machines):
    tile_grid = plan_of(20_000, 20_000)
    grid = task_grid(tile_grid, 512, machines, 80_000 * 3, ROOM)
    inner = grid.window(grid.columns + 1)
    assert 64 <= tiles(tile_grid, inner) <= MAX_TASK_TILES
    repeated = sum(tiles(tile_grid, window) for window in grid) / len(tile_grid)
    assert repeated < 1.25


def test_parts_grid_has_128_to_256_tiles():
    tile_grid = plan_of(20_000, 20_000)
    grid = parts_grid(tile_grid, 512)
    assert 128 <= tiles(tile_grid, grid.window(grid.columns + 1)) <= MAX_TASK_TILES


@pytest.mark.parametrize(
    ("side", "share"), [(768, 0.60), (1200, 0.65), (1500, 0.6), (2000, 0.58), (2500, 0.57)]
)
def test_task_grid_of_a_small_output_is_balanced(side, share):
    tile_grid = plan_of(side, side, tile=192)
    grid = task_grid(tile_grid, 512, 2, side * 12, ROOM)
    ends = [0, 0]
    for window in grid:
        ends[ends.index(min(ends))] += tiles(tile_grid, window)
    assert max(ends) <= share * len(tile_grid)


def test_task_grid_is_bounded_by_memory():
    tile_grid = plan_of(20_000, 20_000)
    row = 80_000 * 3
    grid = task_grid(tile_grid, 512, 4, row, 512 * row)
    assert grid.task_height == 512
    assert 64 <= tiles(tile_grid, grid.window(1)) <= 2 * MAX_TASK_TILES


def test_task_grid_with_top_starts_there():
    tile_grid = plan_of(2000, 2000)
    grid = task_grid(tile_grid, 512, 2, 8000 * 3, ROOM, top=1024)
    assert grid.top == 1024
    assert grid.window(0).top == 1024
    assert grid.window(len(grid) - 1).bottom == tile_grid.out_height


def test_parts_grid_of_a_million_tiles_is_fast():
    tile_grid = plan_of(100_000, 100_000)
    assert len(tile_grid) > 1_000_000
    assert 4_000 < len(parts_grid(tile_grid, 512)) < 16_000


@pytest.mark.parametrize(
    ("size", "tasks", "parts"),
    [
        ((500, 700), [(2048, 3072), (2048, 1536), (2048, 1536), (512, 1536)], (2048, 3072)),
        ((1500, 1500), [(6144, 6144), (3072, 6144), (2048, 6144), (1536, 1536)], (3072, 3072)),
        ((2000, 3000), [(8192, 4096), (4096, 6144), (8192, 4096), (2048, 3072)], (4096, 6144)),
        ((20_000, 20_000), [(5120, 6144)] * 4, (5120, 6144)),
        ((300, 9000), [(1536, 18432), (1536, 18432), (1536, 12288), (1536, 2560)], (1536, 9216)),
    ],
)
def test_task_and_parts_grid_sizes_do_not_move(size, tasks, parts):
    """An output in parts that is begun with one version is finished with the next."""
    tile_grid = plan_of(*size)
    grids = [task_grid(tile_grid, 512, machines, size[1] * 12, ROOM) for machines in (1, 2, 3, 16)]
    assert [(grid.task_height, grid.task_width) for grid in grids] == tasks
    grid = parts_grid(tile_grid, 512)
    assert (grid.task_height, grid.task_width, grid.top) == (*parts, 0)


def test_task_grid_windows_are_those_worked_out_by_hand():
    grid = TaskGrid(height=100, width=70, top=32, task_height=40, task_width=32)
    assert (grid.rows, grid.columns, len(grid)) == (2, 3, 6)
    assert grid.window(0) == Window(32, 0, 40, 32)
    assert grid.window(5) == Window(72, 64, 28, 6)
    assert [grid.index_at(y, x) for y, x in ((32, 0), (71, 31), (72, 32), (99, 69))] == [0, 0, 4, 5]


@pytest.mark.parametrize(("top", "start"), [(0, 0), (511, 0), (512, 512), (1500, 1024)])
def test_task_grid_starts_at_the_block_that_is_needed(top, start):
    assert task_grid(plan_of(600, 600), 512, 2, 2400, ROOM, top=top).top == start

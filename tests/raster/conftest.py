from __future__ import annotations

import os
from pathlib import Path

import pytest

from .making import make_raster, ramp


@pytest.fixture
def rgb(tmp_path):
    return make_raster(
        tmp_path / "rgb.tif", ramp(), photometric="RGB", colors=("red", "green", "blue")
    )


@pytest.fixture(scope="session")
def scenes():
    """Folder of real scenes; the tests that use it are skipped where it is not there."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    root = Path(os.environ.get("GEORSR_TEST_DATA", beside))
    if not (root / "scenes").is_dir():
        pytest.skip("no real imagery: set GEORSR_TEST_DATA")
    return root / "scenes"

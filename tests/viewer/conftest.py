"""An output beside its source, and a server that shows both."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from affine import Affine

from georsr.viewer.server import ViewServer
from georsr.viewer.tiles import View

from ..conftest import NORTH_UP

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def pair(make_raster):
    """A blue source of 100 x 80 pixels and a red output, both with a black row at the top."""

    def plain(colour, scale):
        values = np.zeros((3, 80 * scale, 100 * scale), np.uint8)
        values[:, 2 * scale :] = np.array(colour)[:, None, None]
        values[:, -2 * scale :] = 255
        return values

    output = make_raster(plain(RED, 4), "output.tif", photometric="RGB")
    coarse = NORTH_UP @ Affine.scale(4)
    source = make_raster(plain(BLUE, 1), "source.tif", transform=coarse, photometric="RGB")
    return output, source


@contextmanager
def serving(*paths, **options):
    """Yield the server of a view, which answers until the block ends."""
    with View(*paths, **options) as view, ViewServer(view) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

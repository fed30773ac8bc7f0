"""Open rasters of one process, a bounded number of them."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from typing import Any

from georsr.raster.reader import Patch, RasterReader
from georsr.types import Window

MOST_OPEN = 32


class ReaderPool:
    """Reads windows of many rasters and keeps the most recently used ones open.

    Handles are never shared between processes: after a fork, and after unpickling, every raster
    is opened anew by whoever reads it.
    """

    def __init__(self, limit: int = MOST_OPEN) -> None:
        self.limit = limit
        self._process = os.getpid()
        self._open: OrderedDict[int, tuple[RasterReader, RasterReader]] = OrderedDict()

    def read(self, reader: RasterReader, window: Window) -> Patch:
        """Read through a copy of ``reader`` that belongs to this process."""
        if self._process != os.getpid():
            self._process, self._open = os.getpid(), OrderedDict()
        key = id(reader)
        if key not in self._open:
            # a copy comes without the handle; the original is kept so that its id stays its own
            self._open[key] = reader, copy.copy(reader)
        self._open.move_to_end(key)
        while len(self._open) > self.limit:
            _, (_, oldest) = self._open.popitem(last=False)
            oldest.close()
        return self._open[key][1].read(window)

    def __len__(self) -> int:
        return len(self._open)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

"""Twins: blocks of a finished file that are, byte for byte, one that was decoded before.

Most of a sparse mosaic is one empty block again and again. What decodes a block knows nothing of
where it lies, so that the same bytes are the same pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from georsr.raster.layout import ProductLayout
from georsr.raster.tiff import Numbers, tile_tables
from georsr.types import Window

SHORT = 4096
"""Bytes of an encoded block that is worth remembering: others have pixels in them, and no twin."""
REMEMBERED = 256

Key = tuple[bytes, int, int]


class Twins:
    """Remembers checksums by encoded bytes; a context manager that holds the file open.

    Parameters
    ----------
    path : Path
        A file that georsr laid out in blocks; another one has no twins.
    layout : ProductLayout
    """

    def __init__(self, path: Path, layout: ProductLayout) -> None:
        self._file = path.open("rb")
        self._known: dict[Key, int] = {}
        self._lock = threading.Lock()
        self._columns = layout.blocks_shape[1]
        self._blocks = layout.blocks_count
        self._tables: list[tuple[Numbers, Numbers]] = []
        try:
            tables = tile_tables(self._file)
            # a COG has more of them, or of another size of blocks
            if [t.offsets.count for t in tables] in _expected(layout):
                self._tables = [
                    (t.offsets.read(self._file), t.sizes.read(self._file)) for t in tables
                ]
        except (ValueError, OSError):
            self._tables = []  # whoever decodes it will say what is wrong

    def key(self, row: int, column: int, window: Window) -> Key | None:
        """What makes a block the twin of another; None for one that is not short."""
        index = row * self._columns + column
        pieces = [
            (int(offsets[i]), int(sizes[i]))
            for offsets, sizes in self._tables
            for i in range(index, len(offsets), self._blocks)
        ]
        if not pieces or sum(size for _, size in pieces) > SHORT:
            return None
        encoded = []
        with self._lock:
            for offset, size in pieces:
                self._file.seek(offset)
                encoded += [size.to_bytes(8), self._file.read(size)]
        return b"".join(encoded), window.height, window.width

    def checksum(self, key: Key | None, decode: Callable[[], int]) -> int:
        """Of a block: that of its twin, or what ``decode`` says; may be called by several threads.

        Blocks that may have twins are decoded one at a time, so that none is decoded twice.
        """
        if key is None:
            return decode()
        with self._lock:
            found = self._known.get(key)
            if found is None:
                found = decode()
                if len(self._known) < REMEMBERED:
                    self._known[key] = found
            return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _expected(layout: ProductLayout) -> list[list[int]]:
    """Tiles in each image of the file: bands together or apart, then the mask."""
    blocks = layout.blocks_count
    mask = [blocks] * layout.mask
    return [[blocks, *mask], [blocks * layout.count, *mask]]

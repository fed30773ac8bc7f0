"""Records: what is noted about a product while it is written, and once it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Header:
    """What stands in the file before its first block.

    Attributes
    ----------
    size : int
        Bytes.
    checksum : int
        crc32 of them, where tables that are filled in last count as zeros.
    """

    size: int
    checksum: int


@dataclass(frozen=True)
class Finished:
    """A block that is in the file.

    Attributes
    ----------
    row, column : int
        Of the block.
    checksum : int
        Of its pixels.
    sizes : tuple of int
        Bytes of its pieces; blocks lie in the file in the order of this list, without gaps.
    encoded : int
        crc32 of these bytes.
    """

    row: int
    column: int
    checksum: int
    sizes: tuple[int, ...]
    encoded: int


@dataclass(frozen=True)
class Written:
    """A published file.

    Attributes
    ----------
    path : str
    bytes : int
        Size of the file.
    seconds : float
        Spent in `RasterWriter.seal`: closing, verifying, COG.
    checksum : str
        crc32 over the crc32 of every block in row-major order, eight hexadecimal digits: the
        same pixels in the same block size give the same checksum in any encoding.
    """

    path: str
    bytes: int
    seconds: float
    checksum: str


class Records(Protocol):
    """Where a writer notes what is finished, so that a later one can go on."""

    def recall(self) -> tuple[Header, Sequence[Finished]] | None:
        """Header and blocks in order that an earlier writer left; None: start anew."""

    def unusable(self, why: str) -> None:
        """What was left cannot be gone on with; raises if the user insists on it."""

    def begin(self, header: Header) -> None:
        """A new file was begun."""

    def add(self, blocks: Sequence[Finished]) -> None:
        """These blocks are on disk."""

    def publishing(self, ready: Path, final: Path, written: Written) -> None:
        """The finished file ``ready`` is about to be renamed to ``final``."""

    def keeps(self, error: BaseException) -> bool:
        """Whether the unfinished file is worth keeping after ``error``."""

    def remove(self) -> None:
        """Forget everything: the work is over, given up, or begun anew."""

    def close(self) -> None:
        """Leave what was noted to a later writer."""

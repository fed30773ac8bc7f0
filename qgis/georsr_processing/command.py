"""Command lines, from the values of parameters."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """What to super-resolve, and how; None and empty mean georsr's own default.

    Attributes
    ----------
    source, output : str
        Rasters.
    model : str
        Name or weights file.
    bands : sequence of int
        From 1, in the model's order.
    box : tuple of float or None
        West, south, east, north, in the CRS of the source's file.
    mask : str or None
        GeoJSON file of polygons.
    outside_invalid : bool
        Whether pixels outside the polygons become invalid, or the extent is only cut to them.
    tile : int or None
        Source pixels.
    device : str
    nodata : float or None
        Of the source.
    cog : bool
    extra : str
        More options, quoted as in a shell.
    """

    source: str
    output: str
    model: str
    bands: Sequence[int] = ()
    box: tuple[float, float, float, float] | None = None
    mask: str | None = None
    outside_invalid: bool = True
    tile: int | None = None
    device: str = "auto"
    nodata: float | None = None
    cog: bool = False
    extra: str = ""

    def arguments(self) -> list[str]:
        """Arguments of ``georsr`` for this request.

        An unfinished product is not kept: whoever cancels in QGIS wants nothing left. An existing
        file was confirmed by QGIS's own dialog, and stays what it is until the new one is complete.
        """
        words = ["sr", "--progress=json", "--json", "--overwrite", "--no-resume"]
        words += [f"--model={self.model}", f"--device={self.device}"]
        if self.bands:
            words.append("--bidx=" + ",".join(map(str, self.bands)))
        if self.box is not None:
            words.append("--bbox=" + ",".join(map(repr, self.box)))
        if self.mask is not None:
            words.append(f"--aoi={self.mask}")
            words.append("--aoi-mask" if self.outside_invalid else "--no-aoi-mask")
        if self.tile is not None:
            words.append(f"--tile={self.tile}")
        if self.nodata is not None:
            words.append(f"--nodata={self.nodata!r}")
        if self.cog:
            words.append("--cog")
        return [*words, *split_extra(self.extra), "--", self.source, self.output]


def split_extra(text: str) -> list[str]:
    """Words of additional options; backslashes are letters, as in paths of Windows.

    Raises
    ------
    ValueError
        A quotation mark without its partner.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return list(lexer)


def shown(command: Sequence[str]) -> str:
    """One line that can be pasted into a shell."""
    return " ".join(map(shlex.quote, command))

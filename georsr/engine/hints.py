"""Hints: what is said about a source before its first tile is made."""

from __future__ import annotations

from georsr.engine.bands import note
from georsr.engine.fitting import probe_windows
from georsr.raster.reader import RasterReader
from georsr.raster.repeats import repeats_of


def hint_noise(reader: RasterReader, model: str) -> None:
    """Consistency was left away."""
    note(
        reader,
        f"{reader.info.path}: most of what {model} takes away is noise, which consistency "
        "would put back: it is off; --consistency on insists on it",
    )


def hint_repeats(reader: RasterReader) -> None:
    """What looks like pixels are blocks, whose edges a network would sharpen."""
    info = reader.info
    for window in probe_windows(info.height, info.width):
        found = repeats_of(reader.read(window).values)
        if found is None:
            continue
        down, across = found
        if min(found) > 1:
            note(
                reader,
                f"{info.path}: every pixel stands there {down} x {across} times, as nearest "
                "neighbour enlarges images; a network sharpens the edges of such blocks. Take one "
                f"of each first: gdal_translate -r nearest -outsize {100 / across:g}% "
                f"{100 / down:g}%",
            )
        return

"""Render report pages: one HTML file each, with every style and image inside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
from rasterio.io import MemoryFile

from georsr.io.gdal_env import suppress_rasterio_warnings
from georsr.window import AnyArray

if TYPE_CHECKING:
    from georsr.evaluation.benchmark import ModelFacts


@dataclass(frozen=True)
class GainCell:
    """A cell of a table whose colour shows the sign of its value."""

    value: float
    text: str

    @property
    def css(self) -> str:
        """CSS class: ``good`` above 0, ``bad`` below, empty for 0 and NaN."""
        if math.isnan(self.value) or self.value == 0:
            return ""
        return "good" if self.value > 0 else "bad"


Cell = str | GainCell
Table = tuple[list[str], list[list[Cell]]]
"""Header and rows."""


def render_page(template: str, **context: Any) -> str:
    """Fill in a file of the folder ``templates``; every value of ``context`` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("georsr.evaluation.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = png_data_uri
    return environment.get_template(template).render(context)


def png_data_uri(image: AnyArray) -> str:
    """Encode (3, H, W) uint8 as a PNG inside a ``data:`` address."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"


def encode_png(image: AnyArray, level: int = 9) -> bytes:
    """Encode (3, H, W) or (4, H, W) uint8, RGB or RGBA, as a PNG file.

    ``level`` is that of DEFLATE; 1 is several times as fast as 9.
    """
    count, height, width = image.shape
    with suppress_rasterio_warnings(), MemoryFile(ext=".png") as memory:  # it has no georeference
        with memory.open(
            driver="PNG", count=count, height=height, width=width, dtype="uint8", ZLEVEL=level
        ) as dataset:
            dataset.write(image)
        return bytes(memory.read())


def run_terms(
    command: str,
    version: str,
    device: str,
    models: Sequence[ModelFacts],
    **others: str,
) -> Iterator[tuple[str, str]]:
    """Yield (label, value) of the section ``Run``: command, versions, device, weights."""
    if command:
        yield "command", command
    yield "georsr", version
    yield "device", device
    yield from others.items()
    for model in models:
        source = "" if model.source == model.name else f" ({model.source})"
        yield model.name, f"sha256 {model.sha256}{source}"

"""Show a small part of a raster by bicubic interpolation and by models: what a run would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from georsr._files import atomic_write_bytes
from georsr.api import super_resolve_array
from georsr.config import SRConfig
from georsr.errors import UsageError
from georsr.evaluation.reports.figures import DisplayStretch, bicubic_block, display_stretch
from georsr.evaluation.reports.html import encode_png, render_page
from georsr.inference.model_bands import open_for_model
from georsr.io.reader import RasterReader, choose_normalization
from georsr.models.io import Model
from georsr.window import AnyArray, PixelBlock, Window

GAP = 4
"""Pixels between the pictures of the PNG."""


@dataclass(frozen=True)
class Panel:
    """One picture of a preview: (3, n, n) uint8."""

    name: str
    image: AnyArray


@dataclass(frozen=True)
class Preview:
    """A window of a raster, enlarged in several ways to the same size."""

    path: str
    window: Window
    """Pixels of the raster."""
    panels: tuple[Panel, ...]
    """Source with its pixels repeated, bicubic, and each model."""

    def write_png(self, path: Path) -> None:
        """Write the pictures side by side."""
        gap = np.full((3, self.panels[0].image.shape[1], GAP), 255, np.uint8)
        row = [part for panel in self.panels for part in (panel.image, gap)][:-1]
        atomic_write_bytes(path, encode_png(np.concatenate(row, axis=2)))

    def page(self) -> str:
        """Return an HTML page on which a line between bicubic and each model can be dragged."""
        return render_page(
            "preview.html.j2",
            title=f"Preview of {self.path}",
            window=self.window,
            source=self.panels[0],
            bicubic=self.panels[1],
            models=self.panels[2:],
        )


def make_preview(
    path: str,
    models: Sequence[Model],
    *,
    at: tuple[float, float] | None = None,
    size: int = 128,
    bidx: Sequence[int] | None = None,
) -> Preview:
    """Super-resolve a small window of a raster by each model, as a run of the raster would.

    Parameters
    ----------
    path, models
        Path of the raster, and models to show; at least one.
    at
        Centre of the window in the raster's CRS; None takes the middle of the raster.
    size
        Height and width of the window in pixels of the raster.
    bidx
        Bands in the models' order; None finds them.

    Raises
    ------
    UsageError
        The place lies outside the raster, or the raster has no geotransform.
    GeorsrError
        As for `georsr.super_resolve`.
    """
    scale = max(model.spec.scale for model in models)
    panels: list[Panel] = []
    config = SRConfig(indexes=None if bidx is None else tuple(bidx))
    for model in models:
        with open_for_model(path, model, config) as (reader, fitted):
            window = window_around(reader, at, size)
            stretch = display_stretch(reader)
            if not panels:
                block = reader.read(window)
                repeated = stretch.to_rgb(block).repeat(scale, 1).repeat(scale, 2)
                bicubic = stretch.to_rgb(bicubic_block(block, scale))
                panels = [Panel("source", repeated), Panel("bicubic", bicubic)]
            image = _super_resolve(reader, fitted, window, stretch)
            step = scale // fitted.spec.scale
            panels.append(Panel(model.spec.name, image.repeat(step, 1).repeat(step, 2)))
    side = min(panel.image.shape[1] for panel in panels)
    across = min(panel.image.shape[2] for panel in panels)
    return Preview(path, window, tuple(Panel(p.name, p.image[:, :side, :across]) for p in panels))


def window_around(reader: RasterReader, at: tuple[float, float] | None, size: int) -> Window:
    """Return the window of a raster around a point, moved inside where it would leave it."""
    info = reader.info
    column, row = info.width / 2, info.height / 2
    if at is not None:
        if info.transform is None:
            raise UsageError(f"{info.path}: has no geotransform, so --at cannot be located in it")
        column, row = ~info.transform @ at
        if not (0 <= column < info.width and 0 <= row < info.height):
            raise UsageError(
                f"{info.path}: {at[0]:g},{at[1]:g} lies outside; 'georsr info' prints its extent"
            )
    height, width = min(size, info.height), min(size, info.width)
    top = min(max(0, round(row - height / 2)), info.height - height)
    left = min(max(0, round(column - width / 2)), info.width - width)
    return Window(top, left, height, width)


def _super_resolve(
    reader: RasterReader, model: Model, window: Window, stretch: DisplayStretch
) -> AnyArray:
    """Return the picture of a window by a model, with the normalization of the whole raster."""
    spec = model.spec
    whole = Window(0, 0, reader.info.height, reader.info.width)
    padded = window.grow(spec.halo).intersection(whole) or window
    block = reader.read(padded)
    option = choose_normalization(reader, "auto").to_stretch()
    values = super_resolve_array(block.values, model, valid=block.valid, stretch=option)
    valid = block.valid.repeat(spec.scale, 1).repeat(spec.scale, 2)
    inside = (slice(None), *window.relative_to(padded).scaled(spec.scale).slices)
    return stretch.to_rgb(PixelBlock(values[inside], valid[inside], None))

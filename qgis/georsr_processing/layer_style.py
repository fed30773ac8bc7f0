"""Name the layers of outputs after their source, and show them in its colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qgis.core import QgsMultiBandColorRenderer, QgsProcessingLayerPostProcessorInterface


class ColorsOfSource(QgsProcessingLayerPostProcessorInterface):  # type: ignore[misc]
    """Shows the layer of an output in the colours of its source, once QGIS has loaded it.

    Parameters
    ----------
    renderer : QgsRasterRenderer
        Copy of the renderer of the source.
    source_bands
        Bands of the source that the bands of the output come from.
    """

    kept: list[ColorsOfSource] = []  # noqa: RUF012  QGIS keeps no reference of its own

    def __init__(self, renderer: Any, source_bands: Sequence[int]) -> None:
        super().__init__()
        self.renderer, self.source_bands = renderer, source_bands
        self.kept.append(self)

    def postProcessLayer(self, layer: Any, context: Any, feedback: Any) -> None:
        """Set the renderer, if the output has the bands that the source shows."""
        self.kept.remove(self)
        shown = _bands(self.renderer)
        if not shown or not set(shown) <= set(self.source_bands):
            return
        numbers = [self.source_bands.index(band) + 1 for band in shown]
        if numbers != shown and not _set_bands(self.renderer, numbers):
            return
        self.renderer.setAlphaBand(layer.renderer().alphaBand())
        layer.setRenderer(self.renderer)
        layer.triggerRepaint()


def _bands(renderer: Any) -> list[int]:
    """Return the bands that a renderer shows: red, green and blue, or one."""
    if isinstance(renderer, QgsMultiBandColorRenderer):
        return [renderer.redBand(), renderer.greenBand(), renderer.blueBand()]
    return [band for band in renderer.usesBands() if band != renderer.alphaBand()]


def _set_bands(renderer: Any, numbers: Sequence[int]) -> bool:
    """Let a renderer show other bands; return whether renderers of its kind can."""
    if isinstance(renderer, QgsMultiBandColorRenderer):
        renderer.setRedBand(numbers[0])
        renderer.setGreenBand(numbers[1])
        renderer.setBlueBand(numbers[2])
        return True
    names = ("setInputBand", "setGrayBand", "setBand")  # since QGIS 3.38; gray; pseudocolour
    setters = [getattr(renderer, name) for name in names if hasattr(renderer, name)]
    for set_band in setters[:1]:
        set_band(numbers[0])
    return bool(setters)


def load_named(
    path: str, name: str, context: Any, renderer: Any = None, source_bands: Sequence[int] = ()
) -> None:
    """Give an output that QGIS will load a name and the colours of its source."""
    if not path or not context.willLoadLayerOnCompletion(path):
        return
    details = context.layerToLoadOnCompletionDetails(path)
    details.name = name
    if renderer is not None:
        details.setPostProcessor(ColorsOfSource(renderer, source_bands))

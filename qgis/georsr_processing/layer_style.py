"""Name the layers of outputs after their source, and stretch their colours alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qgis.core import (
    QgsContrastEnhancement,
    QgsMultiBandColorRenderer,
    QgsProcessingLayerPostProcessorInterface,
)


def stretch_by_band(layer: Any) -> dict[int, Any]:
    """Return the contrast enhancement of each band that a layer shows as red, green or blue."""
    renderer = layer.renderer()
    if not isinstance(renderer, QgsMultiBandColorRenderer):
        return {}
    shown = (
        (renderer.redBand(), renderer.redContrastEnhancement()),
        (renderer.greenBand(), renderer.greenContrastEnhancement()),
        (renderer.blueBand(), renderer.blueContrastEnhancement()),
    )
    return {band: QgsContrastEnhancement(stretch) for band, stretch in shown if stretch is not None}


class StretchAsSource(QgsProcessingLayerPostProcessorInterface):  # type: ignore[misc]
    """Gives the layer of an output the stretch of its source, once QGIS has loaded it.

    Parameters
    ----------
    stretch
        Result of `stretch_by_band` of the source.
    source_bands
        Bands of the source that the bands of the output come from.
    """

    kept: list[StretchAsSource] = []  # noqa: RUF012  QGIS keeps no reference of its own

    def __init__(self, stretch: Mapping[int, Any], source_bands: Sequence[int]) -> None:
        super().__init__()
        self.stretch, self.source_bands = stretch, source_bands
        self.kept.append(self)

    def postProcessLayer(self, layer: Any, context: Any, feedback: Any) -> None:
        """Set the colours, if the output has the bands that the source shows."""
        self.kept.remove(self)
        shown = [(band, self.stretch[band]) for band in self.stretch if band in self.source_bands]
        if len(shown) != 3:
            return
        numbers = [self.source_bands.index(band) + 1 for band, _ in shown]
        renderer = QgsMultiBandColorRenderer(layer.dataProvider(), *numbers)
        renderer.setRedContrastEnhancement(QgsContrastEnhancement(shown[0][1]))
        renderer.setGreenContrastEnhancement(QgsContrastEnhancement(shown[1][1]))
        renderer.setBlueContrastEnhancement(QgsContrastEnhancement(shown[2][1]))
        layer.setRenderer(renderer)
        layer.triggerRepaint()


def load_named(
    path: str,
    name: str,
    context: Any,
    stretch: Mapping[int, Any] | None = None,
    source_bands: Sequence[int] = (),
) -> None:
    """Have QGIS load an output under a name, and stretched as its source, if it loads it at all."""
    if not path or not context.willLoadLayerOnCompletion(path):
        return
    details = context.layerToLoadOnCompletionDetails(path)
    details.name = name
    if stretch:
        details.setPostProcessor(StretchAsSource(stretch, source_bands))

"""Write the style with which QGIS shows quality layers, a ``.qml`` file of the same name."""

from __future__ import annotations

import os
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from georsr.io.reader import RasterReader, open_output
from georsr.writer.paths import is_virtual, local_path

RAMP = ("#fffdf0", "#fde2a6", "#f6a96c", "#d9605a", "#942b6c", "#33105c")
"""Colours from small to large values, light to dark; suitable for colour-blind readers."""
MAX_PERCENTILE = 98.0
"""Percentile of the values that is shown in the last colour."""
# the format that QGIS 3 and 4 read and write (``QgsRasterLayer.saveNamedStyle``)
TEMPLATE = """\
<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="AllStyleCategories">
  <pipe>
    <rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" \
nodataColor="" classificationMin="0" classificationMax="{maximum}">
      <rasterTransparency />
      <rastershader>
        <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" \
minimumValue="0" maximumValue="{maximum}">
{items}
        </colorrampshader>
      </rastershader>
    </rasterrenderer>
    <brightnesscontrast brightness="0" contrast="0" gamma="1" />
    <huesaturation saturation="0" grayscaleMode="0" colorizeOn="0" />
    <rasterresampler maxOversampling="2" />
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""


def style_path(layers: str) -> Path | None:
    """Return the path of the style of a raster; None if the raster is not a local file."""
    return None if is_virtual(layers) else local_path(layers).with_suffix(".qml")


def style_of(path: str | os.PathLike[str], unit: str) -> str:
    """Return the style of quality layers: the first band, from 0 to its 98th percentile.

    The band has a linear colour ramp. ``path`` is that of the layers, of which a sample is read;
    ``unit`` is that of the band, for the legend.
    """
    with open_output(path, indexes=(1,)) as reader:
        maximum = displayed_maximum(reader)
    unit = escape(unit, {'"': "&quot;", "\t": "&#09;", "\n": "&#10;", "\r": "&#13;"})
    values = np.arange(len(RAMP)) * maximum / (len(RAMP) - 1)
    items = "\n".join(
        f'          <item alpha="255" color="{colour}" value="{value:.6g}" '
        f'label="{value:.3g} {unit}" />'
        for colour, value in zip(RAMP, values, strict=True)
    )
    return TEMPLATE.format(maximum=f"{maximum:.6g}", items=items)


def displayed_maximum(reader: RasterReader) -> float:
    """Return the value of a reader's only band that is shown in the last colour; above 0."""
    sample = reader.sample()
    valid = sample.values[sample.valid]
    maximum = float(np.percentile(valid, MAX_PERCENTILE)) if valid.size else 1.0
    return maximum if maximum > 0 else 1.0

"""Write the style with which QGIS shows quality layers, a ``.qml`` file of the same name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from georsr.io.reader import RasterReader, open_output
from georsr.writer.paths import is_virtual, local_path

RAMP = ("#fffdf0", "#fde2a6", "#f6a96c", "#d9605a", "#942b6c", "#33105c")
"""Colours from small to large values, light to dark; suitable for colour-blind readers."""
MAX_PERCENTILE = 98.0
"""Percentile of the values that is shown in the last colour."""


def style_path(layers: str) -> Path | None:
    """Return the path of the style of a raster; None if the raster is not a local file."""
    return None if is_virtual(layers) else local_path(layers).with_suffix(".qml")


def style_of(path: str | os.PathLike[str], unit: str) -> str:
    """Return the style of quality layers: the first band, from 0 to its 98th percentile.

    Parameters
    ----------
    path
        Path of the layers; a sample of their pixels is read.
    unit
        Unit of the first band, for the legend.
    """
    with open_output(path, indexes=(1,)) as reader:
        return pseudocolour(displayed_maximum(reader), unit, RAMP)


def displayed_maximum(reader: RasterReader) -> float:
    """Return the value of a reader's only band that is shown in the last colour; above 0."""
    sample = reader.sample()
    valid = sample.values[sample.valid]
    maximum = float(np.percentile(valid, MAX_PERCENTILE)) if valid.size else 1.0
    return maximum if maximum > 0 else 1.0


def pseudocolour(maximum: float, unit: str, colours: Sequence[str]) -> str:
    """Return a QML document: band 1 in a linear colour ramp from 0 to ``maximum``.

    The format is that which QGIS 3 and 4 read and write (``QgsRasterLayer.saveNamedStyle``).
    """
    qgis = ET.Element("qgis", version="3.22.0", styleCategories="AllStyleCategories")
    pipe = ET.SubElement(qgis, "pipe")
    attributes = {
        "type": "singlebandpseudocolor",
        "band": "1",
        "opacity": "1",
        "alphaBand": "-1",
        "nodataColor": "",
        "classificationMin": "0",
        "classificationMax": f"{maximum:.6g}",
    }
    renderer = ET.SubElement(pipe, "rasterrenderer", attributes)
    ET.SubElement(renderer, "rasterTransparency")
    shader = ET.SubElement(renderer, "rastershader")
    ramp = ET.SubElement(
        shader,
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue="0",
        maximumValue=f"{maximum:.6g}",
    )
    for number, colour in enumerate(colours):
        value = maximum * number / (len(colours) - 1)
        ET.SubElement(
            ramp,
            "item",
            alpha="255",
            color=colour,
            value=f"{value:.6g}",
            label=f"{value:.3g} {unit}",
        )
    ET.SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    ET.SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0")
    ET.SubElement(pipe, "rasterresampler", maxOversampling="2")
    ET.SubElement(qgis, "blendMode").text = "0"
    ET.indent(qgis)
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return doctype + ET.tostring(qgis, encoding="unicode") + "\n"

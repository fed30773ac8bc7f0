"""georsr in the Processing toolbox of QGIS: runs the ``georsr`` command in its own environment.

QGIS imports this package with its own Python, which need not have torch or rasterio: nothing here
imports them, or georsr. Only what a task needs of QGIS is imported where it is needed.
"""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:
    """Make the plugin; ``iface`` is None where QGIS runs without windows."""
    from .plugin import GeorsrPlugin

    return GeorsrPlugin(iface)

"""The plugin: a Processing provider, and an entry in the Raster menu where there are windows."""

from __future__ import annotations

from typing import Any

from qgis.core import QgsApplication
from qgis.PyQt.QtWidgets import QPushButton

from .provider import GeorsrProvider
from .super_resolve_algorithm import SuperResolve


class GeorsrPlugin:
    """What QGIS loads and unloads.

    Parameters
    ----------
    iface : QgisInterface or None
        None in ``qgis_process``.
    """

    def __init__(self, iface: Any) -> None:
        self.iface = iface
        self.provider: GeorsrProvider | None = None
        self.action: Any = None

    def initProcessing(self) -> None:
        """Add the provider; all that ``qgis_process`` calls."""
        self.provider = GeorsrProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider and the menu entry."""
        self.initProcessing()
        if self.iface is not None and self.provider is not None:
            self.action = self.iface.rasterMenu().addAction(
                self.provider.icon(), "Super-resolve Raster…", self.open_dialog
            )
            self.offer_installation()

    def offer_installation(self) -> None:
        """Show a button that installs georsr, if there is none."""
        possible, reason = SuperResolve().canExecute()
        if not possible:
            bar = self.iface.messageBar()
            message = bar.createMessage("georsr", reason)
            button = QPushButton("Install georsr…")
            button.clicked.connect(self.open_installation)
            message.layout().addWidget(button)
            bar.pushWidget(message)

    def unload(self) -> None:
        """Take both away again."""
        if self.action is not None:
            self.iface.rasterMenu().removeAction(self.action)
            self.action = None
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None

    def open_dialog(self) -> None:
        """Open the dialog of the main algorithm."""
        import processing

        processing.execAlgorithmDialog("georsr:superresolve", {})

    def open_installation(self) -> None:
        """Open the dialog that installs georsr."""
        import processing

        processing.execAlgorithmDialog("georsr:install", {})

"""Scenes played inside QGIS, by its own Python: ``python inside.py SCENE JSON`` prints JSON.

Started by test_in_qgis.py with a temporary home in which the plugin is installed.
"""

import json
import os
import sys
import time
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeature,
    QgsGeometry,
    QgsProcessingAlgRunnerTask,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)

SCENES = {}
NAMES = ("extent", "mask", "empty", "odd", "corrected")


def scene(function):
    SCENES[function.__name__] = function
    return function


def start(plugins):
    """QGIS without windows, with Processing and the plugin; both must live on."""
    application = QgsApplication([], True)
    application.initQgis()
    sys.path += [str(Path(application.pkgDataPath()) / "python" / "plugins"), plugins]
    from processing.core.Processing import Processing

    Processing.initialize()
    import georsr_processing

    plugin = georsr_processing.classFactory(None)
    plugin.initProcessing()
    return application, plugin


def algorithm(name="superresolve"):
    return QgsApplication.processingRegistry().createAlgorithmById(f"georsr:{name}")


def run(parameters, name="superresolve"):
    """Run as the toolbox does, checks first: results, whether it went well, what was said."""
    feedback, context = QgsProcessingFeedback(), QgsProcessingContext()
    context.setProject(QgsProject.instance())
    made = algorithm(name)
    for fine, why in (made.canExecute(), made.checkParameterValues(parameters, context)):
        if not fine:
            return {"ok": False, "said": why}
    results, ok = made.run(parameters, context, feedback)
    return {"ok": ok, "results": results, "said": feedback.textLog()}


@scene
def areas(source, folder):
    """An extent in another CRS, and a mask that exists in memory only."""
    layer = QgsRasterLayer(source, "scene")
    QgsProject.instance().addMapLayer(layer)
    box = layer.extent()
    middle = box.center()
    west = QgsRectangle(box.xMinimum(), box.yMinimum(), middle.x(), box.yMaximum())
    lonlat = QgsCoordinateReferenceSystem("EPSG:4326")
    turn = QgsCoordinateTransform(layer.crs(), lonlat, QgsProject.instance())
    west = turn.transformBoundingBox(west)
    edges = (west.xMinimum(), west.xMaximum(), west.yMinimum(), west.yMaximum())
    extent = ",".join(map(repr, edges)) + " [EPSG:4326]"
    ring = [(box.xMinimum(), box.yMinimum()), (middle.x(), box.yMinimum())]
    ring += [(middle.x(), middle.y()), (box.xMinimum(), box.yMinimum())]
    text = ", ".join(f"{x} {y}" for x, y in ring)
    mask = QgsVectorLayer("Polygon?crs=EPSG:32632", "ärea", "memory")
    feature = QgsFeature()
    feature.setGeometry(QgsGeometry.fromWkt(f"POLYGON(({text}))"))
    mask.dataProvider().addFeature(feature)
    empty = QgsVectorLayer("Polygon?crs=EPSG:32632", "nothing", "memory")
    # no EPSG code; about 5 km off in the layer's CRS
    odd = QgsCoordinateReferenceSystem()
    odd.createFromProj("+proj=laea +lat_0=47.3 +lon_0=11.4 +ellps=GRS80 +units=m +no_defs")
    far = QgsVectorLayer("Polygon", "elsewhere named", "memory")
    far.setCrs(odd)
    moved = QgsFeature()
    shape = QgsGeometry(feature.geometry())
    shape.transform(QgsCoordinateTransform(layer.crs(), odd, QgsProject.instance()))
    moved.setGeometry(shape)
    far.dataProvider().addFeature(moved)
    corrected = QgsRasterLayer(source, "corrected")
    corrected.setCrs(odd)
    QgsProject.instance().addMapLayer(corrected)
    own = QgsVectorLayer("Polygon", "drawn on the corrected layer", "memory")
    own.setCrs(odd)
    own.dataProvider().addFeature(feature)
    common = {"INPUT": layer, "MODEL": "bicubic", "SCALE": "2"}
    outputs = {name: str(Path(folder) / f"{name}.tif") for name in NAMES}
    return {
        "extent": run({**common, "EXTENT": extent, "OUTPUT": outputs["extent"]}),
        "mask": run({**common, "MASK": mask, "OUTPUT": outputs["mask"]}),
        "empty": run({**common, "MASK": empty, "OUTPUT": outputs["empty"]}),
        "odd": run({**common, "MASK": far, "OUTPUT": outputs["odd"]}),
        "corrected": run(
            {**common, "INPUT": corrected, "MASK": own, "OUTPUT": outputs["corrected"]}
        ),
    }


@scene
def cancel(source, output):
    """A job in the background, cancelled after its first tile."""
    made, context, feedback = algorithm(), QgsProcessingContext(), QgsProcessingFeedback()
    parameters = {"INPUT": source, "OUTPUT": output, "TILE": 32, "MODEL": "segsr-lite"}
    task = QgsProcessingAlgRunnerTask(made, parameters, context, feedback)
    ended, seen = [], []
    task.executed.connect(lambda ok, results: ended.append(ok))

    def look(percent):
        seen.append(percent)
        if percent > 0:
            feedback.cancel()
            task.cancel()

    feedback.progressChanged.connect(look)
    QgsApplication.taskManager().addTask(task)
    limit = time.monotonic() + 120
    while not ended and time.monotonic() < limit:
        QgsApplication.processEvents()
        time.sleep(0.02)
    return {"ended": ended, "seen": seen, "said": feedback.textLog()}


@scene
def batch(source, folder):
    """The batch window: two rows that work and one that cannot."""
    from processing.gui.BatchAlgorithmDialog import BatchAlgorithmDialog
    from qgis.PyQt.QtWidgets import QFileDialog

    rows = [(source, "a.tif"), ("/gone.tif", "b.tif"), (source, "c.tif")]
    table = [
        {
            "PARAMETERS": {
                "INPUT": repr(row),
                "MODEL": repr("bicubic"),
                "SCALE": repr("2"),
            },
            "OUTPUTS": {"OUTPUT": str(Path(folder) / name)},
        }
        for row, name in rows
    ]
    file = Path(folder) / "batch.json"
    file.write_text(json.dumps(table), encoding="utf-8")
    QFileDialog.getOpenFileName = staticmethod(lambda *a, **k: (str(file), ""))
    dialog = BatchAlgorithmDialog(algorithm())
    panel = dialog.mainWidget()
    panel.load()
    panel.checkLoadLayersOnCompletion.setChecked(False)
    rows = panel.batchRowCount()
    dialog.runAlgorithm()
    return {"rows": rows}


def load(name, layer, output, **parameters):
    """Run an algorithm on a layer, and load its output as the toolbox does."""
    from processing.gui.Postprocessing import handleAlgorithmResults

    feedback, context = QgsProcessingFeedback(), QgsProcessingContext()
    project = QgsProject.instance()
    project.addMapLayer(layer)
    context.setProject(project)
    context.addLayerToLoadOnCompletion(
        output, QgsProcessingContext.LayerDetails("x", project, "OUTPUT")
    )
    made = algorithm(name)
    _, ok = made.run({"INPUT": layer, "OUTPUT": output, **parameters}, context, feedback)
    handleAlgorithmResults(made, context, feedback)
    loaded = [x for x in project.mapLayers().values() if x.source() == output]
    if not ok or not loaded:
        return {"said": feedback.textLog()}, None
    shown = loaded[0].renderer()
    about = {"name": loaded[0].name(), "kind": shown.type(), "alpha": shown.alphaBand()}
    return {"said": feedback.textLog(), **about}, shown


@scene
def layers(source, folder):
    """Layers of outputs of red, green and blue, of one band and with alpha: names and colours."""
    from osgeo import gdal
    from qgis.core import (
        QgsContrastEnhancement,
        QgsMultiBandColorRenderer,
        QgsSingleBandGrayRenderer,
    )

    def stretch(layer, low):
        made = QgsContrastEnhancement(layer.dataProvider().dataType(1))
        made.setMinimumValue(low)
        made.setMaximumValue(2000)
        return made

    def fields(name):
        layer = QgsRasterLayer(source, name)
        renderer = QgsMultiBandColorRenderer(layer.dataProvider(), 3, 2, 1)
        for number, place in enumerate(("Red", "Green", "Blue")):
            getattr(renderer, f"set{place}ContrastEnhancement")(stretch(layer, 100 + number))
        layer.setRenderer(renderer)
        return layer

    results = {}
    for name in ("superresolve", "preview"):
        output = str(Path(folder) / f"{name}.tif")
        result, shown = load(name, fields("my fields"), output, SCALE="2")
        if shown:
            result["bands"] = [shown.redBand(), shown.greenBand(), shown.blueBand()]
            enhancements = (
                shown.redContrastEnhancement(),
                shown.greenContrastEnhancement(),
                shown.blueContrastEnhancement(),
            )
            result["minima"] = [x.minimumValue() for x in enhancements]
        results[name] = result

    gray = QgsRasterLayer(source, "near infrared")
    renderer = QgsSingleBandGrayRenderer(gray.dataProvider(), 4)
    renderer.setContrastEnhancement(stretch(gray, 321))
    gray.setRenderer(renderer)
    output = str(Path(folder) / "gray.tif")
    result, shown = load(
        "superresolve", gray, output, MODEL="bicubic", SCALE="2", EXTRA="--bidx 4,1"
    )
    if shown:
        result["bands"] = shown.usesBands()
        result["minima"] = [shown.contrastEnhancement().minimumValue()]
    results["gray"] = result

    alpha = str(Path(folder) / "rgba.tif")
    options = {"bandList": [3, 2, 1, 4], "outputType": gdal.GDT_Byte}
    gdal.Translate(alpha, source, creationOptions=["ALPHA=YES", "PHOTOMETRIC=RGB"], **options)
    output = str(Path(folder) / "rgba x2.tif")
    layer = QgsRasterLayer(alpha, "rgba")
    results["rgba"], _ = load("superresolve", layer, output, MODEL="bicubic", SCALE="2")
    return results


@scene
def dialog(source, name):
    """The window of an algorithm: what it offers, what it would run with, what Help opens."""
    from processing.gui.AlgorithmDialog import AlgorithmDialog
    from qgis.PyQt.QtCore import QObject, QUrl, pyqtSlot
    from qgis.PyQt.QtGui import QDesktopServices
    from qgis.PyQt.QtWidgets import QPushButton

    class Browser(QObject):
        opened = []  # noqa: RUF012

        @pyqtSlot(QUrl)
        def open(self, url):
            self.opened.append(url.toLocalFile())

    browser = Browser()
    QDesktopServices.setUrlHandler("file", browser, "open")
    QgsProject.instance().addMapLayer(QgsRasterLayer(source, "scene"))
    window = AlgorithmDialog(algorithm(name))
    values = window.createProcessingParameters()
    for button in window.findChildren(QPushButton):
        if button.text().replace("&", "") == "Help":
            button.click()
    return {"values": values, "opened": browser.opened}


@scene
def menu():
    """An entry in the Raster menu that comes and goes."""
    from qgis.PyQt.QtWidgets import QMenu

    class Iface:
        bar = QMenu()

        def rasterMenu(self):  # noqa: N802
            return self.bar

    import georsr_processing

    plugin = georsr_processing.classFactory(Iface())
    QgsApplication.processingRegistry().removeProvider("georsr")
    plugin.initGui()
    there = [action.text() for action in Iface.bar.actions()]
    provider = QgsApplication.processingRegistry().providerById("georsr")
    version = provider.versionInfo()
    plugin.unload()
    gone = QgsApplication.processingRegistry().providerById("georsr") is None
    return {"there": there, "left": len(Iface.bar.actions()), "gone": gone, "version": version}


@scene
def offer(missing):
    """A window without georsr: what the message bar says, and its button."""
    from processing.core.ProcessingConfig import ProcessingConfig
    from qgis.gui import QgsMessageBar
    from qgis.PyQt.QtWidgets import QLabel, QMenu, QPushButton, QTextBrowser

    class Iface:
        menu, bar = QMenu(), QgsMessageBar()

        def rasterMenu(self):  # noqa: N802
            return self.menu

        def messageBar(self):  # noqa: N802
            return self.bar

    import georsr_processing

    plugin = georsr_processing.classFactory(Iface())
    opened = []
    plugin.open_installation = lambda *_: opened.append("install")
    ProcessingConfig.settings["GEORSR_EXECUTABLE"].value = missing
    plugin.offer_installation()
    texts = [x.text() for x in Iface.bar.findChildren(QLabel)]
    texts += [x.toPlainText() for x in Iface.bar.findChildren(QTextBrowser)]
    buttons = [x for x in Iface.bar.findChildren(QPushButton) if x.text()]
    buttons[0].click()
    return {"texts": texts, "buttons": [x.text() for x in buttons], "opened": opened}


@scene
def installation(package, variables, python):
    """Install georsr into an environment of its own, by this Python."""
    from georsr_processing import provider
    from georsr_processing.georsr_executable import own_environment

    os.environ.update(variables)
    provider.find_python = lambda: python
    made = run({"PACKAGE": package}, "install")
    return made | {"left": own_environment().exists()}


@scene
def refusals(source, folder, executables, output_nowhere):
    """Everything that cannot work, with what is said and logged."""
    from osgeo import gdal
    from processing.core.ProcessingConfig import ProcessingConfig

    logged = []
    log = QgsApplication.messageLog()
    log.messageReceived.connect(lambda text, tag, level: logged.append([tag, text]))
    web = QgsRasterLayer("type=xyz&url=https://example.com/{z}/{x}/{y}.png", "map", "wms")
    gdal.Translate("/vsimem/m.tif", source)
    memory = QgsRasterLayer("/vsimem/m.tif", "passing")
    QgsProject.instance().addMapLayers([web, memory])
    out = str(Path(folder) / "never.tif")
    results = {
        "web": run({"INPUT": web, "OUTPUT": out}),
        "memory": run({"INPUT": memory, "OUTPUT": out}),
        "extra": run({"INPUT": source, "OUTPUT": out, "EXTRA": "--co 'x"}),
        "bands": run({"INPUT": source, "OUTPUT": out, "RED": 1, "GREEN": 2}),
        "folder": run({"INPUT": source, "OUTPUT": output_nowhere}),
        "information of a web map": run({"INPUT": web}, "modelinformation"),
    }
    for name, path in executables.items():
        # past the check of the settings window: the program was there when it was chosen
        ProcessingConfig.settings["GEORSR_EXECUTABLE"].value = path
        results[name] = run({"INPUT": source, "OUTPUT": out})
    return {"results": results, "logged": [text for tag, text in logged if tag == "georsr"]}


@scene
def overhead(source, folder, times):
    """Seconds of the algorithm inside a running QGIS, several times over."""
    took = []
    for number in range(times):
        begun = time.perf_counter()
        done = run({"INPUT": source, "OUTPUT": str(Path(folder) / f"{number}.tif")})
        took.append(time.perf_counter() - begun)
        if not done["ok"]:
            return done
    return {"seconds": took}


def main():
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    alive = start(arguments.pop("plugins"))
    results = SCENES[name](**arguments)
    sys.stdout.write("\nRESULT " + json.dumps(results, default=str) + "\n")
    sys.stdout.flush()
    assert alive
    os._exit(0)  # destroying windows and layers in the right order is not what is tested


if __name__ == "__main__":
    main()

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


@scene
def layers(source, output):
    """The layer of an output: its name, and its bands and stretch, as the toolbox loads it."""
    from qgis.core import (
        QgsContrastEnhancement,
        QgsMultiBandColorRenderer,
        QgsProcessingUtils,
    )

    layer = QgsRasterLayer(source, "my fields")
    renderer = QgsMultiBandColorRenderer(layer.dataProvider(), 3, 2, 1)
    for number, place in enumerate(("Red", "Green", "Blue")):
        stretch = QgsContrastEnhancement(layer.dataProvider().dataType(1))
        stretch.setMinimumValue(100 + number)
        stretch.setMaximumValue(2000 + number)
        getattr(renderer, f"set{place}ContrastEnhancement")(stretch)
    layer.setRenderer(renderer)
    QgsProject.instance().addMapLayer(layer)
    feedback, context = QgsProcessingFeedback(), QgsProcessingContext()
    context.setProject(QgsProject.instance())
    context.addLayerToLoadOnCompletion(
        output, QgsProcessingContext.LayerDetails("x", QgsProject.instance(), "OUTPUT")
    )
    made = algorithm()
    parameters = {"INPUT": layer, "OUTPUT": output, "SCALE": "2"}
    _, ok = made.run(parameters, context, feedback)
    details = context.layerToLoadOnCompletionDetails(output)
    loaded = QgsProcessingUtils.mapLayerFromString(output, context)
    details.postProcessor().postProcessLayer(loaded, context, feedback)
    shown = loaded.renderer()
    return {
        "ok": ok,
        "said": feedback.textLog(),
        "name": details.name,
        "bands": [shown.redBand(), shown.greenBand(), shown.blueBand()],
        "minima": [
            shown.redContrastEnhancement().minimumValue(),
            shown.greenContrastEnhancement().minimumValue(),
            shown.blueContrastEnhancement().minimumValue(),
        ],
        "help": made.helpUrl(),
    }


@scene
def dialog(source):
    """The window of the algorithm; what it offers and what it would run with."""
    from processing.gui.AlgorithmDialog import AlgorithmDialog

    layer = QgsRasterLayer(source, "scene")
    QgsProject.instance().addMapLayer(layer)
    window = AlgorithmDialog(algorithm())
    values = window.createProcessingParameters()
    return {"names": list(values), "model": values["MODEL"], "tile": values.get("TILE")}


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

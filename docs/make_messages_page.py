"""Write the page of messages from the code: docs/reference/troubleshooting.md.

    python docs/make_messages_page.py

Every error and warning that georsr raises is listed in a family with advice. A module that raises
errors and belongs to no family is an error of this script.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference/troubleshooting.md"
ERRORS = ROOT / "georsr/errors.py"


@dataclass(frozen=True)
class Family:
    """Messages about one subject."""

    title: str
    modules: tuple[str, ...]
    """Files and folders, from the root of the repository."""
    advice: str


FAMILIES = (
    Family(
        "Command line",
        ("cli/",),
        "`georsr COMMAND --help` lists the options of a command. Several bands are one list with "
        "commas: `--bidx 4,3,2`. A file name that begins with a hyphen needs `--` before it.",
    ),
    Family(
        "Opening a raster",
        ("georsr/io/",),
        "`georsr info FILE` opens a raster and does nothing else; `gdalinfo FILE` shows whether "
        "GDAL reads it. A damaged file has to be copied or downloaded again. "
        "[Formats](formats.md) lists what is read, and why some files are refused.",
    ),
    Family(
        "VRT",
        ("georsr/io/vrt.py",),
        "A VRT is checked before it is opened, because it can name any file. Put it into the "
        "folder of its files or above it, name the files themselves, or say that you trust it: "
        "`--allow-driver VRT` ([more](formats.md#vrt)).",
    ),
    Family(
        "Sentinel-2 products",
        ("georsr/io/sentinel2.py",),
        "Give the SAFE folder or the ZIP archive as it was downloaded. If the product is "
        "incomplete, download it again ([more](../how-to/sentinel-2.md)).",
    ),
    Family(
        "Bands, data types and classes",
        ("georsr/io/metadata.py", "georsr/io/rgb_bands.py", "georsr/inference/model_bands.py"),
        "`georsr info FILE` prints the bands and what is known of them. `--bidx R,G,B` names red, "
        "green and blue, counted from 1. `--bands all` keeps the other bands "
        "([more](../bands.md)). Class maps, masks, palettes and elevations are not images: "
        "`--model nearest` or `--model bicubic` enlarges them without inventing detail.",
    ),
    Family(
        "Values and nodata",
        ("georsr/radiometry/",),
        "`--stretch` says which values the network sees as 0 and 1, `--nodata` which value is no "
        "data ([more](../bands.md#values)). [Training](../training.md#degradations) explains "
        "degradations.",
    ),
    Family(
        "Several rasters",
        ("georsr/io/mosaic.py", "georsr/batch.py"),
        "Several inputs are one mosaic and need the same CRS, pixel size, grid, bands and data "
        "type. Rasters that do not belong together are super-resolved one by one with "
        "`--out-dir` ([batches](../how-to/batch.md)); bands in files of their own are joined with "
        "`--stack` ([mosaics](../how-to/mosaic.md)).",
    ),
    Family(
        "Area of interest",
        ("georsr/geo/aoi.py",),
        "`--bbox` is WEST,SOUTH,EAST,NORTH in the CRS of the raster, or in that of `--bbox-crs`. "
        "GeoJSON is in longitude and latitude. The message shows the bounds of both; compare them "
        "for swapped coordinates, a wrong sign or a wrong CRS.",
    ),
    Family(
        "Model and scale",
        ("georsr/models/", "georsr/inference/", "georsr/device.py"),
        "`georsr models list` names the bundled models, `georsr info FILE` describes a weights "
        "file. Weights need the network that they were made for: a file that does not fit is "
        "damaged, or of another network ([other models](../how-to/other-models.md)). What is not "
        "installed is named with the command that installs it. If a model makes values that are "
        "not finite, use `--precision fp32`.",
    ),
    Family(
        "Tiles, memory, disk and device",
        ("georsr/jobs/", "georsr/tiling/", "georsr/system.py"),
        "`--dry-run` prints what a run needs. Less memory: a smaller `--tile`, fewer `--workers`, "
        "or `--device cpu`. Less disk: `--co COMPRESS=ZSTD`, `--bbox`. See "
        "[GPU](../how-to/gpu.md).",
    ),
    Family(
        "Writing the output",
        ("georsr/writer/", "georsr/_files.py", "georsr/quality/write.py"),
        "An existing file is replaced with `--overwrite` only. An interrupted run is resumed when "
        "the same command is given again; `--no-resume` starts over. If a file could not be "
        "written or read back, look at the disk: free space, quota, permissions, network storage. "
        "The name of the output never holds an unfinished file.",
    ),
    Family(
        "Workers and clusters",
        ("georsr/distributed/",),
        "Scheduler and workers need the same versions of Python, georsr, torch and rasterio, and "
        "the same paths. What is finished is kept: give the same command again to resume. See "
        "[On a cluster](../how-to/cluster.md).",
    ),
    Family(
        "Arrays and xarray",
        ("georsr/xarray/", "georsr/inference/array.py"),
        "Arrays are (bands, rows, columns). A DataArray needs two spatial dimensions with regular "
        "coordinates; `da.rio.set_spatial_dims`, `da.rio.write_crs` and `da.rio.write_transform` "
        "of rioxarray declare what is missing.",
    ),
    Family(
        "Options",
        ("georsr/",),
        "[Options](options.md) lists the options with their types and values.",
    ),
    Family(
        "Quality and evaluation",
        ("georsr/evaluation/", "georsr/quality/", "georsr/reports.py", "georsr/geo/"),
        "An output is compared with its source (`--lr`) or with a truth. All must show the same "
        "ground in the same CRS, on pixel grids that fit. Outputs of georsr carry their model and "
        "options in tags; for other files name the model with `--model` "
        "([quality](../quality.md)).",
    ),
    Family(
        "Training",
        ("georsr/training/", "georsr/io/image_datasets.py", "georsr/io/pillow.py"),
        "Recipes are checked before anything is read; [Training](../training.md) explains their "
        "keys and the folders that `--data` may name. `--resume` needs the same recipe and "
        "`--out`.",
    ),
    Family(
        "QGIS plugin",
        ("georsr/qgis/",),
        "The page [In QGIS](../how-to/qgis.md#troubleshooting) lists the messages that QGIS shows.",
    ),
)

REMEDIES = {
    "…: no such file": "check the name; a path is relative to the current folder",
    "…: no such folder": "create it, or correct the name",
    "…: cannot be read: …": "the rest of the message is GDAL's or the system's reason",
    "…: the file is empty": "copy or download it again",
    "…: holds no polygon": "give a file with polygons, not points or lines",
    "…: has no valid pixel to learn ranges from": "give a raster with data to `--int8`",
    "interrupted": "give the same command again to continue",
    "the network has no guidance": "guidance maps need a model with a scene encoder",
    "…: is a directory, not a raster that GDAL can read": "name the rasters in it",
    "… and … do not overlap": "give two rasters of the same ground",
    "…: cannot be written: …": "make room, or choose a folder that you may write to",
    "…: cannot be written (…)": "make room, or choose a folder that you may write to",
    "array of shape …: has no pixels": "the selection is empty",
}
"""Message -> what to do, where neither the message nor the advice of its family says it."""

HEAD = """# Troubleshooting

What to do about a message. Messages are listed by subject; `…` stands for a name, a number or a
reason. Use the search of this site, or of your browser, with some words of the message. This page
is written by `docs/make_messages_page.py`.

First help:

1. Read the message to its end: it says what was found, what was expected and what to do.
2. `georsr doctor` checks the installation and super-resolves a small raster.
3. `georsr info FILE` shows how georsr reads a raster.
4. `georsr sr ... --dry-run` checks a run without starting it.
5. `-vv` shows details and the traceback; `--log run.log` writes them to a file.
6. `not foreseen: …` is a defect of georsr. Report it with the output of `-vv` and of
   `georsr doctor`.

In Python, messages name arguments (`tile_size`) in place of options (`--tile`).

## Kinds of errors and warnings

| class | exit code | meaning |
|---|---|---|
"""
EXIT_CODES = {"UsageError": "2", "InterruptedRunError": "130 or 143", "GeorsrError": "1 or 2"}


def classes() -> Iterator[tuple[str, str]]:
    """Yield the name and the first line of the docstring of every error and warning."""
    for node in ast.parse(ERRORS.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, (ast.get_docstring(node) or "").split("\n")[0]


def is_message(name: str) -> bool:
    """Return whether a function of this name makes an error or a warning."""
    return name in CLASSES or name.endswith("Error") or name in ("_refusal", "warn_once", "warn")


CLASSES = {name for name, _ in classes()}
FOREIGN = {name for name in dir(builtins) if name.endswith("Error")} | {
    "TerminatedError",
    "CRSError",
}
"""Exceptions that are not classes of georsr."""


CONSTANTS: dict[str, str] = {}
"""Texts that the module at hand has under a name."""


def text_of(node: ast.expr) -> str:
    """Return a string expression, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return CONSTANTS.get(node.value.id, "…")
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return "…"


def messages(path: Path) -> Iterator[str]:
    """Yield the texts of errors and warnings of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    CONSTANTS.clear()
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and isinstance(
            text := getattr(node.value, "value", None), str
        ):
            CONSTANTS[target.id] = text
    named: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.FunctionDef):
            returned = [n.value for n in ast.walk(node) if isinstance(n, ast.Return) and n.value]
            named.setdefault(node.name, []).extend(returned)
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        function = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if function not in FOREIGN and is_message(function):
            argument = node.args[:2][-1] if function in ("warn_once", "_refusal") else None
            for first in [argument or a for a in node.args[:1]]:
                yield from texts(first, named)


def texts(node: ast.expr, named: dict[str, list[ast.expr]]) -> Iterator[str]:
    """Yield the texts that an argument can be: itself, or those of a variable or a function."""
    name = getattr(node, "id", getattr(getattr(node, "func", None), "id", ""))
    if isinstance(node, ast.IfExp):
        yield from texts(node.body, named)
        yield from texts(node.orelse, named)
    elif name in named:
        for value in named[name]:
            yield from texts(value, {k: v for k, v in named.items() if k != name})
    elif len(text := text_of(node)) > 10 or text.isalpha():
        yield text


def family_of(module: str) -> Family:
    """Return the family of a module: the one with the longest name that fits.

    Raises
    ------
    LookupError
        None fits: add the module to a family.
    """
    fitting = [
        (len(m), i) for i, f in enumerate(FAMILIES) for m in f.modules if module.startswith(m)
    ]
    if not fitting:
        raise LookupError(f"{module}: raises errors, but is in no family of {Path(__file__).name}")
    return FAMILIES[max(fitting)[1]]


def page() -> str:
    """Return the page."""
    found: dict[str, set[str]] = {family.title: set() for family in FAMILIES}
    for folder in ("georsr", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for text in messages(path):
                found[family_of(path.relative_to(ROOT).as_posix()).title].add(
                    " ".join(text.split())
                )
    lines = [HEAD.rstrip("\n")]
    for name, meaning in classes():
        code = "" if name.endswith("Warning") else EXIT_CODES.get(name, "1")
        lines.append(f"| `{name}` | {code} | {meaning} |")
    for family in FAMILIES:
        lines += ["", f"## {family.title}", "", family.advice, ""]
        for text in sorted(found[family.title], key=lambda t: t.lstrip("… :").lower()):
            remedy = f": {REMEDIES[text]}" if text in REMEDIES else ""
            ticks = "``" if "`" in text else "`"
            space = " " if "`" in text else ""
            lines.append(f"- {ticks}{space}{text}{space}{ticks}{remedy}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

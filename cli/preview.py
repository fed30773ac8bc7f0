"""``georsr preview``: a small part by several models. ``georsr view``: an output in a browser."""

from __future__ import annotations

import threading
import webbrowser
from functools import partial
from pathlib import Path
from typing import Any

import click

from georsr.errors import UsageError

from .exit_codes import TerminatedError, print_line
from .main import importing, interrupt_at_signal
from .options import BandList, FileName, model_options, sr_options, verbosity_options


class Point(click.ParamType):  # type: ignore[type-arg]
    """``X,Y`` -> two numbers."""

    name = "x,y"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Parse; raises BadParameter (exit code 2)."""
        if isinstance(value, tuple):
            return value
        try:
            x, y = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not two numbers X,Y", param, ctx)
        return x, y


@click.command("preview", short_help="Show a small part of a raster by several models.")
@click.argument("raster", metavar="IN", type=FileName())
@click.option("--at", type=Point(), help="Centre, in the CRS of IN; by default the middle of IN.")
@click.option(
    "--size",
    type=click.IntRange(16, 1024),
    default=128,
    show_default=True,
    help="Height and width of the part, in pixels of IN.",
)
@model_options(
    "Built-in name or weights file, repeatable; by default the model of 'georsr sr'.", several=True
)
@click.option("-b", "--bidx", type=BandList(), help="Bands given to the models, in their order.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="NAME",
    help="Write NAME.png and NAME.html [default: IN_preview, in the current folder].",
)
@click.option("--overwrite", is_flag=True, help="Replace the files if they exist.")
@sr_options("num_threads")
@verbosity_options
def command(
    raster: str,
    at: tuple[float, float] | None,
    size: int,
    models: tuple[str, ...],
    scale: int | None,
    bidx: tuple[int, ...] | None,
    out: Path | None,
    overwrite: bool,
    num_threads: int | None,
    quiet: bool,
) -> None:
    """Show a small part of IN by bicubic interpolation and by models, side by side.

    The pictures are a PNG file and a page on which the line between two of them can be dragged.

    \b
    georsr preview scene.tif
    georsr preview scene.tif --at 681300,5241800 -m segsr-lite-x4 -m segsr-lite-x4-sensor
    """
    with importing():
        from georsr._files import atomic_write_text, check_writable
        from georsr.device import cpu_threads
        from georsr.evaluation.preview import make_preview
        from georsr.models.io import open_model
        from georsr.writer.paths import check_outputs

    stem = out or Path(f"{Path(raster.split('?')[0]).stem}_preview")
    png, page = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".html"))
    weights = {"model": list(models)}
    check_outputs({"--out": [png], "its page": [page]}, {"source": [raster], **weights})
    if not stem.parent.is_dir():
        raise UsageError(f"{stem.parent}: no such folder")
    for path in (png, page):
        check_writable(path, overwrite=overwrite)
    opened = [open_model(name, scale) for name in models or (None,)]
    with cpu_threads(num_threads):
        preview = make_preview(raster, opened, at=at, size=size, bidx=bidx)
    preview.write_png(png)
    atomic_write_text(page, preview.page())
    if not quiet:
        names = ", ".join(panel.name for panel in preview.panels)
        print_line(f"{png}, {page}: {preview.window} by {names}")


@click.command("view", short_help="Show an output beside its source in a browser.")
@click.argument("output", metavar="OUT", type=FileName())
@click.argument("source", metavar="[SOURCE]", required=False, type=FileName())
@click.option("--layers", type=FileName(), help="Quality layers of OUT, to lay over it.")
@click.option(
    "-b",
    "--bidx",
    type=BandList(),
    help="Bands of OUT to show: red, green, blue, or one.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Port of the server on this computer [default: a free one].",
)
@click.option(
    "--browser/--no-browser", default=True, show_default=True, help="Open the page in a browser."
)
@verbosity_options
def view(
    output: str,
    source: str | None,
    layers: str | None,
    bidx: tuple[int, ...] | None,
    port: int,
    browser: bool,
    quiet: bool,
) -> int:
    """Show OUT and its SOURCE on one map in a browser, with a line between them to drag.

    The map zooms to single pixels of a raster of any size, shows the values under the pointer, and
    lays quality layers over OUT. Without SOURCE, the file beside OUT is taken that its tags
    name. OUT may be any raster.

    The address is printed on stdout. Only this computer can reach it, and nothing is written.
    Ctrl-C ends the server.

    \b
    georsr view out.tif
    georsr view out.tif scene.tif --layers layers.tif
    """
    with importing():
        from georsr.viewer.server import ViewServer
        from georsr.viewer.tiles import View

    with View(output, source, layers, bidx) as shown, ViewServer(shown, port) as server:
        try:
            with interrupt_at_signal():
                click.echo(server.url)
                if not quiet:
                    for remark in shown.remarks():
                        click.echo(remark, err=True)
                    click.echo("Ctrl-C ends the server", err=True)
                if browser:  # a browser inside the terminal returns only when it is closed
                    start = partial(webbrowser.open, server.url)
                    threading.Thread(target=start, daemon=True).start()
                server.serve_forever()
        except KeyboardInterrupt:
            return 0
        except TerminatedError:  # as with Ctrl-C, nothing has gone wrong
            return 143
    return 0

"""``georsr view``: show an output beside its source in a browser."""

from __future__ import annotations

import threading
import webbrowser
from contextlib import suppress

import click

from .main import import_without_gc
from .options import BandList, FileName, verbosity_options


@click.command("view", short_help="Show an output beside its source in a browser.")
@click.argument("product", metavar="PRODUCT", type=FileName())
@click.argument("source", metavar="[SOURCE]", required=False, type=FileName())
@click.option(
    "--layers", type=FileName(), metavar="FILE", help="Quality layers of PRODUCT, to lay over it."
)
@click.option(
    "-b",
    "--bidx",
    type=BandList(),
    help="Bands of PRODUCT to show: red, green, blue, or one; by default those it declares.",
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
def command(
    product: str,
    source: str | None,
    layers: str | None,
    bidx: tuple[int, ...] | None,
    port: int,
    browser: bool,
    quiet: bool,
) -> None:
    """Show PRODUCT and its SOURCE on one map in a browser, with a line between them to drag.

    The map zooms to single pixels of a raster of any size, shows the values under the pointer, and
    lays quality layers over PRODUCT. Without SOURCE, the file beside PRODUCT is taken that its tags
    name. PRODUCT may be any raster.

    The address is printed on stdout. Only this computer can reach it, and nothing is written.
    Ctrl-C ends the server.

    \b
    georsr view out.tif
    georsr view out.tif scene.tif --layers layers.tif
    """
    with import_without_gc():
        from georsr.viewer.server import ViewServer
        from georsr.viewer.tiles import View

    with View(product, source, layers, bidx) as view, ViewServer(view, port) as server:
        click.echo(server.url)
        if not quiet:
            for remark in view.remarks():
                click.echo(remark, err=True)
            click.echo("Ctrl-C ends the server", err=True)
        if browser:  # a browser inside the terminal returns only when it is closed
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        with suppress(KeyboardInterrupt):
            server.serve_forever()

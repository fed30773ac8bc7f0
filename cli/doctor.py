"""``georsr doctor``: check the installation."""

from __future__ import annotations

import click

from .options import verbosity_options


@click.command("doctor", short_help="Check the installation and suggest remedies.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@verbosity_options
def command(as_json: bool, quiet: bool) -> int:
    """Check versions, devices, formats, weights and QGIS, and print a remedy for each problem.

    A small raster is super-resolved as a test. Nothing is downloaded, and no file is left behind.
    Marks: + works, - optional and not installed, ! may cause problems, x georsr cannot work.
    The exit code is 1 if there is an x.
    """
    from georsr.diagnostics import run_checks

    report = run_checks()
    if not quiet or as_json:
        click.echo(report.to_json() if as_json else report.describe())
    return 0 if report.works else 1

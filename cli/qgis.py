"""``georsr qgis``: install the plugin for QGIS."""

from __future__ import annotations

from pathlib import Path

import click

profile_option = click.option(
    "--profile",
    metavar="NAME|FOLDER",
    help="Profile of QGIS; the one named default, in every QGIS found, without this.",
)


@click.group("qgis", short_help="Install the plugin for the Processing toolbox of QGIS.")
def command() -> None:
    """Install, remove or package the plugin for the Processing toolbox of QGIS.

    \b
    georsr qgis install
    """


@command.command("install")
@profile_option
def install(profile: str | None) -> None:
    """Copy the plugin into a profile of QGIS and switch it on; it will run this very georsr.

    Close QGIS first, or restart it afterwards.
    """
    from georsr.qgis.install import PLUGIN, choose_profiles, set_plugin_enabled
    from georsr.qgis.install import install as copy_into

    for chosen in choose_profiles(profile):
        target = copy_into(chosen)
        set_plugin_enabled(chosen, PLUGIN, on=True)
        click.echo(f"{target}: installed and switched on; restart QGIS if it is running", err=True)


@command.command("uninstall")
@profile_option
def uninstall(profile: str | None) -> None:
    """Remove the plugin from a profile of QGIS."""
    from georsr.qgis.install import PLUGIN, choose_profiles, set_plugin_enabled
    from georsr.qgis.install import uninstall as take_out

    for chosen in choose_profiles(profile):
        set_plugin_enabled(chosen, PLUGIN, on=False)
        state = "removed" if take_out(chosen) else "was not installed"
        click.echo(f"{chosen.plugins / PLUGIN}: {state}", err=True)


@command.command("package")
@click.argument("destination", metavar="[OUT.zip]", type=click.Path(path_type=Path), required=False)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option(
    "--wheel",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Wheel of georsr, which the plugin installs where georsr is missing.",
)
@click.option("--email", help="Of the publisher, for plugins.qgis.org.")
@click.option("--tracker", metavar="URL", help="Where bugs are reported, for plugins.qgis.org.")
@click.option("--repository", metavar="URL", help="Where the code is, for plugins.qgis.org.")
def package(
    destination: Path | None, overwrite: bool, wheel: Path | None, **published: str | None
) -> None:
    """Write the plugin as an archive for 'Install from ZIP' or for plugins.qgis.org.

    OUT is georsr_processing-VERSION.zip by default.
    """
    from georsr.qgis.install import PLUGIN
    from georsr.qgis.install import package as write_archive
    from georsr.reports import georsr_version

    target = destination or Path(f"{PLUGIN}-{georsr_version()}.zip")
    known = {name: text for name, text in published.items() if text}
    missing = write_archive(target, overwrite, known, wheel)
    click.echo(f"{target}: written", err=True)
    if missing:
        names = ", ".join(f"--{name}" for name in missing)
        click.echo(f"Warning: plugins.qgis.org also wants {names}", err=True)

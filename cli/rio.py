"""``rio superres``: ``georsr sr`` as a subcommand of rasterio's ``rio``."""

from __future__ import annotations

import os
from typing import Any

import click

from .exit_codes import exit_code
from .main import interrupt_at_signal, prepare_process
from .sr import command as sr


class Superres(click.Command):
    """``georsr sr`` under another name: same options, messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run in the environment that ``rio`` set up; print an error as one line."""
        prepare_process()
        export_rio_credentials(ctx.obj or {})

        def run() -> Any:
            with interrupt_at_signal():
                return super(Superres, self).invoke(ctx)

        code = exit_code(run)
        if code:
            ctx.exit(code)


def export_rio_credentials(rio: dict[str, Any]) -> None:
    """Set the AWS credentials given to ``rio`` as environment variables of this process.

    A rasterio environment applies to the thread that enters it, and georsr reads in other threads.
    """
    env = rio.get("env")
    session = getattr(env, "session", None)
    if session is not None:
        for name, value in session.get_credential_options().items():
            os.environ.setdefault(name, str(value))


command = Superres(
    "superres",
    params=sr.params,
    callback=sr.callback,
    help=(sr.help or "").replace("georsr sr ", "rio superres "),
    short_help=sr.short_help,
)

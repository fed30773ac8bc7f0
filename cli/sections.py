"""Sections: the options of a command that has many, in the order in which one looks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class SectionedCommand(click.Command):
    """A command whose help lists its options under headings.

    Parameters
    ----------
    sections
        Heading -> names of options, without dashes; those named nowhere come last.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, heading by heading."""
        left: dict[str, tuple[str, str]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                left[max(parameter.opts, key=len).lstrip("-")] = record
        for heading, names in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([left.pop(name) for name in names])
        with formatter.section("Other"):
            formatter.write_dl(list(left.values()))

"""Write docs/reference/options.md from the descriptions of the options in georsr.config."""

import sys
from dataclasses import MISSING, fields
from pathlib import Path

from georsr.cli.options import flag

from georsr.config import CHOICES, OPTIONS, SRConfig

PAGE = Path(__file__).parent / "reference" / "options.md"
HEAD = """# Options

Options of a run, as keyword arguments in Python (`georsr.super_resolve(..., tile_size=128)`) and
as options of the command line (`georsr sr ... --tile 128`). This page is written by
`docs/make_options_table.py`.

- *Values*: allowed words or form; the default stands first or in bold.
- *Arrays*: whether `DataArray.georsr.super_resolve` takes the option.
- *Recorded as*: key in the tag `GEORSR_OPTIONS` of an output, if the option changes pixels.
"""
ROW = "| {} | {} | {} | {} | {} | {} |"


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for section in dict.fromkeys(option.section for option in OPTIONS.values()):
        parts.append(f"\n## {section}\n")
        parts.append(
            ROW.format("Python", "Command line", "Values", "Arrays", "Recorded as", "Meaning")
        )
        parts.append("|---|---|---|---|---|---|")
        parts += [_row(name) for name, o in OPTIONS.items() if o.section == section]
    return "\n".join(parts) + "\n"


def _row(name: str) -> str:
    option = OPTIONS[name]
    short = f"`-{option.short}`, " if option.short else ""
    recorded = (option.tag or name) if option.affects in ("pixels", "area") else ""
    return ROW.format(
        f"`{name}`",
        f"{short}`--{flag(name)}`",
        _values(name),
        "yes" if option.arrays else "",
        f"`{recorded}`" if recorded else "",
        option.help.replace("|", "\\|"),
    )


def _values(name: str) -> str:
    field = next(f for f in fields(SRConfig) if f.name == name)
    if name in CHOICES:
        return ", ".join(f"`{word}`" for word in CHOICES[name])
    form = OPTIONS[name].metavar.replace("|", "\\|") or str(field.type).replace("|", "\\|")
    if field.default in (MISSING, None, ()):
        return f"`{form}`"
    return f"`{form}`, **{field.default}**"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)

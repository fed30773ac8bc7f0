"""Options and parameter types that several commands share.

The options of a run are built from their description in `georsr.config`.
"""

from __future__ import annotations

import functools
import logging
import re
import shlex
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from georsr._files import check_regular
from georsr.config import CHOICES, OPTIONS, TYPES, SRConfig
from georsr.errors import OutputError, UsageError, escape_control_characters, redact_url

from .main import skip_drivers, without_bar

if TYPE_CHECKING:
    from georsr.progress import Progress


class SectionedCommand(click.Command):
    """A command whose help lists its options under headings.

    Parameters
    ----------
    sections
        Heading -> names of options, without dashes. Fields of `georsr.SRConfig` follow these,
        under the heading that their description names.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, heading by heading."""
        records: dict[str, tuple[str, str]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                records[max(parameter.opts, key=len).lstrip("-")] = record
        for heading, names in self.sections.items():
            fields = [flag(name) for name, o in OPTIONS.items() if o.section == heading]
            with formatter.section(heading):
                formatter.write_dl([records.pop(name) for name in (*names, *fields)])
        with formatter.section("Other"):
            formatter.write_dl(list(records.values()))


F = TypeVar("F", bound=Callable[..., Any])


class FileName(click.ParamType):  # type: ignore[type-arg]
    """Path or address, taken as it is; the shell completes files."""

    name = "file"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the item that has the shell complete files."""
        return [CompletionItem(incomplete, type="file")]


class ModelName(FileName):
    """Name of a built-in model, or a weights file; the shell completes both."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin with ``incomplete``; files if there are none."""
        from georsr.models.registry import list_models

        names = [spec.name for spec in list_models() if spec.name.startswith(incomplete)]
        return [*map(CompletionItem, names)] or super().shell_complete(ctx, param, incomplete)


class BandChoice(click.Choice):  # type: ignore[type-arg]
    """Choice of ``--bands``; names the option that takes band numbers if those are given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse; raises BadParameter (exit code 2)."""
        if re.fullmatch(r"[\d, ]+", str(value)):
            numbers = re.findall(r"\d+", str(value))
            choice = " ".join(f"-b {number}" for number in numbers)
            remedy = (
                f"--bidx {value}"
                if len(numbers) <= 3
                else f"gdal_translate {choice} IN few.vrt, then --bands all for few.vrt"
            )
            self.fail(f"expected rgb or all, got {value}; for those bands: {remedy}")
        return super().convert(value, param, ctx)


class BandList(click.ParamType):  # type: ignore[type-arg]
    """``4,3,2`` -> (4, 3, 2), order kept."""

    name = "bands"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse; raises BadParameter (exit code 2)."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of band numbers", param, ctx)


class CreationOption(click.ParamType):  # type: ignore[type-arg]
    """``NAME=VALUE`` -> (NAME, VALUE), the value's case kept (rasterio's own lowers it)."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Parse; raises BadParameter (exit code 2)."""
        if isinstance(value, tuple):
            return value
        name, sign, text = str(value).partition("=")
        if not sign or not name:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name.upper(), text


class NodataValue(click.ParamType):  # type: ignore[type-arg]
    """A number, or ``none``."""

    name = "value|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse; raises BadParameter (exit code 2)."""
        if str(value).lower() == "none":
            return "none"
        return click.FLOAT.convert(value, param, ctx)


class Bounds(click.ParamType):  # type: ignore[type-arg]
    """``W,S,E,N`` -> four numbers."""

    name = "w,s,e,n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Parse; raises BadParameter (exit code 2)."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 4:
            self.fail(f"{value!r} is not four numbers WEST,SOUTH,EAST,NORTH", param, ctx)
        return numbers


def model_options(
    text: str = "Name of a built-in model (see 'georsr models list') or weights file.",
    *,
    several: bool = False,
) -> Callable[[F], F]:
    """Return a decorator that adds ``--model`` with this help text, and ``--scale``."""
    names = ("-m", "--model", "models") if several else ("-m", "--model")
    scale_help = "Scale factor; by default the model's."

    def add(command: F) -> F:
        command = click.option("-s", "--scale", type=click.IntRange(1, 8), help=scale_help)(command)
        model = click.option(
            *names, multiple=several, type=ModelName(), metavar="NAME|FILE", help=text
        )
        return model(command)

    return add


def _allow_drivers(
    ctx: click.Context, param: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Register the drivers that the user allows, which the command line otherwise skips."""
    if names:
        skip_drivers(names)
    return names


def _as_dict(
    ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, str], ...]
) -> dict[str, str]:
    return dict(pairs)


_PARAMETERS: dict[str, dict[str, Any]] = {
    "indexes": {"type": BandList()},
    "output_bands": {"type": BandChoice(CHOICES["output_bands"])},
    "aoi": {"type": FileName()},
    "src_nodata": {"type": NodataValue()},
    "bounds": {"type": Bounds()},
    "creation_options": {"type": CreationOption(), "multiple": True, "callback": _as_dict},
    "allow_drivers": {"multiple": True, "callback": _allow_drivers},
}
"""What click has to know of options whose type does not say it."""


def flag(name: str) -> str:
    """Return the name on the command line, without dashes, of a field of `georsr.SRConfig`."""
    return OPTIONS[name].flag or name.replace("_", "-")


def sr_option(name: str) -> Callable[[F], F]:
    """Return the click option of a field of `georsr.SRConfig`, made from its description there."""
    option, kind = OPTIONS[name], TYPES[name]
    default = SRConfig.__dataclass_fields__[name].default
    long = f"--{flag(name)}"
    own = _PARAMETERS.get(name, {})
    facts: dict[str, Any] = {"help": option.help, "metavar": option.metavar or None}
    if kind is bool and default is False:
        facts |= {"is_flag": True}
    elif bool in (kind, *typing.get_args(kind)):
        long += f"/--no-{flag(name)}"
        facts |= {"default": default, "show_default": default is not None}
    elif not own.get("multiple"):
        kind = own.get("type") or _click_type(name)
        facts |= {"type": kind, "default": default, "show_default": True}
    short = [f"-{option.short}"] if option.short else []
    return click.option(*short, long, name, **facts | own)


def _click_type(name: str) -> Any:
    """Return the click type of a field with one value."""
    if name in CHOICES:
        return click.Choice(CHOICES[name])
    kinds = typing.get_args(TYPES[name]) or (TYPES[name],)
    if OPTIONS[name].minimum is not None:
        return click.IntRange(OPTIONS[name].minimum)
    return next(kind for kind in (int, float, str) if kind in kinds)


def sr_options(*names: str) -> Callable[[F], F]:
    """Return a decorator that adds the options of fields of `georsr.SRConfig`."""

    def add(command: F) -> F:
        for name in reversed(names):
            command = sr_option(name)(command)
        return command

    return add


# the defaults of tile size, halo and overlap are those of the model: georsr/models/spec.py
TILE_OPTIONS = ("tile_size", "halo", "overlap", "blend")
AREA_OPTIONS = ("bounds", "bounds_crs", "aoi", "aoi_mask")
DEVICE_OPTIONS = ("device", "precision", "fast", "batch_size", "num_threads")


def cluster_options(command: F) -> F:
    """Add ``--workers``, ``--scheduler``, ``--parts`` and the certificates of ``--scheduler``."""
    for option in (
        click.option(
            "--tls-key",
            type=FileName(),
            help="Private key of --tls-cert, if not in that file; PEM.",
        ),
        click.option(
            "--tls-cert",
            type=FileName(),
            help="Certificate of this client for a tls:// scheduler and its workers; PEM.",
        ),
        click.option(
            "--tls-ca",
            type=FileName(),
            help="Certificates of the authorities that sign for a tls:// scheduler and its "
            "workers; PEM. Dask's configuration supplies what is not given.",
        ),
        click.option(
            "--parts",
            type=FileName(),
            metavar="FOLDER",
            help="Write several COGs into FOLDER instead of one file, and OUT.vrt that joins them.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Run on the workers of a Dask scheduler: tls://10.0.0.1:8786, or tcp:// if you "
            "trust everybody on the network.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            metavar="N",
            help="Run on N worker processes, started on this computer.",
        ),
    ):
        command = option(command)
    return command


def cluster_of(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the values of `cluster_options` from ``options``, and return keywords of the API."""
    files = [options.pop(name) for name in ("tls_ca", "tls_cert", "tls_key")]
    machines = {name: options.pop(name) for name in ("workers", "scheduler", "parts")}
    if any(file is not None for file in files):
        from georsr.distributed.address import security_of

        machines["security"] = security_of(*files)
    return machines


class Redacted(logging.Formatter):
    """Formatter that removes passwords and signatures in URLs from log lines and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        return redact_url(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the message alone, which is one line."""
        return escape_control_characters(super().formatMessage(record))


class BarHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes log lines to stderr; takes a progress bar away for the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        with without_bar():
            super().emit(record)


def verbosity_options(command: F) -> F:
    """Add ``--verbose``, ``--quiet`` and ``--log``, and set up logging before the command runs."""

    @functools.wraps(command)
    def run(*args: Any, verbose: int, quiet: bool, log: str | None, **options: Any) -> Any:
        set_up_logging(verbose, quiet, log)
        return command(*args, quiet=quiet, **options)

    for option in (
        click.option(
            "--log",
            type=FileName(),
            metavar="FILE.log",
            help="Also write messages, with times and details, to the end of this file.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="No progress bar and no notices."),
        click.option("-v", "--verbose", count=True, help="More on stderr; -vv shows tracebacks."),
    ):
        run = option(run)
    return cast(F, run)


def set_up_logging(verbose: int, quiet: bool, path: str | None) -> None:
    """Send log messages to stderr and, if wanted, to a file."""
    lowest = logging.ERROR if quiet else logging.WARNING
    stream = BarHandler(sys.stderr)
    stream.setFormatter(Redacted("%(message)s"))
    stream.setLevel(max(logging.DEBUG, lowest - 10 * verbose))
    logger = logging.getLogger("georsr")
    logger.handlers = [stream]
    logger.setLevel(stream.level)
    if path is not None:
        file = open_log(path)
        file.setFormatter(Redacted("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(file)
        logger.setLevel(logging.DEBUG)
        logger.debug("georsr %s", redact_url(shlex.join(sys.argv[1:])))


def open_log(path: str) -> logging.FileHandler:
    """Open a log file to write to its end.

    Raises
    ------
    UsageError
        Its name does not end in .log, which keeps rasters safe from a slip.
    OutputError
        It is a link, or cannot be written.
    """
    if not path.endswith(".log"):
        raise UsageError(f"--log {path}: the name must end in .log")
    check_regular(Path(path))
    try:
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"--log {path}: cannot be written: {error.strerror}") from error


def progress_option(command: F) -> F:
    """Add ``--progress``."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "bar", "json", "none"]),
        default="auto",
        show_default=True,
        help="How to show progress on stderr.",
    )(command)


def make_progress(kind: str, quiet: bool) -> Progress:
    """Return the progress object for ``auto``, ``bar``, ``json`` or ``none``."""
    from georsr.progress import JsonProgress, LineProgress, NullProgress, TqdmProgress

    if quiet or kind == "none":
        return NullProgress()
    if kind == "json":
        return JsonProgress()
    if kind == "auto" and not sys.stderr.isatty():
        return LineProgress()
    return TqdmProgress(always=kind == "bar")

"""Options and parameter types that several commands share, in the words of rio and GDAL.

Sections: the options of a command that has many, in the order in which one looks for them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from georsr.redact import escape_control_characters, redact_url

from .main import skip_drivers

if TYPE_CHECKING:
    from georsr.progress import Progress


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


F = TypeVar("F", bound=Callable[..., Any])


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


class Box(click.ParamType):  # type: ignore[type-arg]
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


def model_options(command: F) -> F:
    """``--model`` and ``--scale``."""
    command = click.option(
        "-s", "--scale", type=click.IntRange(1, 8), help="Factor; the model's own by default."
    )(command)
    return click.option(
        "-m",
        "--model",
        metavar="NAME|FILE",
        help="Built-in name or weights file (see 'georsr models list').",
    )(command)


def _allow_drivers(
    ctx: click.Context, param: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Register the drivers that the user allows, which the command line otherwise skips."""
    if names:
        skip_drivers(names)
    return names


def allow_driver_option(command: F) -> F:
    """``--allow-driver``."""
    return click.option(
        "--allow-driver",
        "allow_drivers",
        multiple=True,
        metavar="NAME",
        callback=_allow_drivers,
        help="Also read IN by this GDAL driver, repeatable. VRT: trust a VRT whose files lie "
        "elsewhere, or that is not called .vrt. See 'Formats' in the documentation.",
    )(command)


def band_options(command: F) -> F:
    """``--bidx``, ``--nodata``, ``--alpha`` and ``--allow-driver``."""
    for option in (
        allow_driver_option,
        click.option(
            "--alpha",
            type=click.Choice(["auto", "mask", "data"]),
            default="auto",
            show_default=True,
            help="What a band called alpha is: transparency, or an image, such as near infrared; "
            "auto looks at it.",
        ),
        click.option("--nodata", type=float, help="Value of invalid source pixels."),
        click.option(
            "-b",
            "--bidx",
            type=BandList(),
            help="Bands the network sees, in its order: 4,3,2. By default those that say they are "
            "red, green and blue.",
        ),
    ):
        command = option(command)
    return command


def other_band_options(command: F) -> F:
    """``--bands`` and ``--band-mode``."""
    for option in (
        click.option(
            "--band-mode",
            type=click.Choice(["inject", "each", "bicubic"]),
            default="inject",
            show_default=True,
            help="Bands the network does not see: add the detail of those it sees, give it each of "
            "them by itself, or only enlarge them.",
        ),
        click.option(
            "--bands",
            type=click.Choice(["guide", "all"]),
            default="guide",
            show_default=True,
            help="Bands of OUT: those the network sees, or all of IN.",
        ),
    ):
        command = option(command)
    return command


def area_options(command: F) -> F:
    """``--bbox``, ``--bbox-crs``, ``--aoi`` and ``--aoi-mask``."""
    for option in (
        click.option(
            "--aoi-mask/--no-aoi-mask",
            default=True,
            show_default=True,
            help="Make pixels outside the polygons invalid, or only cut to their extent.",
        ),
        click.option(
            "--aoi",
            metavar="FILE",
            help="Only what these polygons cover: GeoJSON, longitude and latitude unless it says "
            "otherwise. Its pixels are those of the whole raster's product.",
        ),
        click.option("--bbox-crs", metavar="CRS", help="CRS of --bbox; the raster's by default."),
        click.option("--bbox", type=Box(), help="Only this part: WEST,SOUTH,EAST,NORTH."),
    ):
        command = option(command)
    return command


def compute_options(command: F) -> F:
    """``--device``, ``--precision``, ``--batch`` and ``--jobs``."""
    for option in (
        click.option("-j", "--jobs", type=click.IntRange(1), help="CPU threads of the network."),
        click.option(
            "--batch",
            type=click.IntRange(1),
            help="Tiles per call on a GPU; the CPU always takes one.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
            default="auto",
            show_default=True,
            help="Arithmetic of the network.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            metavar="auto|cpu|cuda[:N]|mps",
            help="Where the network runs.",
        ),
    ):
        command = option(command)
    return command


def backend_option(command: F) -> F:
    """``--backend``."""
    return click.option(
        "--backend",
        type=click.Choice(["auto", "torch", "onnx"]),
        default="auto",
        show_default=True,
        help="What computes: torch, or ONNX Runtime (CPU, converts the network first); auto: "
        "whatever the model's file is for.",
    )(command)


def consistency_options(command: F) -> F:
    """``--consistency``, ``--consistency-kernel`` and ``--sensor``."""
    for option in (
        click.option(
            "--sensor",
            metavar="mtf=X,noise=Y",
            help="How the source was recorded, for models that are told: contrast at the Nyquist "
            "frequency, noise as a share of the value range; what is not given is estimated.",
        ),
        click.option(
            "--consistency-kernel",
            metavar="bicubic|mean|psf:MTF[+SHARPEN]|scene",
            help="What a source pixel is of the output's: the model's by default; scene: whichever "
            "of several fits this scene best.",
        ),
        click.option(
            "--consistency",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            show_default=True,
            help="Make the output, shrunk again, give the source back; auto: where the model knows "
            "by which kernel, and noise, which a network takes away, does not dominate.",
        ),
    ):
        command = option(command)
    return command


def compile_option(command: F) -> F:
    """``--compile``."""
    return click.option(
        "--compile/--no-compile",
        default=False,
        show_default=True,
        help="Compile the network first (torch.compile): can pay for large rasters.",
    )(command)


def tta_option(command: F) -> F:
    """``--tta``."""
    return click.option(
        "--tta/--no-tta",
        default=False,
        show_default=True,
        help="The mean of the network's answers in all eight orientations: 8 times the cost, "
        "a little better.",
    )(command)


def tile_options(command: F) -> F:
    """``--tile``, ``--halo``, ``--overlap`` and ``--blend``."""
    for option in (
        click.option(
            "--blend",
            type=click.Choice(["feather", "crop"]),
            default="feather",
            show_default=True,
            help="Blend the overlap of tiles, or cut in its middle.",
        ),
        click.option("--overlap", type=int, help="Blended pixels between tiles."),
        click.option("--halo", type=int, help="Discarded pixels round a tile."),
        click.option("--tile", type=int, help="Tile size in source pixels."),
    ):
        command = option(command)
    return command


def cluster_options(command: F) -> F:
    """``--workers``, ``--scheduler``, ``--tls-ca``, ``--tls-cert``, ``--tls-key``, ``--parts``."""
    for option in (
        click.option(
            "--parts",
            metavar="FOLDER",
            help="Write many COGs into FOLDER instead of one file, and OUT.vrt over them.",
        ),
        click.option(
            "--tls-key",
            metavar="FILE",
            help="Key of --tls-cert, unless that file holds it; PEM.",
        ),
        click.option(
            "--tls-cert",
            metavar="FILE",
            help="Certificate to show to a tls:// scheduler and its workers; PEM.",
        ),
        click.option(
            "--tls-ca",
            metavar="FILE",
            help="Certificates of those that may sign for a tls:// scheduler and its workers; PEM. "
            "Dask's configuration is asked for what is not given.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Let the workers of a running Dask scheduler do the work: tls://10.0.0.1:8786, or "
            "tcp:// where the whole network is trusted.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            metavar="N",
            help="Start N worker processes here, and let them do the work.",
        ),
    ):
        command = option(command)
    return command


def cluster_of(options: dict[str, Any]) -> dict[str, Any]:
    """Take the values of `cluster_options` out of ``options``, as `georsr.api` wants them."""
    files = [options.pop(name) for name in ("tls_ca", "tls_cert", "tls_key")]
    machines = {name: options.pop(name) for name in ("workers", "scheduler", "parts")}
    if any(file is not None for file in files):
        from georsr.distributed.address import security_of

        machines["security"] = security_of(*files)
    return machines


class Redacted(logging.Formatter):
    """Lines of the log, tracebacks too, without passwords and signatures of addresses."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return redact_url(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """The message alone, which is one line."""
        return escape_control_characters(super().formatMessage(record))


def verbosity_options(command: F) -> F:
    """``--verbose`` and ``--quiet``: sets up logging to stderr."""

    def verbose(ctx: click.Context, param: click.Parameter, count: int) -> int:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Redacted("%(message)s"))
        logger = logging.getLogger("georsr")
        logger.handlers = [handler]
        logger.setLevel(max(logging.DEBUG, logging.WARNING - 10 * count))
        return count

    command = click.option(
        "-v",
        "--verbose",
        count=True,
        callback=verbose,
        expose_value=False,
        help="More on stderr; -vv shows tracebacks.",
    )(command)
    return click.option("-q", "--quiet", is_flag=True, help="No progress bar.")(command)


def progress_option(command: F) -> F:
    """``--progress``."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "bar", "json", "none"]),
        default="auto",
        show_default=True,
        help="How to show progress on stderr.",
    )(command)


def make_progress(kind: str, quiet: bool) -> Progress:
    """``auto``, ``bar``, ``json`` or ``none`` -> the face that shows it."""
    from georsr.progress import JsonProgress, NullProgress, TqdmProgress

    if quiet or kind == "none":
        return NullProgress()
    if kind == "json":
        return JsonProgress()
    return TqdmProgress(always=kind == "bar")

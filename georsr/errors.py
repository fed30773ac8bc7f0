"""Errors and warnings of georsr, their wording, and the removal of secrets from text.

Errors are also instances of the built-in exceptions that Python users expect, such as
``ValueError`` and ``OSError``. Warnings can be filtered by class:
``warnings.simplefilter("ignore", georsr.GeoreferenceWarning)``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote

ALLOWED_PARAMETERS = re.compile(
    r"a_\w+|bands|block|colorinterp|eco|epo|expand|exponent|gcp|if|mask|no(gcp|rat)|ot|outsize|ovr"
    r"|projwin(_srs)?|r|scale|sd(_name)?|sha256|srcwin|strict|tr|transpose|unscale"
)
"""URL parameters that are kept: those of ``vrt://``, and the checksum of a model."""

_WORD = r"[^\s\"'<>\\{}]"
# pathlib turns two slashes into one; a scheme of one letter is a drive of Windows
_ADDRESS = re.compile(rf"\b([a-z][a-z0-9+.-]+:/+)({_WORD}*)", re.IGNORECASE)
_USER = re.compile(r"^[^/?#]*@")
_NESTED = re.compile(r"(:/+)[^/?#@\s]*@")
# GDAL accepts blanks in parameters; only the last one ends at a blank
_VSI = re.compile(
    rf"(/vsi[a-z0-9_]*)\?((?:\w[\w.]*=[^&\"'\n{{}}]*&)*"
    rf"\w[\w.]*=(?:(?:Bearer|Basic|Token) +)?{_WORD}*)",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"\b(\w*(?:password|passwd|pwd|secret|access_?key|access_?key_id|api_?key|token)\s*=\s*"
    r"|authorization\s*[=:]\s*)"
    r"(?:(?:Bearer|Basic|Token)\s+)?(?:'[^']*'|[^\s\"'&,;\\{}]+)",
    re.IGNORECASE,
)
_PARTS = re.compile(r"(.*?)([?#].*?|&[\w.-]+=.*?)?([:;,.)]*)", re.DOTALL)


def escape_control_characters(text: str) -> str:
    """Escape control characters and line ends, so that a terminal only shows the text.

    File names, tags and messages of libraries are untrusted: they must not colour the screen, move
    the cursor, or start a line that looks like one of georsr.
    """
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text
    )


def join_lines(lines: Iterable[str]) -> str:
    """Return the lines of a text for a terminal, with the control characters of each escaped."""
    return "\n".join(map(escape_control_characters, lines))


def redact_url(text: str) -> str:
    """Remove user names, passwords and URL parameters from text.

    Parameters
    ----------
    text
        URL, file name, message or document. URLs may be anywhere in it, also in the forms of GDAL:
        ``/vsicurl/``, ``/vsicurl?url=...``, ``vrt://``, subdatasets and connection strings.

    Returns
    -------
    str
        ``https://me:word@host/a.tif?sig=abc`` becomes ``https://host/a.tif``. Only the parameters
        in `ALLOWED_PARAMETERS` are kept, because any other may be a token. Text without a URL or a
        password is unchanged.
    """
    text = _VSI.sub(_redact_vsi, text)
    text = _ADDRESS.sub(_redact_match, text)
    return _NAMED.sub(r"\1***", text)


def _redact_vsi(match: re.Match[str]) -> str:
    """Turn ``/vsicurl?header.X=secret&url=URL`` into ``/vsicurl/URL``."""
    terms = dict(term.partition("=")[::2] for term in match[2].split("&"))
    punctuation = ":" if match[2].endswith(":") else ""
    return f"{match[1]}/{unquote(terms.get('url', '').rstrip(':'))}{punctuation}"


def _redact_match(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    parts = _PARTS.fullmatch(rest)
    assert parts is not None
    location, terms, punctuation = parts.groups(default="")
    location = _NESTED.sub(r"\1", _USER.sub("", location))
    kept = [
        t for t in re.split(r"[?&#]", terms) if ALLOWED_PARAMETERS.fullmatch(t.partition("=")[0])
    ]
    separator = terms[:1] if kept else ""
    return f"{scheme}{location}{separator}{'&'.join(kept)}{punctuation}"


ARGUMENTS = {
    "allow-driver": "allow_drivers",
    "band-mode": "other_bands",
    "bands": "output_bands",
    "batch": "batch_size",
    "bbox": "bounds",
    "bbox-crs": "bounds_crs",
    "bidx": "indexes",
    "co": "creation_options",
    "jobs": "num_threads",
    "lr": "lr_path",
    "nodata": "src_nodata",
    "out-dir": "super_resolve_many",
    "tile": "tile_size",
    "tls-ca": "tls_ca_file",
    "tls-cert": "tls_client_cert",
    "tls-key": "tls_client_key",
}
"""Option of the command line -> argument in Python, where they differ in more than hyphens."""
_FLAGS = "aoi-mask|check-resources|cog|compile|dynamic|fast|force|overwrite|resume|stack|tta|verify"
_VALUE = (
    r"(?:tcp|tls)://[\w.-]+:\w+|[A-Z](?:[\w,:]*\w)?|-?\d[\w.,-]*\b"
    r"|(?:auto|bicubic|cpu|cuda|data|fp32|int8|mask|none|off|onnx|on|per-band|rgb|all|torch)\b"
)
_OPTION = re.compile(
    rf"`[^`]*`|(?<![\w-])--(?:(no-)?({_FLAGS})|([a-z][a-z0-9-]*[a-z0-9])(?:[ =]({_VALUE}))?)"
    r"(?![\w-])"
)
_speaks_of_options = False


@contextmanager
def options_in_messages(speaks_of_options: bool = True) -> Iterator[None]:
    """Let messages name options of the command line inside the block: ``--tile``.

    Everywhere else they name arguments of Python: ``tile_size``. It holds for all threads.
    """
    global _speaks_of_options
    before, _speaks_of_options = _speaks_of_options, speaks_of_options
    try:
        yield
    finally:
        _speaks_of_options = before


def speaks_of_options() -> bool:
    """Return whether messages name options of the command line at present."""
    return _speaks_of_options


def worded(message: str) -> str:
    """Return a message that names options as whoever called georsr knows them.

    In Python, ``--nodata none`` becomes ``src_nodata="none"``, and ``--no-resume``
    ``resume=False``. Commands between backticks stay. On the command line nothing changes.
    """
    if _speaks_of_options:
        return message
    message = message.replace("same command", "same call").replace("the command", "the call")
    return _OPTION.sub(_argument, message)


def _argument(match: re.Match[str]) -> str:
    no, flag, option, value = match.groups()
    if flag:
        return f"{flag.replace('-', '_')}={not no}"
    if not option:
        return match[0]
    name = ARGUMENTS.get(option, option.replace("-", "_"))
    if value is None:
        return name
    if name == "indexes":
        return f"{name}=({value.replace(',', ', ')})"
    if name == "allow_drivers":
        return f'{name}=("{value}",)'
    return f"{name}={value}" if value.strip("-").replace(".", "").isdigit() else f'{name}="{value}"'


class _Worded:
    """Exception whose text is worded for its reader when it is shown."""

    args: tuple[object, ...]

    def __init__(self, message: str = "") -> None:
        super().__init__(redact_url(message))  # type: ignore[call-arg]

    def __str__(self) -> str:
        return worded(str(self.args[0])) if self.args else ""


class GeorsrError(_Worded, Exception):
    """Base class of all errors that georsr raises on purpose.

    The message is one line: what is wrong, where (file, band, window), what was expected, and what
    to do. It names arguments of Python; on the command line, options. Passwords and signatures in
    URLs are removed from it.
    """


class UsageError(GeorsrError, ValueError):
    """An option, band, name or path is wrong, or options contradict each other."""


class InputError(GeorsrError, OSError):
    """A raster, image or data set cannot be read."""


class OutputError(GeorsrError, OSError):
    """An output cannot be written, or differs from what was written when it is read back."""


class ModelError(GeorsrError, ValueError):
    """A model is unknown or damaged, or does not fit the data."""


class ResourceError(GeorsrError, RuntimeError):
    """There is not enough memory or disk space, or a device is missing."""


class InterruptedRunError(GeorsrError):
    """A run was cancelled before it was complete."""


class GeorsrWarning(_Worded, UserWarning):
    """Base class of all warnings of georsr."""


class GeoreferenceWarning(GeorsrWarning):
    """The input has no georeferencing, or GeoTIFF stores it with small changes."""


class BandWarning(GeorsrWarning):
    """The role of a band was assumed, or its name or unit cannot be read."""


class MetadataWarning(GeorsrWarning):
    """Metadata of the input are not in the output, where they would be wrong or have no place."""


class RadiometryWarning(GeorsrWarning):
    """The pixel values may not be what they seem: undeclared gaps, noise, upsampled pixels."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or its class."""
    return (str(error).splitlines() or [type(error).__name__])[0]

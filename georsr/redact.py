"""Remove passwords, signatures and control characters from messages."""

from __future__ import annotations

import re
import unicodedata
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

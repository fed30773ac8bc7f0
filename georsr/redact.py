"""Text for people: without passwords and signatures, and without control characters."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

ALLOWED_PARAMETERS = re.compile(
    r"a_\w+|bands|block|colorinterp|eco|epo|expand|exponent|gcp|if|mask|no(gcp|rat)|ot|outsize|ovr"
    r"|projwin(_srs)?|r|scale|sd(_name)?|sha256|srcwin|strict|tr|transpose|unscale"
)
"""Parameters of an address that are kept: those of ``vrt://``, and a model's checksum."""

_WORD = r"[^\s\"'<>\\{}]"
# pathlib makes one slash of two; a scheme of one letter is a drive
_ADDRESS = re.compile(rf"\b([a-z][a-z0-9+.-]+:/+)({_WORD}*)", re.IGNORECASE)
_USER = re.compile(r"^[^/?#]*@")
_NESTED = re.compile(r"(:/+)[^/?#@\s]*@")
# terms that another one follows may hold blanks, as GDAL accepts them; the last one ends at one
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
    """Escape what would do more than show in a terminal: control characters and line ends.

    Names of files, tags and messages of libraries are somebody else's: they must not colour the
    screen, move the cursor, or begin a line that looks like one of ours.
    """
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text
    )


def redact_url(text: str) -> str:
    """Leave out what gives access: user names, passwords, and parameters of addresses.

    Parameters
    ----------
    text
        An address, the name of a file, a message or a document; addresses may stand anywhere in
        it, also in GDAL's notations: ``/vsicurl/``, ``/vsicurl?url=...``, ``vrt://``, subdatasets
        and connection strings.

    Returns
    -------
    str
        ``https://me:word@host/a.tif?sig=abc`` becomes ``https://host/a.tif``. Of parameters only
        those of `ALLOWED_PARAMETERS` are kept, since any other name may carry a token. Text without
        an address or a password is returned as it is.
    """
    text = _VSI.sub(_vsi, text)
    text = _ADDRESS.sub(_address, text)
    return _NAMED.sub(r"\1***", text)


def _vsi(found: re.Match[str]) -> str:
    """``/vsicurl?header.X=secret&url=ADDRESS`` -> ``/vsicurl/ADDRESS``."""
    terms = dict(term.partition("=")[::2] for term in found[2].split("&"))
    punctuation = ":" if found[2].endswith(":") else ""
    return f"{found[1]}/{unquote(terms.get('url', '').rstrip(':'))}{punctuation}"


def _address(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    parts = _PARTS.fullmatch(rest)
    assert parts is not None
    place, terms, punctuation = parts.groups(default="")
    place = _NESTED.sub(r"\1", _USER.sub("", place))
    kept = [
        t for t in re.split(r"[?&#]", terms) if ALLOWED_PARAMETERS.fullmatch(t.partition("=")[0])
    ]
    mark = terms[:1] if kept else ""
    return f"{scheme}{place}{mark}{'&'.join(kept)}{punctuation}"

"""Serve the page of a view, its tiles and values, to the browsers of this computer."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from georsr.errors import GeorsrError, UsageError
from georsr.viewer.tiles import View

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")
"""Names under which a browser may ask: a page that has its own name point here is refused."""
PAGES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "view.js": ("view.js", "text/javascript; charset=utf-8"),
    "view.css": ("view.css", "text/css; charset=utf-8"),
    "leaflet.js": ("leaflet.js", "text/javascript; charset=utf-8"),
    "leaflet.css": ("leaflet.css", "text/css; charset=utf-8"),
}
"""What follows the token in an address -> file in the folder ``static``, and its type."""
TILE = re.compile(r"tiles/(\w{1,20})/(-?\d{1,2})/(-?\d{1,7})/(-?\d{1,7})\.png")
VALUES = re.compile(r"values/(-?\d{1,9})/(-?\d{1,9})")
MAXIMUM = re.compile(r"maximum/(\w{1,20})")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Answer = tuple[int, str, bytes]
"""Status, type, body."""


class ViewServer(ThreadingHTTPServer):
    """Server of a view on the loopback address, behind a random token in the path.

    Port 0 takes a free one.

    Raises
    ------
    UsageError
        The port is in use, or may not be used.
    """

    allow_reuse_address = os.name == "posix"  # elsewhere another process could share the port

    def __init__(self, view: View, port: int = 0) -> None:
        self.view = view
        self.prefix = f"/{secrets.token_urlsafe(16)}/"
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"--port {port}: cannot be used: {error.strerror}; choose another, or leave it out"
            ) from error

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}{self.prefix}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what ended a connection, mostly a browser that does not want a tile any more."""
        log.debug("a connection ended: %s", sys.exception())

    def answer(self, path: str) -> Answer:
        """Return the answer to a path behind the token."""
        if path in PAGES:
            name, kind = PAGES[path]
            return 200, kind, (resources.files("georsr.viewer") / "static" / name).read_bytes()
        rasters = self.view.rasters
        if (match := TILE.fullmatch(path)) and match[1] in rasters:
            zoom, x, y = (int(number) for number in match.groups()[1:])
            raster = rasters[match[1]]
            if raster.min_zoom <= zoom <= raster.max_zoom:
                return 200, "image/png", raster.tile(zoom, x, y)
        elif path == "view.json":
            return _as_json(self.view.describe())
        elif match := VALUES.fullmatch(path):
            column, row = int(match[1]), int(match[2])
            return _as_json({name: r.values(column, row) for name, r in rasters.items()})
        elif (match := MAXIMUM.fullmatch(path)) and match[1] in self.view.layers:
            return _as_json(self.view.layers[match[1]].maximum)
        return _as_text(404, "no such page")


class _Handler(BaseHTTPRequestHandler):
    """Answer GET and HEAD; the server refuses other methods."""

    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "georsr", ""
    timeout = 60

    def do_GET(self) -> None:
        """Send an answer."""
        status, kind, body = self._answer()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self) -> Answer:
        if self.headers.get("Host", "").partition(":")[0] not in HOSTS:
            return _as_text(403, "this server answers to 127.0.0.1 and localhost only")
        prefix = self.server.prefix
        path = self.path.partition("?")[0]
        if not secrets.compare_digest(path[: len(prefix)].encode(), prefix.encode()):
            return _as_text(404, "no such page; use the address that georsr view printed")
        try:
            return self.server.answer(path[len(prefix) :])
        except GeorsrError as error:
            log.warning("%s", error)
            return _as_text(500, "a raster cannot be read; the reason is in the terminal")

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request for -vv; without its address, which holds the token."""
        log.debug("%s", self.command)


def _as_text(status: int, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()


def _as_json(content: Any) -> Answer:
    return 200, "application/json", json.dumps(content).encode()

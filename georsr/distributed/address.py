"""Check the address and certificates of a scheduler before Dask connects to it."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from threading import Event
from typing import Any

from distributed import Security
from distributed.comm.addressing import get_address_host_port, parse_address
from distributed.comm.registry import get_backend

from georsr._files import refuse_pipe
from georsr.errors import ResourceError, UsageError

HANDSHAKE_TIMEOUT = 2.0
"""Seconds within which a scheduler sends its part of Dask's handshake, which comes first."""
MAX_HANDSHAKE_BYTES = 2**16
"""Largest size of the handshake; a server that announces a longer one is no Dask scheduler."""
RETRY_SECONDS = 0.1
"""Seconds between two attempts to connect to a scheduler that may still be starting."""
TLS_OPTIONS = {
    "tls_ca_file": "--tls-ca",
    "tls_client_cert": "--tls-cert",
    "tls_client_key": "--tls-key",
}
"""Attributes of `distributed.Security` that a client needs -> the options that set them."""
PEM_ERRORS = (ssl.SSLError, ValueError, TypeError)
"""Exceptions for files that hold no valid certificate or key."""
OR_CONFIGURED = "or distributed.comm.tls in Dask's configuration"


@dataclass(frozen=True)
class SchedulerAddress:
    """Address of a scheduler, with the certificates for connecting to it."""

    address: str
    """As the user wrote it."""
    scheme: str
    host: str
    port: int
    security: Security
    context: ssl.SSLContext | None
    """TLS context of ``security``; None unless the scheme is ``tls``."""

    def wait_until_ready(self, seconds: float, cancelled: Event) -> bool:
        """Wait until the scheduler answers; return whether the connection is safe.

        It is safe if it is encrypted or stays on this machine. Another thread may end the wait by
        setting ``cancelled``.

        Raises
        ------
        ResourceError
            Nothing answers, something other than a scheduler answers, or a certificate is
            rejected by either side.
        """
        if self.scheme not in ("tcp", "tls"):
            return True  # Dask checks these
        until = time.monotonic() + seconds
        while True:
            try:
                return self._handshake() or self.scheme == "tls"
            except ssl.SSLError as error:
                raise self._failure(_tls_error_text(error, self.security)) from error
            except OSError as error:
                if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
                    raise self._failure(f"no such host: {self.host} ({error.strerror})") from error
                if time.monotonic() > until or cancelled.is_set():
                    raise self._failure(
                        f"does not answer within {seconds:.0f} s ({_reason(error)}); "
                        "is it running, and may this machine reach it?"
                    ) from error
            cancelled.wait(RETRY_SECONDS)

    def _handshake(self) -> bool:
        """Check the answer; return whether the scheduler is on this machine."""
        with self._connection() as plain:
            local = ip_address(plain.getpeername()[0].partition("%")[0]).is_loopback
            try:
                if self.context is None:
                    self._check(plain)
                else:
                    with self.context.wrap_socket(plain) as encrypted:
                        self._check(encrypted)
            except TimeoutError:
                if self.context is None and self._speaks_tls():
                    raise self._failure(
                        f"it speaks TLS: use --scheduler tls://{self.address.rpartition('://')[2]} "
                        "with --tls-ca, --tls-cert and --tls-key"
                    ) from None
                raise
            return local

    def _connection(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), HANDSHAKE_TIMEOUT)

    def _check(self, connection: socket.socket) -> None:
        """Refuse an answer that is not the beginning of Dask's handshake: eight bytes, its length.

        Only its length is checked; nothing that it says is interpreted.
        """
        with connection.makefile("rb") as file:
            start = file.read(8)
        if len(start) < 8:
            raise ConnectionError("it closes the connection at once")
        if not 0 < int.from_bytes(start, "little") < MAX_HANDSHAKE_BYTES:
            raise self._failure("the answer is not that of a Dask scheduler")

    def _speaks_tls(self) -> bool:
        """Return whether the server expects TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
        try:
            with self._connection() as plain, context.wrap_socket(plain):
                return True
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
        except OSError:
            return False

    def _failure(self, text: str) -> ResourceError:
        return ResourceError(f"--scheduler {self.address}: {text}")


def security_of(ca: str | None, cert: str | None, key: str | None) -> Security | None:
    """Return the certificates of three files, or None if all three are None.

    Dask's configuration replaces single files that are None.
    """
    given = zip(TLS_OPTIONS, (ca, cert, key), strict=True)
    files = {name: file for name, file in given if file is not None}
    return _security(require_encryption=True, **files) if files else None


def _security(**given: Any) -> Security:
    """Create a `Security`; raise UsageError if Dask's configuration is invalid."""
    try:
        return Security(**given)
    except ValueError as error:  # an unknown TLS version
        raise UsageError(f"Dask's configuration: {error}") from error


def scheduler_address(address: str, security: Security | None = None) -> SchedulerAddress:
    """Check an address and certificates, without connecting.

    Parameters
    ----------
    address
        Such as ``tcp://10.0.0.1:8786`` or ``tls://10.0.0.1:8786``.
    security
        Certificates for ``tls``, as file names or PEM text; None takes those of Dask's
        configuration.

    Raises
    ------
    UsageError
        The address is invalid; or certificates are missing, cannot be read or do not match.
    """
    given = security is not None
    security = security or _security()
    try:
        scheme, _ = parse_address(address)
        get_backend(scheme)
        host, port = get_address_host_port(address) if scheme in ("tcp", "tls") else ("", 1)
        if not 0 < port < 2**16 or (not host and port != 1) or any(map(str.isspace, address)):
            raise ValueError("no host, or no port from 1 to 65535")
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"--scheduler {address}: expected an address such as tcp://10.0.0.1:8786 or "
            f"tls://10.0.0.1:8786 ({error})"
        ) from error
    if scheme == "tcp" and (given or security.require_encryption):
        reason = "certificates are given" if given else "Dask's configuration requires encryption"
        raise UsageError(f"--scheduler {address}: {reason}, but tcp:// has none; use tls://")
    context = _context(address, security) if scheme == "tls" else None
    return SchedulerAddress(address, scheme, host, port, security, context)


def _context(address: str, security: Security) -> ssl.SSLContext:
    """Create the TLS context of a client."""
    missing = [
        option
        for name, option in TLS_OPTIONS.items()
        if not getattr(security, name) and name != "tls_client_key"  # may be in the other file
    ]
    if missing:
        raise UsageError(
            f"--scheduler {address}: needs certificates; give {' and '.join(missing)}, "
            f"{OR_CONFIGURED}"
        )
    texts = [_pem_text(option, getattr(security, name)) for name, option in TLS_OPTIONS.items()]
    if any("ENCRYPTED" in text for text in texts):
        raise UsageError(
            f"{_named(security, 'tls_client_key')}: has a password, which Dask cannot be given; "
            "expected a key without one, in a file that only you may read"
        )
    try:
        context: ssl.SSLContext = security.get_connection_args("client")["ssl_context"]
    except PEM_ERRORS as error:
        raise UsageError(_pem_error_text(error, security)) from error
    return context


def _pem_text(option: str, value: str | None) -> str:
    """Return PEM text, read from a file unless the value itself is PEM text."""
    if value is None or "\n" in value:
        return value or ""
    refuse_pipe(Path(value))
    try:
        return Path(value).read_text(encoding="latin-1")
    except OSError as error:
        raise UsageError(f"{option} {value}: {_reason(error)}; expected a PEM file") from error


def _named(security: Security, name: str) -> str:
    """Return the option and the file of a certificate or key, for messages."""
    value = getattr(security, name)
    if not value:
        return _named(security, "tls_client_cert")  # that file holds the key, too
    return f"{TLS_OPTIONS[name]} {'(PEM text)' if chr(10) in value else value}"


def _pem_error_text(error: Exception, security: Security) -> str:
    """Describe what is wrong with the files of certificates and keys."""
    cert, key = (_named(security, name) for name in ("tls_client_cert", "tls_client_key"))
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"{key}: is not the key of {cert}; expected the two that were made together"
    try:
        ca = getattr(security, "tls_ca_file")  # noqa: B009, its type does not name it
        location = {"cadata" if "\n" in ca else "cafile": ca}
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(**location)
    except PEM_ERRORS:
        return f"{_named(security, 'tls_ca_file')}: holds no certificate; expected a PEM file"
    return f"{cert}, {key}: expected a certificate and its key in PEM files ({_reason(error)})"


def _tls_error_text(error: ssl.SSLError, security: Security) -> str:
    """Describe why a TLS connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted: {error.verify_message}; expected one signed by the "
            f"CA of {_named(security, 'tls_ca_file')}"
        )
    if "ALERT" in (error.reason or ""):
        return (
            f"refuses {_named(security, 'tls_client_cert')}: {_reason(error)}; expected a "
            "certificate signed by the scheduler's CA"
        )
    return f"does not speak TLS ({_reason(error)}); is it a tcp:// scheduler?"


def _reason(error: Exception) -> str:
    """Return the message of a system or OpenSSL error, without line numbers."""
    reason = getattr(error, "reason", None)
    if reason:
        return str(reason).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)

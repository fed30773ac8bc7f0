"""What can go wrong, one class per kind, each with the exit code the command line gives it."""

from __future__ import annotations

from georsr.redact import redact_url


class GeorsrError(Exception):
    """Root of every error georsr raises on purpose.

    The message is one line: what, where (file, band, window), got, expected, what to do. Passwords
    and signatures of addresses are left out of it.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redact_url(message))


class UsageError(GeorsrError, ValueError):
    """The request itself cannot be honoured: wrong option, band, name or path."""

    exit_code = 2


class InputError(GeorsrError, OSError):
    """A raster, image or data set could not be read."""


class OutputError(GeorsrError, OSError):
    """A product could not be written, or did not verify after writing."""


class ModelError(GeorsrError, ValueError):
    """A model is unknown, damaged, or does not fit what it is asked to do."""


class ResourceError(GeorsrError, RuntimeError):
    """Memory, disk or a device is not there in the amount the work needs."""


class InterruptedRunError(GeorsrError):
    """A run was asked to end before it was done."""

    exit_code = 130


class GeorsrWarning(UserWarning):
    """Root of every warning georsr issues; filter on it or on its leaves."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redact_url(message))


class GeoreferenceWarning(GeorsrWarning):
    """The source carries no or unusual georeferencing; the output carries the same."""

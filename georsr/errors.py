"""Errors and warnings of georsr, one class for each kind.

Errors are also instances of the built-in exceptions that Python users expect, such as
``ValueError`` and ``OSError``. Warnings can be filtered by class:
``warnings.simplefilter("ignore", georsr.GeoreferenceWarning)``.
"""

from __future__ import annotations

from georsr.redact import redact_url


class GeorsrError(Exception):
    """Base class of all errors that georsr raises on purpose.

    The message is one line: what is wrong, where (file, band, window), what was expected, and what
    to do. Passwords and signatures in URLs are removed from it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redact_url(message))


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


class GeorsrWarning(UserWarning):
    """Base class of all warnings of georsr."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redact_url(message))


class GeoreferenceWarning(GeorsrWarning):
    """The input has no georeferencing, or GeoTIFF stores it with small changes."""


class BandWarning(GeorsrWarning):
    """The role of a band was assumed, or its name or unit cannot be read."""


class RadiometryWarning(GeorsrWarning):
    """The pixel values may not be what they seem: undeclared gaps, noise, upsampled pixels."""

"""Command lines, from the values of parameters.

Models that come with georsr, for the choices of the dialogs; other ones are files.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

MODELS = (
    "segsr-lite-x4-sensor",
    "segsr-lite-x2-sensor",
    "segsr-lite-x4",
    "segsr-lite-x2",
    "bicubic-x4",
    "bicubic-x3",
    "bicubic-x2",
)
"""The first is the default. A list of its own, because QGIS builds dialogs at start-up, when no
other program is to be run; a test of georsr compares it with the models there are."""

WEIGHTS = "Weights (*.safetensors *.pth *.onnx);;All files (*)"
DEVICES = ("auto", "cpu", "cuda", "mps")
CONSISTENCY = ("auto", "on", "off")
BANDS = ("guide", "all")
BAND_MODES = ("inject", "each", "bicubic")


ALWAYS = ("--progress=json", "--json", "--overwrite", "--no-resume")
"""Progress and the report for this plugin. An unfinished product is not kept: whoever cancels in
QGIS wants nothing left. That an existing file is replaced was confirmed in QGIS's own dialog; it
stays what it is until the new one is complete."""
_ACCESS = re.compile(r"(?<=://)[^/?#@\s]*@|[?#].*")


@dataclass(frozen=True)
class Request:
    """What to super-resolve, and how; None and empty mean georsr's own default.

    Attributes
    ----------
    source, output : str
        Rasters.
    model : str
        Name or weights file.
    bands : sequence of int
        From 1, in the model's order.
    box : tuple of float or None
        West, south, east, north, in the CRS of the source's file.
    mask : str or None
        GeoJSON file of polygons.
    outside_invalid : bool
        Whether pixels outside the polygons become invalid, or the extent is only cut to them.
    tile : int or None
        Source pixels.
    device : str
    nodata : float or None
        Of the source.
    cog : bool
    consistency : str
        ``auto``, ``on`` or ``off``.
    tta : bool
        The mean of eight orientations.
    quality : str or None
        Quality layers to write as well.
    product_bands : str
        ``guide``: the bands the network sees; ``all``.
    band_mode : str
        How the other ones are made: ``inject``, ``each`` or ``bicubic``.
    extra : str
        More options, quoted as in a shell.
    """

    source: str
    output: str
    model: str
    bands: Sequence[int] = ()
    box: tuple[float, float, float, float] | None = None
    mask: str | None = None
    outside_invalid: bool = True
    tile: int | None = None
    device: str = "auto"
    nodata: float | None = None
    cog: bool = False
    consistency: str = "auto"
    tta: bool = False
    quality: str | None = None
    product_bands: str = "guide"
    band_mode: str = "inject"
    extra: str = ""

    def arguments(self) -> list[str]:
        """Arguments of ``georsr`` for this request."""
        words = ["sr", *ALWAYS, f"--model={self.model}", f"--device={self.device}"]
        given = {
            "--bidx": ",".join(map(str, self.bands)) or None,
            "--bbox": None if self.box is None else ",".join(map(repr, self.box)),
            "--aoi": self.mask,
            "--tile": self.tile,
            "--nodata": self.nodata,
            "--quality": self.quality,
            "--consistency": self._unusual("consistency"),
            "--bands": self._unusual("product_bands"),
            "--band-mode": self._unusual("band_mode"),
        }
        words += [f"{name}={value}" for name, value in given.items() if value is not None]
        flags = {
            "--no-aoi-mask": self.mask is not None and not self.outside_invalid,
            "--cog": self.cog,
            "--tta": self.tta,
        }
        words += [name for name, wanted in flags.items() if wanted]
        return [*words, *split_extra(self.extra), "--", self.source, self.output]

    def _unusual(self, name: str) -> str | None:
        """Value of a field, None where it is the default."""
        value = getattr(self, name)
        return None if value == getattr(type(self), name) else str(value)


def layers_arguments(
    source: str, product: str, output: str, model: str, mask: str | None, device: str
) -> list[str]:
    """Arguments of ``georsr`` for the quality layers of a finished product.

    Parameters
    ----------
    source, product, output
        Rasters.
    model
        Weights file that made the product; empty where its tags name a built-in model.
    mask
        GeoJSON file of the polygons it was cut to.
    device
    """
    words = ["quality", "layers", *ALWAYS, f"--device={device}"]
    words += [f"--model={model}"] * bool(model)
    words += [f"--aoi={mask}"] * (mask is not None)
    return [*words, "--", source, product, output]


def split_extra(text: str) -> list[str]:
    """Words of additional options; backslashes are letters, as in paths of Windows.

    Raises
    ------
    ValueError
        A quotation mark without its partner.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return list(lexer)


def shown(command: Sequence[str]) -> str:
    """One line for a shell, without passwords and parameters of addresses, which may be secret."""
    remote = ("://" in word or word.startswith("/vsi") for word in command)
    words = (_ACCESS.sub("", word) if r else word for word, r in zip(command, remote, strict=True))
    return " ".join(map(shlex.quote, words))

"""Build command lines of georsr from the values of dialogs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass

MODELS = ("segsr-lite-sensor", "segsr-lite", "bicubic", "nearest")
SCALES = ("4", "2", "3")
"""Built-in models and their factors; the first are the default. QGIS builds its dialogs at start-up
without running georsr, so the choices of the dialogs are repeated here; a test compares them with
georsr's."""


def model_name(model: str, scale: str) -> str:
    """Return georsr's name of a built-in model at a factor, such as ``segsr-lite-x4-sensor``."""
    family, _, kind = model.partition("-sensor")
    return f"{family}-x{scale}" + ("-sensor" if family != model else kind)


WEIGHTS = "Weights (*.safetensors *.pth *.onnx);;All files (*)"
DEVICES = ("auto", "cpu", "cuda", "mps")
CONSISTENCY = ("auto", "on", "off")
OUTPUT_BANDS = ("rgb", "all")
OTHER_BANDS = ("inject", "per-band", "bicubic")


ALWAYS = ("--progress=json", "--json", "--overwrite", "--no-resume")
"""Options of every run. Progress and report are read by this plugin. An unfinished output is not
kept, as users of QGIS expect after Cancel. QGIS has asked whether an existing file may be replaced;
it is unchanged until the new one is complete."""
_ACCESS = re.compile(r"(?<=://)[^/?#@\s]*@|[?#].*")


@dataclass(frozen=True)
class Request:
    """Values of the dialog of `georsr sr`; None and empty values stand for georsr's default.

    Attributes
    ----------
    source, output : str
        Paths of the rasters.
    model : str
        Name of a built-in model, or weights file.
    indexes : sequence of int
        Bands given to the model, counted from 1, in the model's order.
    bounds : tuple of float or None
        West, south, east, north, in the CRS of the source's file.
    aoi : str or None
        GeoJSON file of polygons.
    aoi_mask : bool
        Whether pixels outside the polygons become nodata; otherwise the output is only cropped.
    tile_size : int or None
        Height and width of a tile in source pixels.
    device : str
        Device that runs the model, one of `DEVICES`.
    src_nodata : str or None
        Nodata value of the source, or ``none``: every value counts.
    cog : bool
        Whether to write a Cloud Optimized GeoTIFF.
    consistency : str
        One of `CONSISTENCY`.
    sensor : str or None
        Properties of the sensor, such as ``mtf=0.2,noise=0.01``; None: all are estimated.
    tta : bool
        Whether to average the predictions for eight rotations and flips.
    quality : str or None
        Path of quality layers to write as well.
    output_bands : str
        Bands of the output, one of `OUTPUT_BANDS`.
    other_bands : str
        How bands that are not given to the model are enlarged, one of `OTHER_BANDS`.
    extra : str
        More options of the command line, quoted as in a shell.
    """

    source: str
    output: str
    model: str
    indexes: Sequence[int] = ()
    bounds: tuple[float, float, float, float] | None = None
    aoi: str | None = None
    aoi_mask: bool = True
    tile_size: int | None = None
    device: str = "auto"
    src_nodata: str | None = None
    cog: bool = False
    consistency: str = "auto"
    sensor: str | None = None
    tta: bool = False
    quality: str | None = None
    output_bands: str = "rgb"
    other_bands: str = "inject"
    extra: str = ""

    def arguments(self) -> list[str]:
        """Return the arguments of ``georsr`` for this request."""
        words = ["sr", *ALWAYS, f"--model={self.model}", f"--device={self.device}"]
        given = {
            "--bidx": ",".join(map(str, self.indexes)) or None,
            "--bbox": None if self.bounds is None else ",".join(map(repr, self.bounds)),
            "--aoi": self.aoi,
            "--tile": self.tile_size,
            "--nodata": self.src_nodata,
            "--quality": self.quality,
            "--consistency": self._unless_default("consistency"),
            "--sensor": self.sensor,
            "--bands": self._unless_default("output_bands"),
            "--band-mode": self._unless_default("other_bands"),
        }
        words += [f"{name}={value}" for name, value in given.items() if value is not None]
        flags = {
            "--no-aoi-mask": self.aoi is not None and not self.aoi_mask,
            "--cog": self.cog,
            "--tta": self.tta,
        }
        words += [name for name, wanted in flags.items() if wanted]
        return [*words, *split_extra(self.extra), "--", self.source, self.output]

    def _unless_default(self, name: str) -> str | None:
        """Return the value of a field; None if it is the default."""
        value = getattr(self, name)
        return None if value == getattr(type(self), name) else str(value)


def layers_arguments(
    source: str, output: str, layers: str, model: str, aoi: str | None, device: str
) -> list[str]:
    """Return the arguments of ``georsr`` for the quality layers of an output.

    Parameters
    ----------
    source, output, layers
        Paths of the input raster, of the super-resolved raster, and of the layers to write.
    model
        Weights file of the model that computed the output; empty if its tags name a built-in model.
    aoi
        GeoJSON file of the polygons to which the output was cut.
    device
        Device that runs the model, one of `DEVICES`.
    """
    words = ["quality", "layers", *ALWAYS, f"--device={device}"]
    words += [f"--model={model}"] * bool(model)
    words += [f"--aoi={aoi}"] * (aoi is not None)
    return [*words, "--", source, output, layers]


FIELDS = {
    "--bidx": ("RED", "Red band, Green band, Blue band"),
    "--bands": ("OUTPUT_BANDS", "Bands of the output"),
    "--band-mode": ("OTHER_BANDS", "How the other bands are enlarged"),
    "--bbox": ("EXTENT", "Extent"),
    "--aoi": ("MASK", "Mask layer"),
    "--nodata": ("NODATA", "Nodata value of the input"),
    "--tile": ("TILE", "Tile size"),
    "--device": ("DEVICE", "Device"),
    "--model": ("MODEL", "Model"),
    "--scale": ("SCALE", "Scale"),
    "--consistency": ("CONSISTENCY", "Consistency with the input"),
    "--sensor": ("SENSOR", "Sensor"),
    "--quality": ("QUALITY", "Quality layers"),
    "--cog": ("COG", "Cloud Optimized GeoTIFF"),
}
"""Options of georsr -> parameters of 'Super-resolve raster' and their fields in the dialog."""
_OPTION = re.compile(
    r"`[^`]*`|(--[a-z][a-z-]*[a-z])"
    r"(?: ([A-Z][\w,]*\w|[A-Z]|-?\d[\d.,]*\b|(?:u?int|float|fp)\d+\b"
    r"|(?:all|auto|bicubic|cpu|cuda|data|mask|none|off|onnx|on|per-band|torch)\b))?"
)
"""A command of another program, or an option of georsr with its value."""


def with_fields(message: str, parameters: Collection[str]) -> str:
    """Return a message of georsr with the names of fields in place of options.

    Options without a field can be written into the field 'More options'. What the algorithm with
    these parameters lacks is a field of 'Super-resolve raster'.
    """

    def place(parameter: str) -> str:
        return "" if parameter in parameters else " of 'Super-resolve raster'"

    def field(match: re.Match[str]) -> str:
        option, value = match.groups()
        if option is None:
            return match[0]
        if option not in FIELDS:
            return f"{match[0]} (in 'More options'{place('EXTRA')})"
        parameter, text = FIELDS[option]
        return f"'{text}'{place(parameter)}" + (
            f": {value}" if value and option != "--bidx" else ""
        )

    return _OPTION.sub(field, message)


def split_extra(text: str) -> list[str]:
    """Split additional options into words; backslashes are kept, as in paths of Windows.

    Raises
    ------
    ValueError
        A quotation mark is not closed.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return list(lexer)


def shown(command: Sequence[str]) -> str:
    """Return one line for a shell, without passwords and URL parameters, which may be secret."""
    remote = ("://" in word or word.startswith("/vsi") for word in command)
    words = (_ACCESS.sub("", word) if r else word for word, r in zip(command, remote, strict=True))
    return " ".join(map(shlex.quote, words))

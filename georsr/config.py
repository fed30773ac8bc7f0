"""SRConfig: every choice of a super-resolution run, frozen and serialisable."""

from __future__ import annotations

import json
import math
import operator
import re
import types
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import PurePath
from typing import Any

from georsr.errors import UsageError
from georsr.radiometry.kernels import parse_kernel
from georsr.radiometry.sensor import parse_sensor
from georsr.redact import redact_url

CHOICES = {
    "blend": ("feather", "crop"),
    "bands": ("guide", "all"),
    "band_mode": ("inject", "each", "bicubic"),
    "alpha": ("auto", "mask", "data"),
    "consistency": ("auto", "on", "off"),
    "backend": ("auto", "torch", "onnx"),
}
"""Options that are one of a few words."""
UNTOLD = (
    "allow_drivers",
    "backend",
    "batch",
    "blocksize",
    "check_space",
    "cog",
    "creation_options",
    "device",
    "jobs",
    "max_pixels",
    "overwrite",
    "precision",
    "resume",
    "verify",
)
"""Options about the machine, or the file: they are not part of how the pixels were made."""
LONGEST = 100_000
"""Characters of options in a product's tags: a list of bands can be long."""
LARGEST = {"tile": 65536, "halo": 16384, "overlap": 16384}
"""Most pixels that a product's tags can ask for."""
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
_CRS = re.compile(r"[A-Za-z]+:\w+")


@dataclass(frozen=True)
class SRConfig:
    """Options of one run; the defaults suit most rasters.

    Nothing here depends on the machine but ``device``, ``precision``, ``batch`` and ``jobs``,
    and of these only the first two may change the result, and ``compile`` its last digits.
    """

    bidx: tuple[int, ...] | None = None
    """Bands the network sees, from 1, in the model's order; None takes those that say they are red,
    green and blue, or the only ones there are."""
    bands: str = "guide"
    """``guide``: the product has the bands the network sees; ``all``: every band of the source."""
    band_mode: str = "inject"
    """What becomes of the others: ``inject`` adds the guide's detail, ``each`` gives them to the
    network one by one, ``bicubic`` only enlarges them."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north: only this part becomes the product."""
    bbox_crs: str | None = None
    """CRS of ``bbox``; None takes the raster's."""
    aoi: str | dict[str, Any] | None = None
    """GeoJSON file of polygons, or what one holds: only this part becomes the product."""
    aoi_mask: bool = True
    """Make pixels outside the polygons invalid; otherwise only their extent counts."""
    stretch: str = "auto"
    """``auto``, ``dtype``, ``LO,HI``, ``percentile[:P,Q]`` or ``reflectance[:LO,HI]``: what maps to
    0..1."""
    consistency: str = "auto"
    """``on``: the product, shrunk, gives its source back; ``auto``: where the model says by which
    kernel it was made to, and noise, which it takes away, does not dominate."""
    consistency_kernel: str | None = None
    """``bicubic``, ``mean``, ``psf:MTF``, ``psf:MTF+SHARPEN``, or ``scene`` for what fits best;
    None takes the model's."""
    sensor: str | None = None
    """``mtf=0.2,noise=0.01``: how the source was recorded, for models that are told; what is not
    given is estimated. See :func:`georsr.radiometry.sensor.parse_sensor`."""
    alpha: str = "auto"
    """What a band called alpha is: ``mask``, ``data`` (an image, such as near infrared), or
    ``auto`` for what its values say."""
    nodata: float | None = None
    """Source value to treat as invalid, overriding the file's."""
    dst_nodata: str | None = None
    """Nodata value of the output, ``none``, or None for the source's."""
    dtype: str | None = None
    """Data type of the output; None keeps the source's."""
    tile: int | None = None
    """Tile size in input pixels; None takes the model's."""
    halo: int | None = None
    """Discarded frame of a tile in input pixels; None takes the model's."""
    overlap: int | None = None
    """Blended zone in input pixels; None takes the model's."""
    blend: str = "feather"
    """``feather`` blends the overlap, ``crop`` cuts in its middle."""
    batch: int | None = None
    """Tiles per call of the network; None lets the device decide (the CPU always takes 1)."""
    device: str = "auto"
    precision: str = "auto"
    tta: bool = False
    """Give the mean of the network's answers in all eight orientations, at eight times the cost."""
    flat_tiles: bool = False
    """Leave tiles of one value in each band as they are, without asking the network."""
    backend: str = "auto"
    """``torch``, ``onnx`` (ONNX Runtime, CPU), or ``auto``: what the model's file is for."""
    compile: bool = False
    """Let torch.compile build the network: pays for large rasters, may change the last digits."""
    jobs: int | None = None
    """CPU threads of the network; None leaves torch's choice."""
    blocksize: int = 512
    """Height and width of the output's blocks, a multiple of 16."""
    creation_options: dict[str, str] = field(default_factory=dict)
    """GDAL creation options of the output."""
    cog: bool = False
    """Write a Cloud Optimized GeoTIFF with overviews."""
    overwrite: bool = False
    verify: bool = True
    """Read the product back and compare checksums before it gets its name."""
    max_pixels: int = 100_000_000_000
    """Refuse rasters that declare more pixels than this."""
    check_space: bool = True
    """Refuse to start where the disk cannot hold the uncompressed product."""
    resume: bool | None = None
    """None: go on with an interrupted run of the same source, model and options, and leave what is
    finished if this one is interrupted. True: an error where there is none to go on with. False:
    neither."""
    force: bool = False
    """Work on what does not look like an image, too: classes, palettes, elevations."""
    allow_drivers: tuple[str, ...] = ()
    """GDAL drivers that may read the source besides those of images; ``VRT``: a VRT is trusted,
    whatever it is called and wherever on this machine its files lie."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r}: expected {' or '.join(known)}")
        self._check_source()
        if self.blocksize < 16 or self.blocksize % 16:
            raise UsageError(f"blocksize {self.blocksize}: expected a multiple of 16")
        for name in ("tile", "batch", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: expected at least 1")
        if self.bbox is not None and len(self.bbox) != 4:
            raise UsageError(f"bbox of {len(self.bbox)} numbers: expected west, south, east, north")
        if self.bbox_crs is not None and self.bbox is None:
            raise UsageError("bbox-crs without bbox: give both, or neither")
        for name in ("halo", "overlap"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} {value}: expected at least 0")

    def _check_source(self) -> None:
        """What is said of how the source was made."""
        if self.sensor is not None:
            parse_sensor(self.sensor)
        if self.consistency_kernel is not None:
            if self.consistency == "off":
                raise UsageError("consistency-kernel without consistency: give one of them")
            if self.consistency_kernel != "scene":
                parse_kernel(self.consistency_kernel)

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    def tags_json(self) -> str:
        """One line of JSON for a product's tags: what was chosen that made its pixels.

        Options at their default are left out. Polygons are told by the name of their file, which
        alone does not bring them back.
        """
        chosen = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in UNTOLD and getattr(self, f.name) != f.default
        }
        if isinstance(self.aoi, dict):
            chosen["aoi"] = "polygons in memory"
        elif self.aoi is not None:
            chosen["aoi"] = PurePath(redact_url(self.aoi)).name
        return json.dumps(chosen, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SRConfig:
        """Rebuild from :meth:`to_json`.

        Raises
        ------
        UsageError
            Not JSON, an unknown option, or a value of another type.
        """
        return cls(**_read_options(text))

    @classmethod
    def from_tag(cls, text: str, **options: Any) -> SRConfig:
        """Rebuild from :meth:`tags_json`, as a product's tags hold it; whoever made it may have
        lied.

        Only options that make pixels are taken, in sensible ranges. ``compile`` is not, since it
        runs a compiler, and changes no more than the last digits; nor is ``aoi``, the name of a
        file.

        Parameters
        ----------
        text
            JSON.
        **options
            The user's own choices, which come before what the tags say.

        Raises
        ------
        UsageError
            Not such options, or polygons that the user has to name.
        """
        if len(text) > LONGEST:
            raise UsageError(f"options of {len(text)} characters, expected at most {LONGEST}")
        told = _read_options(text)
        if wrong := sorted(set(told) & set(UNTOLD)):
            raise UsageError(f"{wrong[0]} is set, which does not say how pixels were made")
        told.pop("compile", None)
        area = told.pop("aoi", None)
        if area is not None and options.get("aoi") is None:
            raise UsageError(f"it was cut to the polygons of {area!r:.80}; give them with --aoi")
        _check_ranges(told)
        return cls(**{**told, **options})


def _read_options(text: str) -> dict[str, Any]:
    """Parse JSON of fields of SRConfig; each value is of its field's type."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("options are not valid JSON") from error
    if not isinstance(values, dict):
        raise UsageError(f"options are {values!r:.80}, expected NAME: VALUE pairs")
    kinds = typing.get_type_hints(SRConfig)
    if unknown := sorted(set(values) - set(kinds)):
        raise UsageError(f"unknown options: {', '.join(unknown):.80}")
    declared = {f.name: f.type for f in fields(SRConfig)}
    for name, value in values.items():
        if not _is_of(value, kinds[name]):
            raise UsageError(f"{name} is {value!r:.80}, expected {declared[name]}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value parsed from JSON has the annotated type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_is_of(value, each) for each in inner)
    if origin is tuple:
        many = inner[-1] is Ellipsis
        return (
            isinstance(value, list)
            and (many or len(value) == len(inner))
            and all(_is_of(item, inner[0]) for item in value)
        )
    if origin is dict:
        return isinstance(value, dict) and all(_is_of(v, inner[1]) for v in value.values())
    if isinstance(value, bool):
        return kind in (bool, Any)
    return kind is Any or isinstance(value, (int, float) if kind is float else kind)


def _check_ranges(told: dict[str, Any]) -> None:
    """Refuse numbers and names that no product is made with."""
    sound: dict[str, Callable[[Any], object]] = {
        "bidx": lambda bands: all(1 <= number <= 65535 for number in bands),
        "bbox": lambda box: all(map(math.isfinite, box)),
        "bbox_crs": _CRS.fullmatch,
        "dtype": DTYPES.__contains__,
        **{name: partial(operator.ge, most) for name, most in LARGEST.items()},
    }
    for name, check in sound.items():
        value = told.get(name)
        if value is not None and not check(value):
            raise UsageError(f"{name} is {value!r:.80}, which no product is made with")

"""SRConfig: the options of a super-resolution run, frozen and serializable.

Each option is described once, in the metadata of its field. The command line, ``rio superres``, the
QGIS plugin, the key of a run and the reference page read the description from there.
"""

# ruff: noqa: RUF009 (`_option` makes the field of a dataclass)
from __future__ import annotations

import json
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Literal, TypedDict, Unpack

from georsr._files import has_type
from georsr.errors import UsageError, redact_url
from georsr.radiometry.kernels import parse_kernel, parse_sensor

MAX_TAG_LENGTH = 100_000
"""Characters of the tag GEORSR_OPTIONS: a list of bands can be long."""
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
_WKT = re.compile(r"\s*(SRID=\d+\s*;)?\s*(MULTI)?POLYGON\b", re.IGNORECASE)
_CRS = re.compile(r"[A-Za-z]+:\w+")

Consistency = Literal["auto", "on", "off"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Section = Literal[
    "Model and bands", "Input", "Area", "Pixel values", "Output", "Device", "Tiles", "Safety"
]
Effect = Literal["pixels", "area", "file", "nothing"]


def aoi_path(aoi: str) -> str | None:
    """Return the path of an area of interest, without the name of its layer; None if it is WKT."""
    return None if _WKT.match(aoi) else aoi.partition("|layername=")[0]


@dataclass(frozen=True)
class Option:
    """Describe one field of `SRConfig`."""

    help: str
    """What it does: the help of the command line and the text of the reference page."""
    section: Section
    """Heading under which the help and the reference page list it."""
    affects: Effect
    """``pixels``: recorded in the tags of an output and part of the run key; ``area``: recorded in
    the tags, while the run key has the window or bands it leads to; ``file``: only part of the run
    key; ``nothing``: the output is the same, or depends on what the option led to, such as the
    device, which the run key records."""
    flag: str = ""
    """Name on the command line without dashes; empty for the field's name with hyphens."""
    short: str = ""
    """One-letter name on the command line."""
    metavar: str = ""
    """Placeholder for the value on the command line, where the type does not say enough."""
    minimum: int | None = None
    """Smallest value allowed."""
    arrays: bool = False
    """Whether the xarray accessor takes it."""
    tag: str = ""
    """Key in the tag GEORSR_OPTIONS; empty for the field's name. Outputs have carried these keys
    from the first version on, so they stay when a field is renamed."""
    tag_values: Mapping[str, str] = field(default_factory=dict)
    """Values recorded under another word, in the tag and for the same reason."""


def _option(
    section: Section, affects: Effect, help: str, *, default: Any = None, **facts: Any
) -> Any:
    """Return a field of `SRConfig`; a ``default`` that can be called makes a value each time."""
    metadata = {"option": Option(help, section, affects, **facts)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


class ArrayOptions(TypedDict, total=False):
    """Options of the xarray accessor: the fields of `SRConfig` that concern arrays."""

    indexes: tuple[int, ...] | None
    output_bands: Literal["rgb", "all"]
    other_bands: Literal["inject", "per-band", "bicubic"]
    tta: bool
    src_nodata: float | Literal["none"] | None
    stretch: str
    consistency: Consistency
    consistency_kernel: str | None
    sensor: str | None
    dtype: str | None
    dst_nodata: str | None
    blocksize: int
    device: str
    precision: Precision
    fast: bool
    num_threads: int | None
    compile: bool
    tile_size: int | None
    halo: int | None
    overlap: int | None
    blend: Literal["feather", "crop"]
    batch_size: int | None


class SROptions(ArrayOptions, total=False):
    """Keyword options of `georsr.super_resolve` and its kin: the fields of `SRConfig`."""

    alpha: Literal["auto", "mask", "data"]
    stack: bool
    allow_drivers: tuple[str, ...]
    max_pixels: int
    force: bool
    bounds: tuple[float, float, float, float] | None
    bounds_crs: str | None
    aoi: str | dict[str, Any] | None
    aoi_mask: bool
    overwrite: bool
    cog: bool
    creation_options: dict[str, str]
    backend: Literal["auto", "torch", "onnx"]
    resume: bool | None
    verify: bool
    check_resources: bool


@dataclass(frozen=True)
class SRConfig:
    """Options of one run; the defaults suit most rasters.

    The reference page "Options" describes each field. Of the options about the machine only
    ``device``, ``precision``, ``fast`` and ``backend`` can change pixel values, and ``compile``
    their last digits.

    Raises
    ------
    UsageError
        A value is out of range, or two options contradict each other.
    """

    indexes: tuple[int, ...] | None = _option(
        "Model and bands",
        "pixels",
        "Bands given to the model, counted from 1, in the model's order, such as 4,3,2. By "
        "default the bands declared as red, green and blue.",
        flag="bidx",
        short="b",
        arrays=True,
        tag="bidx",
    )
    output_bands: Literal["rgb", "all"] = _option(
        "Model and bands",
        "pixels",
        "Bands of the output: rgb writes the bands given to the model, all writes every band "
        "of the input.",
        flag="bands",
        arrays=True,
        tag="bands",
        tag_values={"rgb": "guide"},
        default="rgb",
    )
    other_bands: Literal["inject", "per-band", "bicubic"] = _option(
        "Model and bands",
        "pixels",
        "How bands that are not given to the model are enlarged: inject adds the detail of "
        "the model's bands, per-band runs the model on each band alone, bicubic "
        "interpolates.",
        flag="band-mode",
        arrays=True,
        tag="band_mode",
        tag_values={"per-band": "each"},
        default="inject",
    )
    tta: bool = _option(
        "Model and bands",
        "pixels",
        "Average the predictions for all eight rotations and flips of a tile (test-time "
        "augmentation): 8 times the cost, slightly better.",
        arrays=True,
        default=False,
    )
    src_nodata: float | Literal["none"] | None = _option(
        "Input",
        "pixels",
        "Nodata value of the input, in place of the one it declares. none: every value counts.",
        flag="nodata",
        metavar="VALUE|none",
        arrays=True,
        tag="nodata",
    )
    alpha: Literal["auto", "mask", "data"] = _option(
        "Input",
        "pixels",
        "How to read an alpha band: mask as transparency, data as an image band such as near "
        "infrared, auto decides from its values.",
        default="auto",
    )
    stack: bool = _option(
        "Input",
        "area",
        "Read several inputs as the bands of one raster, in the order given, instead of a "
        "mosaic. They must have the same grid.",
        default=False,
    )
    allow_drivers: tuple[str, ...] = _option(
        "Input",
        "nothing",
        "GDAL driver that may also read the input; repeatable. VRT: accept a VRT file "
        "whatever its name and wherever its sources are stored. See 'Formats' in the "
        "documentation.",
        flag="allow-driver",
        metavar="NAME",
        default=(),
    )
    max_pixels: int = _option(
        "Input",
        "nothing",
        "Refuse inputs that declare more pixels than this.",
        default=100_000_000_000,
    )
    force: bool = _option(
        "Input",
        "pixels",
        "Also accept inputs that do not look like images: class maps, palettes, elevation.",
        default=False,
    )
    bounds: tuple[float, float, float, float] | None = _option(
        "Area",
        "area",
        "Process only this part of the input: WEST,SOUTH,EAST,NORTH.",
        flag="bbox",
        tag="bbox",
    )
    bounds_crs: str | None = _option(
        "Area",
        "area",
        "CRS of the bounds; by default that of the input.",
        flag="bbox-crs",
        metavar="CRS",
        tag="bbox_crs",
    )
    aoi: str | dict[str, Any] | None = _option(
        "Area",
        "area",
        "Process only the area inside these polygons: a GeoJSON file, in longitude and "
        "latitude unless it declares a CRS; a GeoPackage, Shapefile or FlatGeobuf file (of "
        "several layers: 'FILE|layername=NAME'); or WKT such as 'POLYGON((...))', in "
        "longitude and latitude unless 'SRID=CODE;' precedes it. The pixels are the same as "
        "in an output of the full input.",
        metavar="FILE|WKT",
    )
    aoi_mask: bool = _option(
        "Area",
        "area",
        "Set pixels outside the polygons to nodata; otherwise only crop to their extent.",
        default=True,
    )
    stretch: str = _option(
        "Pixel values",
        "pixels",
        "Input values that are scaled to 0 and 1 for the model.",
        metavar="auto|dtype|LO,HI|percentile[:P,Q]|reflectance[:LO,HI]",
        arrays=True,
        default="auto",
    )
    consistency: Consistency = _option(
        "Pixel values",
        "pixels",
        "Correct the output so that, downsampled, it reproduces the input. auto: only if the "
        "model declares its downsampling kernel and noise does not dominate the detail it "
        "removes.",
        arrays=True,
        default="auto",
    )
    consistency_kernel: str | None = _option(
        "Pixel values",
        "pixels",
        "Kernel that downsamples the output to the input; by default the model's. auto: the "
        "candidate that fits this input best.",
        metavar="bicubic|mean|psf:MTF[+SHARPEN]|auto",
        arrays=True,
        tag_values={"auto": "scene"},
    )
    sensor: str | None = _option(
        "Pixel values",
        "pixels",
        "Properties of the sensor, for models that use them: MTF at the Nyquist frequency, "
        "and noise as a fraction of the value range. Values not given are estimated.",
        metavar="mtf=X,noise=Y",
        arrays=True,
    )
    dtype: str | None = _option(
        "Pixel values",
        "pixels",
        "Data type of the output; by default that of the input.",
        short="t",
        arrays=True,
    )
    dst_nodata: str | None = _option(
        "Pixel values",
        "pixels",
        "Nodata value of the output, or none; by default that of the input.",
        metavar="VALUE|none",
        arrays=True,
    )
    overwrite: bool = _option(
        "Output",
        "nothing",
        "Replace the output if it exists.",
        default=False,
    )
    cog: bool = _option(
        "Output",
        "file",
        "Write a Cloud Optimized GeoTIFF with overviews.",
        default=False,
    )
    creation_options: dict[str, str] = _option(
        "Output",
        "file",
        "GDAL creation option, such as COMPRESS=ZSTD; repeatable.",
        flag="co",
        default=dict,
    )
    blocksize: int = _option(
        "Output",
        "file",
        "Height and width of the blocks of the output, in pixels: a multiple of 16.",
        arrays=True,
        default=512,
    )
    device: str = _option(
        "Device",
        "nothing",
        "Device that runs the model.",
        metavar="auto|cpu|cuda[:N]|mps",
        arrays=True,
        default="auto",
    )
    precision: Precision = _option(
        "Device",
        "nothing",
        "Precision of the model: fp32, bf16 or fp16; int8, for bundled models on a CPU, "
        "computes between features in 8 bits. auto: fp32 on a CPU, half precision on a GPU.",
        arrays=True,
        default="auto",
    )
    fast: bool = _option(
        "Device",
        "nothing",
        "Choose the precision that is fastest here and costs at most 0.03 dB: on a CPU int8 "
        "or bf16, if it has instructions for them. The output records which.",
        arrays=True,
        default=False,
    )
    num_threads: int | None = _option(
        "Device",
        "nothing",
        "CPU threads of the model; by default as many as this process may use.",
        flag="jobs",
        short="j",
        minimum=1,
        arrays=True,
    )
    backend: Literal["auto", "torch", "onnx"] = _option(
        "Device",
        "nothing",
        "Library that runs the model: PyTorch, or ONNX Runtime on the CPU. auto: on a CPU, "
        "ONNX Runtime for bundled models and .onnx files; PyTorch for others.",
        default="auto",
    )
    compile: bool = _option(
        "Device",
        "pixels",
        "Compile the model first (torch.compile): can pay off for large rasters.",
        arrays=True,
        default=False,
    )
    tile_size: int | None = _option(  # None: of the model (georsr.models.segsr.Backbone)
        "Tiles",
        "pixels",
        "Height and width of a tile, in input pixels; by default the model's. At least twice "
        "the halo plus three times the overlap; a smaller value is refused with the least one.",
        flag="tile",
        minimum=1,
        arrays=True,
        tag="tile",
    )
    halo: int | None = _option(  # None: of the model (georsr.models.segsr.Backbone)
        "Tiles",
        "pixels",
        "Input pixels around a tile that give context and are then discarded; by default the "
        "model's.",
        minimum=0,
        arrays=True,
    )
    overlap: int | None = _option(  # None: of the model (georsr.models.segsr.Backbone)
        "Tiles",
        "pixels",
        "Input pixels that neighbouring tiles share; by default the model's.",
        minimum=0,
        arrays=True,
    )
    blend: Literal["feather", "crop"] = _option(
        "Tiles",
        "pixels",
        "How tiles are joined: feather blends the overlap, crop cuts in its middle.",
        arrays=True,
        default="feather",
    )
    batch_size: int | None = _option(
        "Tiles",
        "nothing",
        "Tiles per forward pass on a GPU; by default as many as fit. A CPU always takes one.",
        flag="batch",
        minimum=1,
        arrays=True,
    )
    resume: bool | None = _option(
        "Safety",
        "nothing",
        "--resume: continue an interrupted run, and fail if there is none. --no-resume: "
        "start over, and keep nothing if the run fails. By default an interrupted run is "
        "continued if there is one, and finished blocks are kept next to the output for the "
        "next call.",
    )
    verify: bool = _option(
        "Safety",
        "nothing",
        "Read the output back and compare checksums before it is renamed into place.",
        default=True,
    )
    check_resources: bool = _option(
        "Safety",
        "nothing",
        "Refuse to start if the disk cannot hold the uncompressed output, or if memory is "
        "too small.",
        default=True,
    )

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r}: expected {' or '.join(known)}")
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if option.minimum is not None and value is not None and value < option.minimum:
                raise UsageError(f"{name} {value}: expected at least {option.minimum}")
        if self.blocksize < 16 or self.blocksize % 16:
            raise UsageError(f"blocksize {self.blocksize}: expected a multiple of 16")
        if isinstance(self.src_nodata, str) and self.src_nodata != "none":
            raise UsageError(f"src_nodata {self.src_nodata!r}: expected a number or 'none'")
        if self.bounds is not None and len(self.bounds) != 4:
            raise UsageError(
                f"bounds of {len(self.bounds)} numbers: expected west, south, east, north"
            )
        if self.fast and self.precision != "auto":
            raise UsageError(f"fast chooses the precision: omit it, or {self.precision}")
        if self.bounds_crs is not None and self.bounds is None:
            raise UsageError("bounds_crs without bounds: give both, or neither")
        self._check_kernel_and_sensor()

    def _check_kernel_and_sensor(self) -> None:
        if self.sensor is not None:
            parse_sensor(self.sensor)
        if self.consistency_kernel is not None:
            if self.consistency == "off":
                raise UsageError("consistency_kernel without consistency: give one of them")
            if self.consistency_kernel != "auto":
                parse_kernel(self.consistency_kernel)

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SRConfig:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        UsageError
            The text is not JSON, or an option is unknown or of another type.
        """
        return cls(**_checked_types(_parse_json(text)))

    def chosen(self) -> dict[str, Any]:
        """Return the options that determine the pixels and are not at their default.

        Polygons are represented by the name of their file, which alone does not bring them back.
        """
        defaults = {f.name: f.default for f in fields(self)}
        options = {
            name: getattr(self, name)
            for name, option in OPTIONS.items()
            if option.affects in ("pixels", "area") and getattr(self, name) != defaults[name]
        }
        if isinstance(self.aoi, dict):
            options["aoi"] = "polygons in memory"
        elif self.aoi is not None:
            path = aoi_path(self.aoi)
            options["aoi"] = "polygons as WKT" if path is None else PurePath(redact_url(path)).name
        return options

    def tags_json(self) -> str:
        """Return :meth:`chosen` as one line of JSON for the tag GEORSR_OPTIONS, with its keys."""
        recorded = {}
        for name, value in self.chosen().items():
            option = OPTIONS[name]
            word = option.tag_values.get(value, value) if isinstance(value, str) else value
            recorded[option.tag or name] = word
        return json.dumps(recorded, sort_keys=True)

    @classmethod
    def from_tag(cls, text: str, **options: Unpack[SROptions]) -> SRConfig:
        """Read the tag GEORSR_OPTIONS of an output, which may have been forged.

        Only options that determine pixels are accepted, in sensible ranges. ``compile`` is
        ignored, because it runs a compiler and changes no more than the last digits. ``aoi`` is
        the name of a file and is not read.

        Parameters
        ----------
        text
            JSON, as :meth:`tags_json` writes it.
        **options
            Choices of the user, which override the tag.

        Raises
        ------
        UsageError
            The tag holds something else, or the output was cut to polygons that are not given.
        """
        if len(text) > MAX_TAG_LENGTH:
            raise UsageError(
                f"options of {len(text)} characters, expected at most {MAX_TAG_LENGTH}"
            )
        recorded = _checked_types(_renamed_from_tag(_parse_json(text)))
        if wrong := sorted(n for n in recorded if OPTIONS[n].affects not in ("pixels", "area")):
            raise UsageError(f"{wrong[0]} is set, which does not determine pixels")
        recorded.pop("compile", None)
        area = recorded.pop("aoi", None)
        if area is not None and options.get("aoi") is None:
            raise UsageError(
                f"the output was cut to the polygons of {area!r:.80}; give them with --aoi"
            )
        _check_ranges(recorded)
        return cls(**{**recorded, **options})


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(SRConfig)}
"""Field of `SRConfig` -> its description."""


def config_of(function: str, options: SROptions | ArrayOptions) -> SRConfig:
    """Return the options of a call of a function.

    Raises
    ------
    TypeError
        There is no such option; names those of similar names.
    """
    flags = {option.flag: name for name, option in OPTIONS.items() if option.flag}
    for given in options:
        if given not in OPTIONS:
            near = get_close_matches(given, [*flags, *OPTIONS], 3)
            names = dict.fromkeys(flags.get(name, name) for name in near)
            hint = f"did you mean {' or '.join(names)}?" if names else "see georsr.SRConfig"
            raise TypeError(f"{function}: there is no option {given!r}; {hint}")
    return SRConfig(**options)


TYPES: dict[str, Any] = typing.get_type_hints(SRConfig)
"""Field of `SRConfig` -> its type."""
CHOICES: dict[str, tuple[str, ...]] = {
    name: typing.get_args(kind)
    for name, kind in TYPES.items()
    if typing.get_origin(kind) is Literal
}
"""Field of `SRConfig` that is one of a few words -> those words, the default first."""


def _parse_json(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("options are not valid JSON") from error
    if not isinstance(values, dict):
        raise UsageError(f"options are {values!r:.80}, expected NAME: VALUE pairs")
    return values


def _renamed_from_tag(values: dict[str, Any]) -> dict[str, Any]:
    """Rename keys and words of the tag GEORSR_OPTIONS to fields of SRConfig and their values."""
    names = {option.tag or name: name for name, option in OPTIONS.items()}
    renamed = {}
    for key, value in values.items():
        name = names.get(key, key)
        words = {} if key not in names else OPTIONS[name].tag_values
        recorded = {word: own for own, word in words.items()}
        renamed[name] = recorded.get(value, value) if isinstance(value, str) else value
    return renamed


def _checked_types(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse names that are no fields of SRConfig, and values of another type than their field."""
    if unknown := sorted(set(values) - set(TYPES)):
        raise UsageError(f"unknown options: {', '.join(unknown):.80}")
    declared = {f.name: f.type for f in fields(SRConfig)}
    for name, value in values.items():
        if not has_type(value, TYPES[name]):
            raise UsageError(f"{name} is {value!r:.80}, expected {declared[name]}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _check_ranges(recorded: dict[str, Any]) -> None:
    """Refuse recorded values that no run of georsr has."""
    checks: dict[str, Callable[[Any], object]] = {
        "indexes": lambda bands: all(1 <= number <= 65535 for number in bands),
        "bounds": lambda numbers: all(map(math.isfinite, numbers)),
        "bounds_crs": _CRS.fullmatch,
        "dtype": DTYPES.__contains__,
        "tile_size": lambda pixels: pixels <= 65536,
        "halo": lambda pixels: pixels <= 16384,
        "overlap": lambda pixels: pixels <= 16384,
    }
    for name, is_possible in checks.items():
        value = recorded.get(name)
        if value is not None and not is_possible(value):
            raise UsageError(f"{name} is {value!r:.80}, which no output of georsr has")

"""Reports of runs, and the tags in which an output records how it was computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Unpack

from georsr.errors import UsageError

if TYPE_CHECKING:
    from georsr.config import SRConfig, SROptions
    from georsr.radiometry.kernels import SensorDescription
    from georsr.radiometry.normalization import Normalization


@lru_cache(maxsize=1)
def georsr_version() -> str:
    """Return the installed version, or ``unknown`` when run from a bare source tree."""
    try:
        return version("georsr")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class LayersReport:
    """Report of `georsr.quality_layers`."""

    output: str
    layers: tuple[str, ...]
    """Names of the bands."""
    width: int
    height: int
    uncertainty: str
    """What the first band estimates, and from which data the estimate was calibrated."""
    blocks: int
    """Number of blocks of the file."""
    blocks_resumed: int
    """Blocks that an earlier, interrupted run had finished."""
    file_bytes: int
    """Size of the file."""
    checksum: str
    """Checksum of the pixels."""
    seconds: dict[str, float] = field(default_factory=dict)
    version: str = field(default_factory=georsr_version)

    def to_json(self) -> str:
        """Return indented JSON."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True)
class ConsistencyReport:
    """Absolute difference between the source and the downsampled output, in units of the source."""

    kernel: str
    """Downsampling kernel."""
    network_mean: float
    """Mean difference of the model's predictions before correction, over the tiles of this run."""
    network_max: float
    """Largest difference of the model's predictions before correction."""
    output_mean: float
    """Mean difference of the output as written: blended, rounded and clipped."""
    output_max: float
    """Largest difference of the output as written."""
    pixels: int
    """Number of source pixels compared, summed over bands; a sample if the output is large."""
    band_mean: tuple[float, ...] = ()
    """``output_mean`` of each band."""
    band_max: tuple[float, ...] = ()
    """``output_max`` of each band."""


@dataclass(frozen=True)
class RunReport:
    """Report of a run of `georsr.super_resolve`; the command line prints it with ``--json``."""

    source: str
    output: str
    model: str
    model_sha256: str
    scale: int
    width: int
    """Width of the output in pixels."""
    height: int
    """Height of the output in pixels."""
    bands: int
    """Number of bands of the output."""
    source_bands: tuple[int, ...]
    """Bands of the source that these come from, counted from 1."""
    dtype: str
    """Data type of the output."""
    device: str
    precision: str
    tile_size: int
    """Height and width of a tile, in source pixels."""
    halo: int
    overlap: int
    batch_size: int
    tiles: int
    tiles_skipped: int
    """Tiles on which the model did not run: without a valid pixel, or constant."""
    stretch: Normalization
    """Source values that were scaled to 0 and 1 for the model."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that determine the pixels and are not at their default."""
    cog: bool = False
    """Whether the output is a Cloud Optimized GeoTIFF."""
    blocks: int = 0
    """Number of blocks of the output."""
    blocks_resumed: int = 0
    """Blocks that an earlier, interrupted run had finished."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage: total, read (waiting for), network, join, write (waiting for), verify."""
    file_bytes: int = 0
    """Size of the output file."""
    checksum: str = ""
    """Checksum of the pixels of the output."""
    consistency: ConsistencyReport | None = None
    """Consistency with the source; None if it was off."""
    quality: LayersReport | None = None
    """Quality layers written with the output."""
    warnings: tuple[str, ...] = ()
    """Messages of warnings about the source."""
    version: str = field(default_factory=georsr_version)

    def to_json(self) -> str:
        """Return indented JSON."""
        return json.dumps(asdict(self), indent=2)


def output_tags(
    *,
    model: str,
    model_sha256: str,
    scale: int,
    source_name: str,
    stretch: str,
    consistency: str,
    options: str,
    runtime: str = "",
    precision: str = "fp32",
    sensor: SensorDescription | None = None,
) -> dict[str, str]:
    """Return the TIFF tags of an output; without times, so that runs repeat bit for bit.

    ``runtime`` names the libraries that computed it; empty for torch. ``precision`` is recorded
    unless it is fp32.
    """
    tags = {
        "GEORSR_VERSION": georsr_version(),
        "GEORSR_MODEL": model,
        "GEORSR_MODEL_SHA256": model_sha256,
        "GEORSR_SCALE": str(scale),
        "GEORSR_SOURCE": source_name,
        "GEORSR_STRETCH": stretch,
        "GEORSR_CONSISTENCY": consistency,
        "GEORSR_OPTIONS": options,
        "GEORSR_NOTE": "super-resolved: contains synthesised detail that was not measured",
    }
    if runtime:
        tags["GEORSR_RUNTIME"] = runtime
    if precision != "fp32":
        tags["GEORSR_PRECISION"] = precision
    return tags if sensor is None else tags | {"GEORSR_SENSOR": str(sensor)}


@dataclass(frozen=True)
class OutputTags:
    """Tags of an output, which may be forged.

    Attributes
    ----------
    path : str
        Path of the output, for messages.
    model, model_sha256 : str
    options : str
        JSON that `SRConfig.from_tag` reads.
    """

    path: str
    model: str
    model_sha256: str
    options: str

    def shipped_model(self) -> str:
        """Return the model's name, if it ships with georsr.

        Raises
        ------
        UsageError
            It does not: a tag may name any file or address, which is the user's to open.
        """
        from georsr.models.registry import COMPUTED, bundled_weights

        if self.model in COMPUTED or self.model in bundled_weights():
            return self.model
        raise UsageError(
            f"{self.path}: says that it was made by {self.model!r:.80}, which does not ship "
            "with georsr; name the model that made it with --model"
        )

    def config(self, **options: Unpack[SROptions]) -> SRConfig:
        """Return the options that computed the output, overridden by those of the user.

        Raises
        ------
        UsageError
            The tag holds others, or values that no output is made with.
        """
        from georsr.config import SRConfig

        try:
            return SRConfig.from_tag(self.options, **options)
        except UsageError as error:
            raise UsageError(f"{self.path}: its tag GEORSR_OPTIONS: {error}") from error

    def check(self, sha256: str) -> None:
        """Refuse a model that did not compute the output.

        Raises
        ------
        UsageError
            Its weights are others.
        """
        if sha256 != self.model_sha256:
            shown = self.model if self.model.isprintable() else ascii(self.model)
            raise UsageError(
                f"{self.path}: was made by {shown:.80} with weights "
                f"{self.model_sha256[:12]!r}, these are {sha256[:12]!r}; name the model that made "
                "it with --model"
            )


def read_output_tags(path: str, tags: Mapping[str, str]) -> OutputTags:
    """Read the tags of an output.

    Raises
    ------
    UsageError
        It was not written by georsr, or by a version without this tag.
    """
    try:
        names = ("GEORSR_MODEL", "GEORSR_MODEL_SHA256", "GEORSR_OPTIONS")
        return OutputTags(path, *(tags[name] for name in names))
    except KeyError as error:
        raise UsageError(
            f"{path}: has no tag {error.args[0]}, expected an output of georsr sr"
        ) from error

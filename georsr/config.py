"""SRConfig: every choice of a super-resolution run, frozen and serialisable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

from georsr.errors import UsageError
from georsr.kernels import parse_kernel
from georsr.sensor import parse_sensor

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
    given is estimated. See :func:`georsr.sensor.parse_sensor`."""
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
    """Accept only these GDAL drivers; empty accepts all, but a VRT only under its own suffix."""

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

    def told(self) -> str:
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
            chosen["aoi"] = PurePath(self.aoi).name
        return json.dumps(chosen, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SRConfig:
        """Rebuild from :meth:`to_json`; unknown keys are errors."""
        raw: dict[str, Any] = json.loads(text)
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(raw) - known):
            raise UsageError(f"unknown options: {', '.join(unknown)}")
        for key in ("bidx", "allow_drivers", "bbox"):
            if raw.get(key) is not None:
                raw[key] = tuple(raw[key])
        return cls(**raw)

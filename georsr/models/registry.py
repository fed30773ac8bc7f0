"""Registry of architectures, encoders and backbones, and the names of the built-in models.

Those of other packages are added by the decorators `register_architecture`, `register_encoder` and
`register_backbone`, in modules that the package declares in the entry-point group
``georsr.models``.
"""

from __future__ import annotations

import logging
import pkgutil
import re
from collections.abc import Callable
from functools import cache
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from georsr.errors import ModelError, UsageError
from georsr.models.spec import METADATA_KEY, ModelSpec, upgrade_spec

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
DEFAULT = "segsr-lite-x{scale}-sensor"
"""Model of ``georsr sr`` without ``--model``. It was trained on images as sensors record them;
networks trained on bicubic pairs hardly sharpen those."""
SUMS = "SHA256SUMS"
"""File of the SHA-256 of the weights that ship with georsr, as ``sha256sum`` writes it."""
ENTRY_POINTS = "georsr.models"
"""Entry-point group: every entry names a module that registers its classes when imported."""

T = TypeVar("T")
Builder = Callable[..., "nn.Module"]

# Built-in classes and functions are named as "module:name" and imported when they are needed: a run
# imports one network.
_architectures: dict[str, Builder | str] = {
    "bicubic": "georsr.models.interpolation:Bicubic",
    "nearest": "georsr.models.interpolation:Nearest",
    "segsr": "georsr.models.segsr:segsr",
    "segsr-lite": "georsr.models.segsr_lite:segsr_lite",
    "segsr-published": "georsr.models.segsr_published:PublishedSegSR",
}
_encoders: dict[str, Builder | str] = {
    "clip": "georsr.models.sfem:ClipEncoder",
    "scene": "georsr.models.segsr_lite:SceneEncoder",
}
_backbones: dict[str, Builder | str] = {
    "hat": "georsr.models.hat:HAT",
    "plain": "georsr.models.segsr_lite:PlainBackbone",
}


def register_architecture(name: str) -> Callable[[T], T]:
    """Register a function or class that builds an untrained network.

    It is called as ``build(scale, bands, **parameters)`` with the parameters of a `ModelSpec`.
    """
    return _adder(_architectures, name, "architecture")


def register_encoder(name: str) -> Callable[[T], T]:
    """Register a semantic encoder (SFEM) for `georsr.models.segsr.segsr`.

    It is built as ``Encoder(scale, bands, **encoder_options)``, has an attribute ``token_dim`` (E),
    and maps (N, bands, h, w) in 0..1 to tokens (N, E, hc, wc) and a scene vector (N, E), both
    L2-normalised over E. A class attribute ``multiple_of`` (LR pixels) constrains tile sizes.
    """
    return _adder(_encoders, name, "encoder")


def register_backbone(name: str) -> Callable[[T], T]:
    """Register a subclass of `georsr.models.segsr.Backbone`.

    It is built as ``Backbone(bands, embed_dim, num_groups, depth, **backbone_options)``. Its class
    attributes ``multiple_of``, ``tile``, ``halo`` and ``overlap`` say how a raster is cut for it.
    """
    return _adder(_backbones, name, "backbone")


def _adder(table: dict[str, Builder | str], name: str, kind: str) -> Callable[[T], T]:
    if not NAME.fullmatch(name):
        raise ValueError(f"{kind} name {name!r}: expected lower-case letters, digits and hyphens")

    def add(item: T) -> T:
        known = table.get(name)
        if isinstance(known, str):
            raise ValueError(f"{kind} {name!r} is already registered by {known.partition(':')[0]}")
        if known is not None and known.__qualname__ != getattr(item, "__qualname__", None):
            raise ValueError(f"{kind} {name!r} is already registered by {known.__module__}")
        table[name] = cast("Builder", item)
        return item

    return add


@cache
def import_entry_points() -> None:
    """Import the modules that installed packages declare; each registers its classes."""
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:  # another package's fault must not stop the built-in models
            log.warning("models of the package entry %s cannot be imported: %s", entry.name, error)


def is_architecture(name: str) -> bool:
    """Return whether a name is that of a registered architecture."""
    return _is_known(_architectures, name)


def find_architecture(name: str) -> Builder:
    """Return the builder of an architecture; raises `ModelError` for an unknown name."""
    return _find(_architectures, name, "architecture")


def find_encoder(name: str) -> Builder:
    """Return the encoder class of a name; raises `ModelError` for an unknown one."""
    return _find(_encoders, name, "encoder")


def find_backbone(name: str) -> Builder:
    """Return the backbone class of a name; raises `ModelError` for an unknown one."""
    return _find(_backbones, name, "backbone")


def _is_known(table: dict[str, Builder | str], name: str) -> bool:
    if name not in table:
        import_entry_points()
    return name in table


def _find(table: dict[str, Builder | str], name: str, kind: str) -> Builder:
    if not _is_known(table, name):
        raise ModelError(f"unknown {kind} {name!r}; expected one of {', '.join(sorted(table))}")
    item = table[name]
    if isinstance(item, str):
        item = table[name] = cast("Builder", pkgutil.resolve_name(item))
    return item


def _computed(architecture: str, scale: int, halo: int, notes: str) -> ModelSpec:
    return ModelSpec(
        name=f"{architecture}-x{scale}",
        architecture=architecture,
        scale=scale,
        bands=0,
        band_names=(),
        tile=256,
        halo=halo,
        overlap=0,
        trained_on="nothing: a fixed kernel",
        notes=notes,
    )


COMPUTED: dict[str, ModelSpec] = {
    spec.name: spec
    for scale in (1, 2, 3, 4)
    for spec in (
        _computed("bicubic", scale, 2, "baseline: any bands, invents nothing"),
        _computed("nearest", scale, 0, "repeats pixels; for checks"),
    )
}
"""Models without weights, by name."""
COMPUTED_ARCHITECTURES = frozenset(spec.architecture for spec in COMPUTED.values())
"""Architectures of the models without weights."""


def trainable_architectures() -> tuple[str, ...]:
    """Return the names of the architectures that `georsr train` can build: those with weights."""
    import_entry_points()
    return tuple(name for name in _architectures if name not in COMPUTED_ARCHITECTURES)


def weights_folder() -> Path:
    """Return the folder of the weights that ship with georsr."""
    return Path(str(resources.files("georsr.models") / "weights"))


def bundled_weights() -> dict[str, Path]:
    """Return name -> file of the weights that ship with georsr."""
    return {path.stem: path for path in sorted(weights_folder().glob("*.safetensors"))}


def check_bundled(path: Path, digest: str) -> None:
    """Raise `ModelError` if a file that ships with georsr has another SHA-256 than shipped."""
    sums = dict(line.split()[::-1] for line in (weights_folder() / SUMS).read_text().splitlines())
    if sums.get(path.name) != digest:
        raise ModelError(
            f"{path}: is not the file that ships with georsr (another SHA-256); install georsr "
            "again, or update SHA256SUMS if you changed it"
        )


def read_spec(path: Path) -> ModelSpec:
    """Read the specification stored in a safetensors file, without its weights and without torch.

    Raises
    ------
    ModelError
        The file is damaged or was not written by georsr.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from error
    if METADATA_KEY not in metadata:
        raise ModelError(
            f"{path}: has no georsr model spec in its metadata; "
            "make one with 'georsr models convert' or 'georsr train'"
        )
    return upgrade_spec(ModelSpec.from_json(metadata[METADATA_KEY]))


def list_models() -> list[ModelSpec]:
    """Return the specifications of all built-in models, bundled weights first."""
    specs = [read_spec(path) for path in bundled_weights().values()]
    return specs + [spec for name, spec in COMPUTED.items() if not name.endswith("-x1")]


def resolve_name(name: str | None, scale: int | None) -> str:
    """Complete a model name by its scale: (None, None) -> the default model at x4.

    Raises
    ------
    UsageError
        The scale in the name differs from ``scale``, or no bundled network has that scale.
    """
    if not name:
        name = DEFAULT.format(scale=scale or 4)
        if name not in bundled_weights():
            raise UsageError(
                f"no bundled network enlarges x{scale}, they enlarge x2 and x4; choose one of "
                "these, a model of your own, or --model bicubic, which goes up to x4"
            )
    if not NAME.fullmatch(name):
        return name
    match = re.search(r"-x(\d+)(?:-|$)", name)
    if match is None:
        sensor = f"{name}-x{scale or 4}-sensor"  # the set that is the default, if there are two
        return sensor if sensor in bundled_weights() else f"{name}-x{scale or 4}"
    if scale is not None and int(match[1]) != scale:
        raise UsageError(f"model {name} enlarges x{match[1]}, but x{scale} was asked for")
    return name

"""Recipe: everything a training run depends on, as one small YAML file."""

from __future__ import annotations

import types
import typing
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from georsr.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """Frozen settings of one training run; round-trips through YAML, unknown keys are errors."""

    name: str
    """Name of the model that comes out."""
    scale: int
    """Super-resolution factor."""
    network: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of :class:`georsr.models.lite.network.SegSRLite`."""
    patch: int = 48
    """LR crop size in pixels."""
    batch: int = 8
    """Crops per step."""
    steps: int = 20000
    """Training steps; the learning rate falls to zero over them."""
    warmup: int = 200
    """Steps over which the learning rate rises linearly."""
    hold: float = 0.3
    """Share of the steps at the peak rate before the cosine begins."""
    muon_lr: float = 0.01
    """Peak rate of Muon, which trains the 3x3 kernels between head and tail."""
    adam_lr: float = 1e-3
    """Peak rate of Adam, which trains everything else."""
    weight_decay: float = 0.1
    """Decoupled weight decay of Muon, per unit of learning rate."""
    squared_share: float = 0.15
    """Last share of the steps in which the squared error replaces the absolute error."""
    clip: float = 1.0
    """Largest norm of the gradient of Adam's parameters."""
    ema: float = 0.999
    """Decay of the averaged weights, the ones that are evaluated and exported."""
    scene_weight: float = 0.001
    """Weight of the scene classification loss beside the image loss."""
    scene_epochs: int = 60
    """Epochs of scene classification before super-resolution starts (0: none)."""
    init: str = ""
    """Checkpoint or exported weights whose matching tensors start this run (empty: scratch)."""
    validate_every: int = 1000
    """Steps between validations and checkpoints."""
    seed: int = 0
    """Of initialisation and sampling."""

    def to_yaml(self) -> str:
        """One line per field."""
        import yaml

        return str(yaml.safe_dump(asdict(self), sort_keys=False))

    @classmethod
    def from_mapping(cls, values: Any, where: str) -> Recipe:
        """Build from parsed YAML; ``where`` names the source in errors."""
        if not isinstance(values, dict):
            raise UsageError(f"{where}: a recipe is a list of 'key: value' lines")
        kinds = typing.get_type_hints(cls)
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(map(str, values)) - known):
            raise UsageError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
        for key, value in values.items():
            kind = kinds[key]
            kind = kind if not isinstance(kind, types.GenericAlias) else kind.__origin__
            accepted: Any = (int, float) if kind is float else kind
            if not isinstance(value, accepted) or isinstance(value, bool):
                raise UsageError(
                    f"{where}: {key} is {value!r}, expected a value of type {kind.__name__}"
                )
        missing = {"name", "scale"} - set(values)
        if missing:
            raise UsageError(f"{where}: missing key {sorted(missing)[0]!r}")
        return cls(**values)


def builtin_recipes() -> tuple[str, ...]:
    """Names of the recipes that ship with georsr."""
    folder = resources.files("georsr.training.recipes")
    return tuple(
        sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml"))
    )


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by the name of a built-in one or by the path of a YAML file."""
    import yaml

    if name_or_path in builtin_recipes():
        text = (resources.files("georsr.training.recipes") / f"{name_or_path}.yaml").read_text()
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(
                f"{name_or_path}: neither a built-in recipe ({', '.join(builtin_recipes())}) "
                "nor a YAML file"
            )
        text = path.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{name_or_path}: not valid YAML ({error})".replace("\n", " ")) from error
    return Recipe.from_mapping(values, name_or_path)

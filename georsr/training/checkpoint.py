"""Checkpoints: reading one that may be somebody else's, and taking from it only what is known."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from georsr.errors import InputError, ModelError
from georsr.redact import redact_url
from georsr.training.recipe import Recipe

OPTIMIZER_STATE = ({"step", "exp_avg", "exp_avg_sq"}, {"step", "momentum"})
"""What Adam and Muon remember of a parameter."""
_VERSION = re.compile(r"\d[\w.+-]{0,40}")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises
    ------
    InputError
        There is none.
    ModelError
        It is damaged, unpacks to more than it holds, or is none of ``georsr train``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:  # torch.save neither packs nor lets entries overlap
            raise ModelError(f"{path}: unpacks to {unpacked} bytes, more than the file holds")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint") from error
    except ModelError:
        raise
    except Exception as error:  # torch.load has no error class of its own
        raise ModelError(f"{path}: not a readable checkpoint ({error})".splitlines()[0]) from error
    if not isinstance(state, dict) or not {"recipe", "state_dict"} <= state.keys():
        raise ModelError(f"{path}: not a checkpoint of georsr train")
    if not _tensors(state["state_dict"]):
        raise ModelError(f"{path}: state_dict is not a dictionary of tensors")
    return state


def recipe_text(recipe: Recipe) -> str:
    """JSON of a recipe for a checkpoint, without passwords and signatures of addresses."""
    return redact_url(json.dumps(recipe.to_dict()))


def check_recipe(state: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse a checkpoint of another recipe.

    Raises
    ------
    ModelError
        It has another recipe, or none that can be read.
    """
    ours = json.loads(recipe_text(recipe))
    try:
        theirs = dict(json.loads(redact_url(state["recipe"])))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError("the checkpoint's recipe cannot be read; start a new run") from error
    if changed := [k for k in ours if theirs.get(k) != ours[k]]:
        raise ModelError(
            f"the checkpoint's recipe differs in {', '.join(changed[:5])}; "
            "use the same recipe, or start a new run with 'init'"
        )


def best_score(state: Mapping[str, Any]) -> float | None:
    """The highest validation figure in dB before a checkpoint was written; None without one.

    Raises
    ------
    ModelError
        It is not a number.
    """
    callbacks = state.get("callbacks")
    for key, value in callbacks.items() if isinstance(callbacks, dict) else ():
        if str(key).startswith("ModelCheckpoint") and isinstance(value, dict):
            score = value.get("best_model_score")
            if score is None:
                return None
            if _like(score, torch.tensor(0.0)) and math.isfinite(score):
                return float(score)
            raise ModelError("the checkpoint's best_model_score is not a number")
    return None


def run_state(state: Mapping[str, Any], module: Any) -> dict[str, Any]:
    """What a run goes on with: the parts of a checkpoint that it has itself, of the same form.

    Nothing that names a file is taken, nor any state of callbacks but the best figure.

    Parameters
    ----------
    state
        As `load_checkpoint` gives it.
    module
        The `SuperResolution` of the run, with its trainer.

    Returns
    -------
    dict
        For Lightning.

    Raises
    ------
    ModelError
        Something is missing, or of another form.
    """
    weights = module.state_dict()
    chosen = module.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    trainer = module.trainer
    scaler = {"MixedPrecision": trainer.precision_plugin.state_dict()}
    form = {
        "epoch": 0,
        "global_step": 0,
        "state_dict": weights,
        "current_model_state": weights,
        "averaging_state": {"n_averaged": torch.tensor(0)},
        **(scaler if scaler["MixedPrecision"] else {}),
    }
    taken = {key: _take(state, key, pattern) for key, pattern in form.items()}
    loops = _take(state, "loops", None)
    progress = {
        key: pattern if key == "state_dict" else _take(_take(loops, "fit_loop", None), key, pattern)
        for key, pattern in trainer.fit_loop.state_dict().items()
    }  # its own state_dict is that of loaders: ours know where they are by the step
    version = str(state.get("pytorch-lightning_version"))
    average = _take(state.get("callbacks"), "WeightAveraging", {"latest_update_step": 0})
    return taken | {
        "pytorch-lightning_version": version if _VERSION.fullmatch(version) else "2.0.0",
        "recipe": state["recipe"],
        "loops": {"fit_loop": progress},
        "callbacks": {
            "WeightAveraging": average,
            trainer.checkpoint_callback.state_key: {"best_model_score": best_score(state)},
        },
        "optimizer_states": [_optimizer_state(_first(state, "optimizer_states"), optimizer)],
        "lr_schedulers": [_schedule_state(_first(state, "lr_schedulers"), schedule.state_dict())],
    }


def _optimizer_state(given: Any, optimizer: Any) -> dict[str, Any]:
    """The rates, and what is remembered of each parameter."""
    ours = optimizer.state_dict()
    groups = _take(given, "param_groups", None)
    if not isinstance(groups, list) or len(groups) != len(ours["param_groups"]):
        raise _other("param_groups")
    rates = [{"lr": _take(group, "lr", 0.0)} for group in groups]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    remembered = _take(given, "state", None)
    if not isinstance(remembered, dict):
        raise _other("state")
    for number, entries in remembered.items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise _other("state")
        if not _tensors(entries) or set(entries) not in OPTIMIZER_STATE:
            raise _other("state")
        shape = parameters[number].shape
        if any(v.shape != (() if k == "step" else shape) for k, v in entries.items()):
            raise _other("state")
    both = zip(ours["param_groups"], rates, strict=True)
    return {"state": remembered, "param_groups": [group | rate for group, rate in both]}


def _schedule_state(given: Any, ours: dict[str, Any]) -> dict[str, Any]:
    """The steps done, and the rates."""
    names = ("last_epoch", "_step_count", "_last_lr")
    return ours | {name: _take(given, name, ours[name]) for name in names}


def _first(state: Mapping[str, Any], key: str) -> Any:
    found = state.get(key)
    if not isinstance(found, list) or len(found) != 1:
        raise _other(key)
    return found[0]


def _take(given: Any, key: str, pattern: Any) -> Any:
    """An entry of a dictionary, of the same form as the pattern; None fits anything."""
    if not isinstance(given, dict) or key not in given:
        raise _other(key)
    if pattern is not None and not _like(given[key], pattern):
        raise _other(key)
    return given[key]


def _other(key: str) -> ModelError:
    return ModelError(
        f"the checkpoint's {key} is not what a run of this recipe writes; start a new run with "
        "'init'"
    )


def _like(given: Any, pattern: Any) -> bool:
    """Whether a value has the form of another one: keys, lengths, shapes, types of numbers."""
    if isinstance(pattern, Tensor):
        same = isinstance(given, Tensor) and given.shape == pattern.shape
        return same and given.dtype == pattern.dtype and _sound(given)
    if isinstance(pattern, dict):
        same = isinstance(given, dict) and given.keys() == pattern.keys()
        return same and all(_like(given[key], value) for key, value in pattern.items())
    if isinstance(pattern, list):
        same = isinstance(given, list) and len(given) == len(pattern)
        return same and all(map(_like, given, pattern))
    if isinstance(pattern, float):
        return type(given) in (int, float) and math.isfinite(given)
    return type(given) is type(pattern)


def _tensors(given: Any) -> bool:
    return isinstance(given, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) and _sound(value)
        for key, value in given.items()
    )


def _sound(value: Tensor) -> bool:
    """Whether a tensor holds every number of its own, and not a few as if they were many."""
    if value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()

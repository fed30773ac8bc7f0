"""Read checkpoints of any origin safely: only known entries of the expected form are used."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from georsr.errors import InputError, ModelError, redact_url
from georsr.training.recipe import Recipe

OPTIMIZER_STATE = ({"step", "exp_avg", "exp_avg_sq"}, {"step", "momentum"})
"""State of Adam, and of Muon, for a parameter."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises
    ------
    InputError
        The file does not exist.
    ModelError
        It is damaged, unpacks to more bytes than it has, or is not of ``georsr train``.
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
    if not _are_tensors(state["state_dict"]):
        raise ModelError(f"{path}: state_dict is not a dictionary of tensors")
    return state


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as JSON, without passwords and signatures of addresses."""
    return redact_url(json.dumps(recipe.to_dict()))


def check_recipe(state: Mapping[str, Any], recipe: Recipe) -> None:
    """Raise an error for a checkpoint of another recipe; it may have fewer steps.

    Raises
    ------
    ModelError
        Its recipe differs or cannot be read.
    """
    expected = json.loads(recipe_text(recipe))
    try:
        recorded = dict(json.loads(redact_url(state["recipe"])))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError("the checkpoint's recipe cannot be read; start a new run") from error
    steps = recorded.get("steps")
    if type(steps) is int and steps < expected["steps"]:  # the run is continued for longer
        recorded["steps"] = expected["steps"]
    if changed := [key for key in expected if recorded.get(key) != expected[key]]:
        raise ModelError(
            f"the checkpoint's recipe differs in {', '.join(changed[:5])}; "
            "use the same recipe, or start a new run with 'init'"
        )


def best_score(state: Mapping[str, Any]) -> float | None:
    """Return the highest validation PSNR in dB before a checkpoint was written; None without.

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
            if _has_form(score, torch.tensor(0.0)) and math.isfinite(score):
                return float(score)
            raise ModelError("the checkpoint's best_model_score is not a number")
    return None


def run_state(state: Mapping[str, Any], module: Any) -> dict[str, Any]:
    """Return the entries of a checkpoint with which a run can be resumed.

    Each must have the form of the run's own entry. No entry that names a file is used, and of the
    callbacks nothing but the best figure.

    Parameters
    ----------
    state
        Result of `load_checkpoint`.
    module
        `SuperResolution` of the run, with its trainer.

    Returns
    -------
    dict
        Checkpoint for Lightning.

    Raises
    ------
    ModelError
        An entry is missing, or of another form.
    """
    weights = module.state_dict()
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
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
    checked = {key: _take(state, key, pattern) for key, pattern in form.items()}
    loops = _take(state, "loops", None)
    progress = {
        key: pattern if key == "state_dict" else _take(_take(loops, "fit_loop", None), key, pattern)
        for key, pattern in trainer.fit_loop.state_dict().items()
    }  # its state_dict is that of the data loaders, whose state is the step
    average = _take(state.get("callbacks"), "WeightAveraging", {"latest_update_step": 0})
    return checked | {
        # nothing is left to migrate: every entry has the form of this version's
        "pytorch-lightning_version": lightning.__version__,
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
    """Return the learning rates, and the state of each parameter."""
    expected = optimizer.state_dict()
    groups = _take(given, "param_groups", None)
    if not isinstance(groups, list) or len(groups) != len(expected["param_groups"]):
        raise _form_error("param_groups")
    rates = [{"lr": _take(group, "lr", 0.0)} for group in groups]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = _take(given, "state", None)
    if not isinstance(states, dict):
        raise _form_error("state")
    for number, entries in states.items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise _form_error("state")
        if not _are_tensors(entries) or set(entries) not in OPTIMIZER_STATE:
            raise _form_error("state")
        shape = parameters[number].shape
        if any(v.shape != (() if k == "step" else shape) for k, v in entries.items()):
            raise _form_error("state")
    both = zip(expected["param_groups"], rates, strict=True)
    return {"state": states, "param_groups": [group | rate for group, rate in both]}


def _schedule_state(given: Any, expected: dict[str, Any]) -> dict[str, Any]:
    """Return the steps done, and the learning rates."""
    names = ("last_epoch", "_step_count", "_last_lr")
    return expected | {name: _take(given, name, expected[name]) for name in names}


def _first(state: Mapping[str, Any], key: str) -> Any:
    entries = state.get(key)
    if not isinstance(entries, list) or len(entries) != 1:
        raise _form_error(key)
    return entries[0]


def _take(given: Any, key: str, pattern: Any) -> Any:
    """Return an entry of a dictionary that has the form of the pattern; None allows any form."""
    if not isinstance(given, dict) or key not in given:
        raise _form_error(key)
    if pattern is not None and not _has_form(given[key], pattern):
        raise _form_error(key)
    return given[key]


def _form_error(key: str) -> ModelError:
    return ModelError(
        f"the checkpoint's {key} is not what a run of this recipe writes; start a new run with "
        "'init'"
    )


def _has_form(given: Any, pattern: Any) -> bool:
    """Return whether a value has the keys, lengths, shapes and number types of the pattern."""
    if isinstance(pattern, Tensor):
        same = isinstance(given, Tensor) and given.shape == pattern.shape
        return same and given.dtype == pattern.dtype and _is_complete(given)
    if isinstance(pattern, dict):
        same = isinstance(given, dict) and given.keys() == pattern.keys()
        return same and all(_has_form(given[key], value) for key, value in pattern.items())
    if isinstance(pattern, list):
        same = isinstance(given, list) and len(given) == len(pattern)
        return same and all(map(_has_form, given, pattern))
    if isinstance(pattern, float):
        return type(given) in (int, float) and math.isfinite(given)
    return type(given) is type(pattern)


def _are_tensors(given: Any) -> bool:
    return isinstance(given, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) and _is_complete(value)
        for key, value in given.items()
    )


def _is_complete(value: Tensor) -> bool:
    """Return whether a tensor stores every element, instead of repeating a few by strides."""
    if value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()

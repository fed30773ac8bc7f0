"""Read checkpoints of other programs (.pth, .pt): tensors by key, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from georsr.errors import ModelError

WEIGHT_KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Keys under which training programs store the weights; averaged ones first."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by key.

    Raises
    ------
    ModelError
        The file is damaged, holds code (which is never run), or no weights.
    """
    try:
        # mapped into memory where the format allows it: tensors that are not used are not read
        loaded: Any = torch.load(
            path, map_location="cpu", weights_only=True, mmap=_is_archive(path)
        )
    except Exception as error:  # damaged bytes may fail in any way
        raise ModelError(
            f"{path}: not a readable checkpoint, or one with code inside, which is never run "
            f"({type(error).__name__}); expected a dictionary of weights"
        ) from error
    if isinstance(loaded, dict):
        loaded = next((loaded[k] for k in WEIGHT_KEYS if isinstance(loaded.get(k), dict)), loaded)
    if not isinstance(loaded, dict) or not loaded:
        raise ModelError(f"{path}: holds no dictionary of weights")
    if others := [str(k) for k, v in loaded.items() if not isinstance(v, Tensor)]:
        raise ModelError(f"{path}: {others[0]} is not a tensor; expected a dictionary of weights")
    return {str(k).removeprefix("module."): v for k, v in loaded.items()}


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"

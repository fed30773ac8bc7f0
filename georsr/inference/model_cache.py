"""Keep the network of a process in memory, for tasks that carry only the name of their model."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from georsr.config import SRConfig
from georsr.device import DeviceConfig, cpu_threads, num_threads
from georsr.errors import GeorsrError, ModelError, UsageError
from georsr.inference.blur_and_noise import sensor_of, with_sensor
from georsr.inference.model_bands import wrap_multiband
from georsr.inference.predictor import TilePredictor, choose_batch, place_model
from georsr.models.io import Model, open_model
from georsr.models.registry import COMPUTED, bundled_weights
from georsr.system import tune_malloc

_TURN = threading.Lock()
"""One network at a time in a process: each uses all threads, or the whole device, by itself."""


@dataclass(frozen=True)
class ModelRef:
    """A model by name and checksum; small to pickle."""

    name: str
    """Built-in name, or path."""
    sha256: str
    network_bands: tuple[int, ...] | None = None
    """Positions of the bands it sees, where there are others."""
    mode: str = "inject"
    """What becomes of those."""
    sensor: tuple[float, ...] | None = None
    """Normalised sensor description; None for a network that takes none."""


def model_ref(model: Model) -> ModelRef:
    """Return the reference by which other processes open a model.

    Raises
    ------
    UsageError
        It is not to be found again by the name it was opened by: it exists in memory only.
    """
    path = Path(model.source)
    name = model.source
    if bundled_weights().get(path.stem) == path:
        name = path.stem  # other machines have it elsewhere
    elif model.source not in COMPUTED and path.is_file():
        name = str(path.absolute())
    positions, mode = None, "inject"
    if model.multiband is not None:
        positions, mode = model.multiband.network_bands, model.multiband.mode
    reference = ModelRef(name, model.sha256, positions, mode, sensor_of(model))
    try:
        load_cached(reference)
    except GeorsrError as error:
        raise UsageError(
            f"model {model.spec.name} exists in memory only, and Dask's workers open models by "
            f"name or path: write it with georsr.models.io.save_model and pass the path ({error})"
        ) from error
    return reference


def load_cached(reference: ModelRef) -> Model:
    """Open a model, once in a process, and set its sensor description.

    Raises
    ------
    UsageError, ModelError
        This process cannot open it, or finds other weights.
    """
    return with_sensor(_open(replace(reference, sensor=None)), reference.sensor)


@lru_cache(maxsize=2)
def _open(reference: ModelRef) -> Model:
    model = open_model(reference.name)
    if model.sha256 != reference.sha256:
        raise ModelError(
            f"model {reference.name}: has checksum {model.sha256[:12]} here, expected "
            f"{reference.sha256[:12]}; give all workers the same file and georsr"
        )
    if reference.network_bands is not None:
        return wrap_multiband(model, reference.network_bands, reference.mode)
    return model


@lru_cache(maxsize=2)
def _predictor(
    reference: ModelRef, placement: DeviceConfig, batch: int, compiled: bool, tta: bool
) -> TilePredictor:
    if _dask_worker() is not None:
        tune_malloc()  # the process belongs to Dask: no other program's memory is affected
    return TilePredictor(load_cached(reference), placement, batch, compiled=compiled, tta=tta)


@contextmanager
def cached_predictor(reference: ModelRef, config: SRConfig) -> Iterator[TilePredictor]:
    """Yield the predictor of this process, to one caller at a time.

    Device, precision, batch and threads in ``config`` are as this process understands them.
    """
    with _TURN, cpu_threads(config.num_threads or threads_of_worker()):
        placement = place_model(load_cached(reference), config)
        batch = choose_batch(placement, config.batch_size)
        yield _predictor(reference, placement, batch, config.compile, config.tta)


def threads_of_worker() -> int | None:
    """Return the number of threads of this Dask worker; None outside of one.

    Dask starts worker processes with one OpenMP thread, so that tasks do not compete for the CPU,
    but only one of these tasks runs at a time.
    """
    worker = _dask_worker()
    return None if worker is None else max(num_threads(), worker.state.nthreads)


def _dask_worker() -> Any | None:
    """Return the Dask worker that runs this task; None outside of one."""
    # another thread may be importing distributed: then this is no task
    get_worker = getattr(sys.modules.get("distributed"), "get_worker", None)
    if get_worker is None:
        return None
    try:
        return get_worker()
    except ValueError:
        return None

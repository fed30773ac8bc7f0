"""Train a network by a recipe: data in, weights file out."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from georsr._files import atomic_write_text, check_regular
from georsr.device import cpu_threads, select_device
from georsr.errors import ModelError, OutputError, ResourceError, UsageError, redact_url
from georsr.models.segsr_lite import SensorEstimator
from georsr.progress import Progress
from georsr.system import NO_PROC, proc_is_missing
from georsr.training.callbacks import (
    BEST,
    HISTORY,
    LAST,
    AtomicCheckpointIO,
    AverageCallback,
    CSVHistory,
    GracefulStop,
    StepProgress,
    StoppedError,
    checkpoint_callback,
)
from georsr.training.checkpoint import best_score, check_recipe, load_checkpoint, run_state
from georsr.training.data.crops import CropSource, PairSource
from georsr.training.data.dataloader import CropLoader, StepSampler, pair_loader
from georsr.training.data.source import open_source
from georsr.training.export import export_checkpoint, infer_network, load_init_weights
from georsr.training.module import SuperResolution
from georsr.training.pretrain import pretrain_encoder, pretrain_sensor
from georsr.training.recipe import Recipe

log = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Precision of a recipe -> that of Lightning."""


@dataclass(frozen=True)
class Machine:
    """Devices and processes of a run; they are no part of the recipe."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    devices: int = 1
    """GPUs (on the CPU: processes) per machine; each has its own batch."""
    nodes: int = 1
    """Number of machines."""
    workers: int | None = None
    """Processes that prepare batches; None: none on the CPU, eight on a GPU."""
    jobs: int | None = None
    """CPU threads of torch."""

    def is_gpu(self) -> bool:
        """Return whether the run uses CUDA."""
        return select_device(self.device, "fp32").type == "cuda"

    def n_loaders(self) -> int:
        """Return the number of processes that prepare batches."""
        return (8 if self.is_gpu() else 0) if self.workers is None else self.workers

    def trainer_options(self) -> dict[str, Any]:
        """Return the options of Lightning's trainer."""
        device = torch.device(select_device(self.device, "fp32").device)
        parallel = self.devices > 1 or self.nodes > 1
        if parallel and (device.type == "mps" or device.index is not None):
            raise UsageError(f"device {device} is one device, {self.devices} were requested")
        return {
            "accelerator": "gpu" if device.type == "cuda" else device.type,
            "devices": self.devices if device.index is None else [device.index],
            "num_nodes": self.nodes,
            # the buffers of the networks are constants; a recipe may have no loss for the scene
            # classifier or the sensor estimator
            "strategy": DDPStrategy(broadcast_buffers=False, find_unused_parameters=True)
            if parallel
            else "auto",
        }


def is_main_process() -> bool:
    """Return whether this process writes messages; the processes of other devices do not."""
    return getattr(rank_zero_only, "rank", 0) == 0


class TrainingData(pl.LightningDataModule):
    """Data loaders of a run; each device draws its own crops."""

    def __init__(
        self, recipe: Recipe, source: CropSource, pairs: PairSource, workers: int, pinned: bool
    ) -> None:
        super().__init__()
        self.recipe, self.source, self.pairs = recipe, source, pairs
        self.workers, self.pinned = workers, pinned

    def train_dataloader(self) -> CropLoader:
        """Load the batches of the remaining steps."""
        trainer = self.trainer
        assert trainer is not None
        sampler = StepSampler(
            self.recipe.steps,
            self.recipe.batch,
            lambda: trainer.global_step,
            trainer.global_rank,
            trainer.world_size,
        )
        return CropLoader(self.source, self.recipe.seed, sampler, self.workers, self.pinned)

    def val_dataloader(self) -> Any:
        """Load this device's validation pairs."""
        assert self.trainer is not None
        return pair_loader(self.pairs, self.trainer.global_rank, self.trainer.world_size)


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    machine: Machine | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train by a recipe; returns the path of the exported weights.

    Parameters
    ----------
    recipe
        Network, data and settings.
    out
        Folder for ``last.ckpt``, ``best.ckpt``, ``log.csv``, ``recipe.yaml``, TensorBoard's
        events and the weights.
    resume
        Continue from ``last.ckpt``; the result is that of an uninterrupted run.
    machine
        Devices and processes.
    progress
        Object that is advanced once per step.
    should_stop
        Called between steps; if it returns True, ``last.ckpt`` is saved and the run ends.

    Raises
    ------
    StoppedError
        The run was stopped by ``should_stop`` or SIGTERM; it can be resumed.
    UsageError, InputError, ModelError, OutputError
        Settings, data, weights or the folder cannot be used.
    """
    machine = machine or Machine()
    recipe = infer_network(recipe)
    _check_run(recipe, out, machine, resume)
    source, pairs = open_source(
        recipe.data, recipe.degradation, scale=recipe.scale, patch=recipe.patch
    )
    torch.manual_seed(recipe.seed)
    module = SuperResolution(recipe, len(source.classes))
    _check_bands(source, module)
    create_run_folder(out, recipe)
    data = TrainingData(recipe, source, pairs, machine.n_loaders(), machine.is_gpu())
    history = CSVHistory(out / HISTORY)
    with cpu_threads(machine.jobs), _quiet_lightning():
        if not resume:
            _pretrain(module, source)
        module.setup_loss()
        callbacks = _callbacks(recipe, out, history, should_stop, progress)
        trainer = _trainer(module, out, machine, callbacks)
        try:
            last = out / LAST if resume else None
            if last:
                _validate_stopped(trainer, module, data, history, last)
            else:
                # the first line of the history; and errors of validation occur before training
                trainer.validate(module, data, verbose=False)
            trainer.fit(module, data, ckpt_path=last, weights_only=True)
        except SIGTERMException as error:
            raise StoppedError(trainer.global_step or history.first_step) from error
    weights = out / f"{recipe.name}.safetensors"
    if trainer.is_global_zero:
        if not resume and max(history.scores[1:]) <= history.scores[0]:
            log.warning(
                "no validation was better than the start (%.3f dB): try fewer steps or a lower "
                "learning rate",
                history.scores[0],
            )
        _export(recipe, out, source, weights)
    return weights


def _check_run(recipe: Recipe, out: Path, machine: Machine, resume: bool) -> None:
    """Raise errors before anything is read or written."""
    if proc_is_missing():  # torch would fail when the weights are exported
        raise ResourceError(NO_PROC)
    last = out / LAST
    if last.exists() and not resume:
        raise UsageError(f"{out}: contains a run; use --resume, or another --out")
    if resume and not last.exists():
        raise UsageError(f"{last}: does not exist, so there is no run to resume")
    _check_files(out, recipe, resume)
    if resume:
        for path in (last, out / BEST):
            if path.exists():
                check_recipe(load_checkpoint(path), recipe)
    if machine.trainer_options()["accelerator"] == "cpu" and recipe.precision == "fp16":
        raise UsageError("recipe: precision fp16 needs a GPU; use bf16 or fp32")


def _check_files(out: Path, recipe: Recipe, resume: bool) -> None:
    """Raise an error if a run would write through a link, or replace an existing file.

    The folder itself may be a link.
    """
    for name in (LAST, BEST, HISTORY, RECIPE, "hparams.yaml", f"{recipe.name}.safetensors"):
        path = out / name
        if not os.path.lexists(path):
            continue
        if path.is_symlink() or not path.is_file():
            raise UsageError(
                f"{path}: is a link or not a regular file; a run writes a file of that name and "
                "nothing outside its folder: remove it, or choose another --out"
            )
        if not resume and is_main_process():  # the processes of other devices find its files
            raise UsageError(f"{path}: exists and is not replaced; choose another --out")


def _check_bands(source: CropSource, module: SuperResolution) -> None:
    wanted = module.network.backbone.bands
    if source.bands != wanted:
        raise UsageError(
            f"the images have {source.bands} bands, the network takes {wanted}: choose bands with "
            f"--bidx, or set 'network: {{bands: {source.bands}}}' in the recipe"
        )


def _pretrain(module: SuperResolution, source: CropSource) -> None:
    """Load initial weights, then train the encoder and the sensor estimator."""
    recipe = module.recipe
    if recipe.init:
        load_init_weights(module.network, recipe.init)
    if recipe.scene_epochs > 0 and module.classifier is not None:
        pretrain_encoder(module.classifier, source, recipe)
    estimator = module.network.sensor_estimator
    if recipe.sensor_steps > 0 and isinstance(estimator, SensorEstimator):
        steps = min(recipe.sensor_steps, recipe.steps)  # a short trial is short
        pretrain_sensor(estimator, source, steps=steps, seed=recipe.seed)


def _validate_stopped(
    trainer: pl.Trainer,
    module: SuperResolution,
    data: TrainingData,
    history: CSVHistory,
    last: Path,
) -> None:
    """Validate a run that was stopped before or in a validation, because Lightning skips it then.

    Without this a run that was stopped at its last step would have no score.
    """
    state, recipe = load_checkpoint(last), module.recipe
    module.trainer = trainer
    checked = run_state(state, module)
    step = checked["global_step"]
    due = step == recipe.steps or step % recipe.validate_every == 0
    if not due or history.last_step() >= step:
        return
    history.first_step = step
    module.load_state_dict(checked["state_dict"])  # the averaged weights
    trainer.validate(module, data, verbose=False)
    if trainer.is_global_zero:
        best, score = best_score(state), history.scores[-1]
        improved = best is None or score > best
        if improved:
            state["callbacks"]["ModelCheckpoint"] = {"best_model_score": torch.tensor(score)}
        for path in (last.with_name(BEST), last) if improved else ():
            AtomicCheckpointIO().save_checkpoint(state, path)
    trainer.strategy.barrier()


def _trainer(
    module: SuperResolution, out: Path, machine: Machine, callbacks: list[Callback]
) -> pl.Trainer:
    recipe = module.recipe
    return pl.Trainer(
        **machine.trainer_options(),
        precision=PRECISIONS[recipe.precision],
        max_steps=recipe.steps,
        max_epochs=-1,
        val_check_interval=min(recipe.validate_every, recipe.steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(module)],
        logger=_loggers(out),
        log_every_n_steps=50,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )


def _callbacks(
    recipe: Recipe,
    out: Path,
    history: CSVHistory,
    should_stop: Callable[[], bool],
    progress: Progress | None,
) -> list[Callback]:
    """Return callbacks in order: the average is updated, validated, then saved."""
    callbacks: list[Callback] = [
        AverageCallback(recipe.ema),
        history,
        GracefulStop(out, should_stop, recipe.steps),
        checkpoint_callback(out),
    ]
    return [StepProgress(progress, recipe.steps), *callbacks] if progress else callbacks


def _loggers(out: Path) -> Any:
    """Return the logger of TensorBoard, if it is installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(out, name="", version="")


def create_run_folder(out: Path, recipe: Recipe) -> None:
    """Create the folder of a run, with its recipe; refuse links in place of its files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        weights = f"{recipe.name}.safetensors"
        for name in (LAST, BEST, HISTORY, weights, RECIPE, "hparams.yaml"):
            check_regular(out / name)
        atomic_write_text(out / RECIPE, recipe.to_yaml())
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error})") from error


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice and banners."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning(\.|$)")
            warnings.filterwarnings(
                "ignore", message=".*lightning.*|.*does not have many workers.*|find_unused_param.*"
            )
            yield
    finally:
        logger.setLevel(level)


def _export(recipe: Recipe, out: Path, source: CropSource, weights: Path) -> None:
    best = out / BEST
    if not best.exists():
        raise ModelError(f"{best}: does not exist, because no validation gave a score")
    state = load_checkpoint(best)
    score = best_score(state)
    if score is None:
        raise ModelError(f"{best}: has no validation score")
    export_checkpoint(
        best,
        weights,
        recipe,
        trained_on=f"{describe_source(recipe, source)}, {state['global_step']} steps of "
        f"{recipe.batch} crops of {recipe.patch} LR pixels, x{recipe.scale} "
        f"{recipe.degradation.describe()}",
        quality={"validation-psnr": round(score, 3)},
    )
    log.info("%s: validation %.3f dB", weights, score)


def describe_source(recipe: Recipe, source: CropSource) -> str:
    """Return the names of the data, and the number of files, for a model's spec."""
    names = ", ".join(Path(redact_url(root)).name for root in recipe.data.root) or "images"
    return f"{names} ({source.count} files)"

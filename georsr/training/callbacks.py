"""Average weights, record the history, write checkpoints and stop runs, as Lightning callbacks."""

from __future__ import annotations

import csv
import logging
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from georsr._files import atomic_write, create_file, open_regular
from georsr.errors import OutputError
from georsr.progress import Progress
from georsr.training.checkpoint import load_checkpoint, run_state
from georsr.training.module import SCORE, SuperResolution

log = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"
"""Checkpoints of a run: the latest, and the one with the best validation."""
HISTORY = "log.csv"


class AverageCallback(WeightAveraging):
    """Validates and saves an exponential moving average, whose decay is smaller at first.

    Parameters
    ----------
    decay
        Decay of the average, once many steps are done.
    """

    def __init__(self, decay: float) -> None:
        def ema_update(averages: list[Tensor], currents: list[Tensor], count: Tensor | int) -> None:
            done = int(count)
            torch._foreach_lerp_(averages, currents, 1 - min(decay, (1 + done) / (10 + done)))

        super().__init__(use_buffers=False, multi_avg_fn=torch.no_grad()(ema_update))

    @property
    def state_key(self) -> str:
        """Name of the callback in checkpoints."""
        return "WeightAveraging"

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Swap average and weights back, if a validation was stopped, before they are saved."""
        if trainer.validating and isinstance(exception, SIGTERMException):
            self.on_validation_epoch_end(trainer, pl_module)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, so that the previous one survives any failure.

    Parameters
    ----------
    module
        Module of the run that is resumed from checkpoints.
    """

    def __init__(self, module: SuperResolution | None = None) -> None:
        self.module = module

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the entries that resume a run; the file may be of any origin.

        Raises
        ------
        InputError, ModelError
            There is no checkpoint, or it is not of this run.
        """
        return run_state(load_checkpoint(Path(path)), self.module)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove nothing: a checkpoint is only replaced by one of the same name."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write atomically.

        Raises
        ------
        OutputError
            The disk is full or the folder cannot be written.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target) as fresh, fresh.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError
            raise OutputError(
                f"{target}: the checkpoint cannot be written ({error})".splitlines()[0]
                + "; the previous one is unchanged"
            ) from error


class Checkpoints(ModelCheckpoint):
    """Checkpoints whose state is the best score alone; the paths follow from the run's folder."""

    def state_dict(self) -> dict[str, Any]:
        """Return the best score in dB, or None."""
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score."""
        if state_dict["best_model_score"] is None:
            return
        best = str(Path(str(self.dirpath)) / BEST)
        score = torch.tensor(float(state_dict["best_model_score"]))
        self.best_model_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = best
        self.best_k_models = {best: score}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``best.ckpt`` if the score improved, and ``last.ckpt`` in any case."""
        super().on_validation_end(trainer, pl_module)
        # Lightning's own save_last writes last.ckpt only together with a new best.ckpt
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            trainer.save_checkpoint(Path(str(self.dirpath)) / LAST)

    @property
    def state_key(self) -> str:
        """Name of the callback in checkpoints."""
        return "ModelCheckpoint"


def checkpoint_callback(folder: Path) -> ModelCheckpoint:
    """Write ``last.ckpt`` at every validation, ``best.ckpt`` when the averaged weights improve."""
    return Checkpoints(
        dirpath=folder,
        filename=BEST.removesuffix(".ckpt"),
        monitor=SCORE,
        mode="max",
        auto_insert_metric_name=False,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )


class CSVHistory(Callback):
    """Writes one line of ``log.csv`` and of the log per validation, the first before any step.

    Parameters
    ----------
    path
        File to append to.
    """

    COLUMNS = ("step", "loss", "psnr", "seconds_per_step", "compute_share")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scores: list[float] = []
        self.first_step = 0
        """Step of the weights that are validated before training starts."""
        self._reset()

    def last_step(self) -> int:
        """Return the step of the last line; -1 without any."""
        try:
            with open_regular(self.path, "rb") as file:
                return int(file.read().splitlines()[-1].split(b",")[0])
        except (OSError, IndexError, ValueError):
            return -1

    def _reset(self) -> None:
        self.losses: list[float] = []
        self.compute_seconds, self.start, self.step_start = 0.0, time.monotonic(), 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._reset()

    def on_train_batch_start(self, *args: Any) -> None:
        """Note the time when the batch is loaded."""
        self.step_start = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Add up the time and the loss of the step."""
        self.compute_seconds += time.monotonic() - self.step_start
        # a number, because thousands of small tensors fragment the heap
        self.losses.append(float(outputs["loss"].detach()))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock: validation is not a step's time."""
        self.elapsed = time.monotonic() - self.start

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line and start the clock again."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        score = float(trainer.callback_metrics[SCORE])
        fitting = trainer.state.fn == TrainerFn.FITTING
        step = trainer.global_step if fitting else self.first_step
        row = (str(step), "", f"{score:.4f}", "", "")
        log.info("step %d: validation %.3f dB", step, score)
        if self.losses:
            mean = statistics.fmean(self.losses)
            seconds, fraction = self.elapsed / len(self.losses), self.compute_seconds / self.elapsed
            row = (row[0], f"{mean:.6f}", row[2], f"{seconds:.4f}", f"{fraction:.4f}")
        text = StringIO(newline="")
        writer = csv.writer(text)
        with suppress(FileExistsError), create_file(self.path):
            writer.writerow(self.COLUMNS)
        writer.writerow(row)
        with open_regular(self.path, "ab") as file:
            file.write(text.getvalue().encode())
        self.scores.append(score)
        self._reset()


class StepProgress(Callback):
    """Advances a progress object once per step."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self.progress, self.steps = progress, steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the progress; a resumed run has some steps done."""
        self.progress.start(self.steps, "steps")
        self.progress.advance(trainer.global_step)

    def on_train_batch_end(self, *args: Any) -> None:
        """Advance by one step."""
        self.progress.advance()


class StoppedError(BaseException):
    """A run was stopped after ``step``, and its checkpoint written."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class GracefulStop(Callback):
    """Ends a run: after its last step with a validation, or between two steps on request.

    Parameters
    ----------
    folder
        Folder of ``last.ckpt``.
    should_stop
        Function that returns whether to stop before the end.
    steps
        Length of the run.
    """

    def __init__(self, folder: Path, should_stop: Callable[[], bool], steps: int) -> None:
        self.folder, self.should_stop, self.steps = folder, should_stop, steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Stop once the step and its average are complete."""
        if trainer.global_step >= self.steps:
            # Lightning validates before it stops early, but not after the last of its steps
            trainer.should_stop = True
        elif trainer.strategy.reduce_boolean_decision(self.should_stop(), all=False):
            raise StoppedError(trainer.global_step)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save a checkpoint of a run that was stopped; before its first step there is none."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting and isinstance(exception, StoppedError | SIGTERMException):
            trainer.save_checkpoint(self.folder / LAST)

"""What happens beside the steps of a run: averaging, history, checkpoints, stopping."""

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
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from georsr._files import atomic_write, create_file, open_regular
from georsr.errors import OutputError
from georsr.progress import Progress
from georsr.training.checkpoint import load_checkpoint, run_state
from georsr.training.module import SCORE, SuperResolution

log = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"
"""Checkpoints of a run: where it is, and where its averaged weights measured best."""
HISTORY = "log.csv"


def average_callback(decay: float) -> WeightAveraging:
    """Exponential moving average of the weights; early steps count less, so it starts at once."""

    def mix(averages: list[Tensor], currents: list[Tensor], count: Tensor | int) -> None:
        done = int(count)
        torch._foreach_lerp_(averages, currents, 1 - min(decay, (1 + done) / (10 + done)))

    return WeightAveraging(use_buffers=False, multi_avg_fn=torch.no_grad()(mix))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then renames: the one before survives any failure.

    Parameters
    ----------
    module
        Whose run goes on from the checkpoints that are read.
    """

    def __init__(self, module: SuperResolution | None = None) -> None:
        self.module = module

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what a run goes on with, and nothing else: the file may be somebody else's.

        Raises
        ------
        InputError, ModelError
            There is none, or it is not of this run.
        """
        return run_state(load_checkpoint(Path(path)), self.module)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove nothing: a checkpoint is only ever replaced by one of its own name."""

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
                + "; the one before is untouched"
            ) from error


class Checkpoints(ModelCheckpoint):
    """Remembers the best figure alone; where its file lies follows from the run's folder."""

    def state_dict(self) -> dict[str, Any]:
        """The best figure in dB, or None."""
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best figure."""
        if state_dict["best_model_score"] is None:
            return
        best = str(Path(str(self.dirpath)) / BEST)
        score = torch.tensor(float(state_dict["best_model_score"]))
        self.best_model_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = best
        self.best_k_models = {best: score}

    @property
    def state_key(self) -> str:
        """Its name in checkpoints."""
        return "ModelCheckpoint"


def checkpoint_callback(folder: Path) -> ModelCheckpoint:
    """``last.ckpt`` at every validation, ``best.ckpt`` when the averaged weights improve."""
    keeper = Checkpoints(
        dirpath=folder,
        filename=BEST.removesuffix(".ckpt"),
        monitor=SCORE,
        mode="max",
        save_last=True,
        auto_insert_metric_name=False,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    keeper.CHECKPOINT_NAME_LAST = LAST.removesuffix(".ckpt")
    return keeper


class CSVHistory(Callback):
    """One line of ``log.csv`` (and of the log) per validation, the first before any step."""

    COLUMNS = ("step", "loss", "psnr", "seconds_per_step", "compute_share")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scores: list[float] = []
        self._reset()

    def _reset(self) -> None:
        self.losses: list[float] = []
        self.computing, self.since, self.began = 0.0, time.monotonic(), 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._reset()

    def on_train_batch_start(self, *args: Any) -> None:
        """The batch is there: computing begins."""
        self.began = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """The step is done."""
        self.computing += time.monotonic() - self.began
        # a number: thousands of small tensors, kept among large ones that come and go, keep the
        # heap from being used again
        self.losses.append(float(outputs["loss"].detach()))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock: validation is not a step's time."""
        self.elapsed = time.monotonic() - self.since

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line and start the clock again."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        score = float(trainer.callback_metrics[SCORE])
        row = (str(trainer.global_step), "", f"{score:.4f}", "", "")
        log.info("step %d: validation %.3f dB", trainer.global_step, score)
        if self.losses:
            mean = statistics.fmean(self.losses)
            seconds, share = self.elapsed / len(self.losses), self.computing / self.elapsed
            row = (row[0], f"{mean:.6f}", row[2], f"{seconds:.4f}", f"{share:.4f}")
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
    """Tells a progress how far the run is."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self.progress, self.steps = progress, steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run begins where it was."""
        self.progress.start(self.steps, "steps")
        self.progress.advance(trainer.global_step)

    def on_train_batch_end(self, *args: Any) -> None:
        """One more."""
        self.progress.advance()


class StoppedError(BaseException):
    """A run was asked to stop; its checkpoint says where it was."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class GracefulStop(Callback):
    """Ends a run: after its last step with a validation, or between two steps when asked to.

    Parameters
    ----------
    folder
        Where ``last.ckpt`` goes.
    asked
        Whether to stop before the end.
    steps
        Length of the run.
    """

    def __init__(self, folder: Path, asked: Callable[[], bool], steps: int) -> None:
        self.folder, self.asked, self.steps = folder, asked, steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """The step is complete, its average too."""
        if trainer.global_step >= self.steps:
            # Lightning validates before it stops early, but not after the last of its steps
            trainer.should_stop = True
        elif trainer.strategy.reduce_boolean_decision(self.asked(), all=False):
            raise StoppedError(trainer.global_step)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save, where the weights are those of a whole number of steps."""
        if isinstance(exception, StoppedError | SIGTERMException):
            trainer.save_checkpoint(self.folder / LAST)

"""The training loop of segsr-lite: sample, step, average, validate, checkpoint, resume."""

from __future__ import annotations

import copy
import csv
import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import InputError, ModelError
from georsr.evaluation.metrics import psnr_y
from georsr.models.lite.encoder import SceneClassifier
from georsr.models.lite.network import SegSRLite
from georsr.models.load import open_model
from georsr.training.data.degrade import to_uint8
from georsr.training.muon import Muon
from georsr.training.pretrain import classification_accuracy, pretrain_scenes
from georsr.training.recipe import Recipe
from georsr.training.sampler import Batch, CropSampler
from georsr.training.schedule import rate
from georsr.types import AnyArray

log = logging.getLogger(__name__)

Pairs = list[tuple[AnyArray, AnyArray]]


def split_parameters(network: SegSRLite) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(3x3 kernels of the backbone's groups, for Muon; all other parameters, for Adam)."""
    kernels = [p for p in network.backbone.groups.parameters() if p.ndim == 4]
    chosen = {id(p) for p in kernels}
    return kernels, [p for p in network.parameters() if id(p) not in chosen]


def image_psnr(network: nn.Module, pairs: Pairs, scale: int) -> float:
    """Mean Y-protocol PSNR in dB of a network over (HR, LR) uint8 pairs, float32."""
    network.eval()
    device = next(network.parameters()).device
    values = []
    with torch.inference_mode():
        for hr, lr in pairs:
            x = torch.from_numpy(lr).float().div(255)[None].to(device)
            sr = to_uint8(network(x)[0].float().cpu().numpy() * 255)
            values.append(psnr_y(sr, hr, scale))
    return float(np.mean(values))


class Training:
    """One run: its network, optimisers and average, all of which a checkpoint holds.

    Parameters
    ----------
    recipe
        What to do.
    sampler
        Where batches come from.
    validation
        (HR, LR) uint8 pairs to measure on.
    classes
        Number of scene classes.
    folder
        Where checkpoints (``last.pt``, ``best.pt``) and ``log.csv`` go.
    device
        Device to train on; mixed precision is bfloat16 where it pays.
    """

    def __init__(
        self,
        recipe: Recipe,
        sampler: CropSampler,
        validation: Pairs,
        classes: int,
        folder: Path,
        device: torch.device,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.sampler, self.validation = recipe, sampler, validation
        self.folder, self.device = folder, device
        network = SegSRLite(recipe.scale, fused=False, **recipe.network)
        self.classifier: SceneClassifier | None = None
        if network.guided:
            width = network.encoder.local_head.out_channels
            self.classifier = SceneClassifier(network.encoder, width, classes).to(device)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        kernels, rest = split_parameters(self.network)
        if self.classifier is not None:
            rest += [self.classifier.class_prompts, self.classifier.log_temperature]
        self.rest = rest
        self.muon = Muon(kernels, recipe.muon_lr, weight_decay=recipe.weight_decay)
        self.adam = torch.optim.Adam(rest, recipe.adam_lr, betas=(0.9, 0.99))
        self.step = 0
        self.best = -1.0

    # -- one step -------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Tensor:
        """Image loss plus the weighted scene loss."""
        lr = batch.lr.to(self.device, memory_format=torch.channels_last)
        hr = batch.hr.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            sr, scene = self.network.enlarge(lr)
        error = sr.float() - hr
        late = self.step >= (1 - self.recipe.squared_share) * self.recipe.steps
        loss = error.square().mean() * 10 if late else error.abs().mean()
        if self.classifier is not None and scene is not None and self.recipe.scene_weight > 0:
            wrong = F.cross_entropy(self.classifier.logits(scene), batch.labels.to(self.device))
            loss = loss + self.recipe.scene_weight * wrong
        return loss

    def train_step(self) -> float:
        """Advance by one step; returns the loss."""
        self.network.train()
        share = rate(self.step, self.recipe.steps, self.recipe.warmup, self.recipe.hold)
        for optimizer, peak in ((self.muon, self.recipe.muon_lr), (self.adam, self.recipe.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = peak * share
        loss = self.loss(self.sampler.batch(self.step))
        self.muon.zero_grad(set_to_none=True)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.rest, self.recipe.clip)
        self.muon.step()
        self.adam.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.network.parameters()), 1 - decay
            )
        return float(loss.detach())

    # -- a whole run ----------------------------------------------------------------------

    def pretrain(self) -> None:
        """Teach the encoder the scene classes, then start the average from it."""
        if self.classifier is None or self.recipe.scene_epochs == 0:
            return
        images = [lr for _, lr in self.sampler.pairs]
        size = min(min(image.shape[1:]) for image in images)
        centre = (self.network.mean, self.network.gain)
        pretrain_scenes(
            self.classifier,
            images,
            self.sampler.labels,
            epochs=self.recipe.scene_epochs,
            size=size,
            centre=centre,
            seed=self.recipe.seed,
        )
        accuracy = classification_accuracy(
            self.classifier, images, self.sampler.labels, size=size, centre=centre
        )
        log.info("scene classes: %.1f %% of the training images named right", 100 * accuracy)
        self.average.load_state_dict(self.network.state_dict())

    def run(self, until: int | None = None) -> float:
        """Train to the recipe's last step (or ``until``); returns the best PSNR in dB."""
        end = self.recipe.steps if until is None else min(until, self.recipe.steps)
        clock, since, losses = time.monotonic(), self.step, 0.0
        while self.step < end:
            loss = self.train_step()
            if not np.isfinite(loss):
                raise ModelError(
                    f"training diverged at step {self.step} (loss {loss}); "
                    "lower muon_lr or adam_lr and resume from best.pt"
                )
            losses += loss
            if self.step % self.recipe.validate_every == 0 or self.step == end:
                seconds = (time.monotonic() - clock) / (self.step - since)
                self.validate(losses / (self.step - since), seconds)
                clock, since, losses = time.monotonic(), self.step, 0.0
        return self.best

    def validate(self, loss: float, seconds: float) -> None:
        """Measure the average, log a line, write the checkpoints."""
        score = image_psnr(self.average, self.validation, self.recipe.scale)
        log.info(
            "step %d of %d: loss %.5f, validation %.3f dB, %.3f s per step",
            *(self.step, self.recipe.steps, loss, score, seconds),
        )
        path = self.folder / "log.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", "loss", "psnr_y", "seconds_per_step"])
            writer.writerow([self.step, f"{loss:.6f}", f"{score:.4f}", f"{seconds:.4f}"])
        if score > self.best:
            self.best = score
            self.save(self.folder / "best.pt")
        self.save(self.folder / "last.pt")

    # -- checkpoints ----------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything needed to go on as if nothing had happened."""
        return {
            "recipe": json.dumps(asdict(self.recipe)),
            "step": self.step,
            "best": self.best,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "classifier": self.classifier.state_dict() if self.classifier else {},
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically: the previous one survives any failure."""
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            torch.save(self.state(), part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of the same recipe."""
        state = load_checkpoint(path)
        theirs, ours = json.loads(state["recipe"]), asdict(self.recipe)
        if changed := [k for k in ours if theirs.get(k) != ours[k]]:
            raise ModelError(
                f"{path}: its recipe differs in {', '.join(changed[:5])}; "
                "use the same recipe, or start a new run with 'init'"
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        if self.classifier is not None:
            self.classifier.load_state_dict(state["classifier"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.step, self.best = state["step"], state["best"]

    def initialise(self, path: Path) -> None:
        """Start from the weights of another run, where names and shapes agree.

        ``path`` is a checkpoint, whose average is taken, or an exported ``.safetensors`` file,
        whose fused kernels become the 3x3 branches (the other branches start at zero).
        """
        ours = self.network.state_dict()
        prompts: Tensor | None = None
        if path.suffix == ".safetensors":
            theirs = unfused(open_model(str(path)).network.state_dict(), set(ours))
        else:
            state = load_checkpoint(path)
            theirs, prompts = state["average"], state["classifier"].get("class_prompts")
        common = {k: v for k, v in theirs.items() if k in ours and v.shape == ours[k].shape}
        if not common:
            raise ModelError(f"{path}: no tensor fits this recipe's network")
        self.network.load_state_dict({**ours, **common})
        self.average.load_state_dict(self.network.state_dict())
        mine = None if self.classifier is None else self.classifier.class_prompts
        if prompts is not None and mine is not None and prompts.shape == mine.shape:
            mine.data.copy_(prompts)
        log.info("initialised %d of %d tensors from %s", len(common), len(ours), path)


def unfused(weights: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Name the weights of fused convolutions as the 3x3 branches they can start."""
    kernels = {k: k.removesuffix("weight") + "kernel" for k in weights if k.endswith("weight")}
    return {kernels[k] if kernels.get(k) in wanted else k: v for k, v in weights.items()}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch.load has no error class of its own
        raise ModelError(f"{path}: not a readable checkpoint ({error})".splitlines()[0]) from error
    if not isinstance(state, dict) or "average" not in state:
        raise ModelError(f"{path}: not a checkpoint of georsr train")
    return state

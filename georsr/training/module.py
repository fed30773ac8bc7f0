"""Train a recipe's network with Lightning: network, loss, optimizer, schedule and validation."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from georsr.errors import ModelError, UsageError
from georsr.evaluation.metrics import psnr, psnr_y
from georsr.models.io import check_size, make_spec
from georsr.models.registry import find_architecture
from georsr.models.segsr import SegSR
from georsr.models.segsr_lite import (
    SceneClassifier,
    SceneEncoder,
    fuse_branches,
    likelihood_error,
)
from georsr.models.sfem import ClipEncoder, add_lora, load_clip, merge_lora
from georsr.models.spec import SCENE, SOFTLY, ModelSpec
from georsr.radiometry.degradation import BicubicDegradation, to_uint8
from georsr.radiometry.kernels import combine_estimates
from georsr.tiling.grid import ceil_to
from georsr.tiling.stitch import pad_to
from georsr.training.checkpoint import check_recipe, recipe_text
from georsr.training.data.dataloader import Batch, ValidationPair
from georsr.training.losses import ImageLoss, SemanticError
from georsr.training.optim import MuonAdam, cosine, multi_step
from georsr.training.recipe import Recipe
from georsr.window import AnyArray, BoolArray


def _check_arguments(recipe: Recipe, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Raise unless each network argument is one of the architecture's, and sizes are numbers."""
    known = set(parameters) - {"scale", "fused"}
    if unknown := sorted(set(recipe.network) - known):
        raise UsageError(
            f"recipe {recipe.name}: network has no argument {unknown[0]!r}; "
            f"{recipe.architecture} has {', '.join(sorted(known))}"
        )
    for name, value in recipe.network.items():
        if type(parameters[name].default) is int and (type(value) is not int or value < 0):
            raise UsageError(
                f"recipe {recipe.name}: network: {name} is {value!r:.80}, expected a whole number, "
                "at least 0"
            )


def training_network(recipe: Recipe) -> SegSR:
    """Build the network of a recipe in the form in which it is trained.

    Convolutions that have branches have them; a CLIP encoder has its weights and LoRA.

    Raises
    ------
    UsageError
        The recipe's network arguments do not fit its architecture.
    ModelError
        An encoder or backbone is unknown, or CLIP weights are missing or damaged.
    """
    build = find_architecture(recipe.architecture)
    _check_arguments(recipe, inspect.signature(build).parameters)
    arguments = dict(recipe.network)
    if "fused" in inspect.signature(build).parameters:
        arguments["fused"] = False
    clip = load_clip(recipe.clip, recipe.scale) if recipe.clip else None
    if clip is not None:
        arguments["encoder_options"] = clip.options
    try:
        check_size(partial(build, recipe.scale, **arguments))
        network = build(recipe.scale, **arguments)
    except ModelError as error:
        raise ModelError(f"recipe {recipe.name}: network: {error}") from error
    except Exception as error:  # wrong arguments fail in any way
        reason = f"{error}".partition("\n")[0]
        raise UsageError(f"recipe {recipe.name}: network does not fit ({reason:.200})") from error
    assert isinstance(network, SegSR), "all trainable architectures are"
    if isinstance(network.encoder, ClipEncoder):
        if clip is not None:
            network.encoder.load_state_dict(clip.state_dict())
        if recipe.lora > 0:
            add_lora(network.encoder, rank=recipe.lora, alpha=recipe.lora)
    return network


def with_errors(truth: Tensor, estimate: Tensor) -> Tensor:
    """Draw the sensor descriptions that a network gets in training, (N, N_SENSOR_VALUES).

    Half of the crops get their own estimate. The other half get the truth with an error of random
    size, shrunk to the best estimate under a standard normal prior. One crop in ten gets zero, as
    if its sensor were unknown.
    """
    kind = torch.rand(len(truth), 1, device=truth.device)
    size = torch.rand(len(truth), 1, device=truth.device)
    noisy = (truth + size * torch.randn_like(truth)) / (1 + size.square())
    return torch.where(kind < 0.5, estimate, noisy) * (kind < 0.9)


def semantic_error(network: SegSR) -> SemanticError:
    """Return the loss that compares images by the tokens of a frozen copy of the encoder."""
    if network.encoder is None:
        raise UsageError("recipe: loss: semantic needs a network with guidance")
    return SemanticError(network.encoder)


def split_parameters(network: SegSR, muon: bool) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the kernels of the backbone's groups, for Muon, and all other trained parameters."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if not muon:
        return [], trained
    kernels = [p for p in network.backbone.groups.parameters() if p.requires_grad and p.ndim == 4]
    kernel_ids = {id(p) for p in kernels}
    return kernels, [p for p in trained if id(p) not in kernel_ids]


def for_inference(network: SegSR, recipe: Recipe) -> tuple[SegSR, ModelSpec]:
    """Return the network with branches fused and LoRA merged, and the spec that rebuilds it."""
    exported = copy.deepcopy(network)
    fuse_branches(exported)
    parameters = dict(recipe.network)
    if isinstance(exported.encoder, ClipEncoder):
        parameters["encoder_options"] = dict(exported.encoder.options)
        merge_lora(exported.encoder)
    spec = make_spec(recipe.name, recipe.architecture, recipe.scale, exported, parameters)
    # randomly drawn degradations fit no scene in particular: the kernel is estimated per scene
    kernel = "bicubic" if isinstance(recipe.degradation, BicubicDegradation) else SCENE
    spec = replace(
        spec,
        degradation=recipe.degradation.name,
        kernel=SOFTLY if network.uses_sensor else kernel,
    )
    return exported.eval().requires_grad_(False), spec


SCORE = "psnr"
"""Name of the metric by which the best checkpoint is chosen."""


def pair_psnr(sr: AnyArray, hr: AnyArray, valid: BoolArray | None, scale: int) -> float:
    """Compute the PSNR in dB of one validation pair.

    RGB images of 8 bits follow the Y protocol; anything else is measured over all bands against
    a peak of 1, where ``valid``.
    """
    if hr.dtype == np.uint8 and len(hr) == 3:
        return psnr_y(to_uint8(sr * 255), hr, scale)
    peak = 255.0 if hr.dtype == np.uint8 else 1.0
    valid = np.ones(hr.shape[1:], bool) if valid is None else valid
    return psnr(sr[:, valid] * peak, hr[:, valid], peak)


class SuperResolution(pl.LightningModule):
    """A recipe's network in training.

    Parameters
    ----------
    recipe
        Recipe of the run.
    classes
        Number of scene classes; 0 without.
    """

    def __init__(self, recipe: Recipe, classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.network = training_network(recipe)
        self.classifier: SceneClassifier | None = None
        encoder = self.network.encoder
        wants_scenes = recipe.loss.scene > 0 or recipe.scene_epochs > 0
        if isinstance(encoder, SceneEncoder) and classes > 0 and wants_scenes:
            self.classifier = SceneClassifier(encoder, classes)
        self.network.to(memory_format=torch.channels_last)
        self.image_loss = ImageLoss(recipe.loss)
        self._scores: list[float] = []

    def setup_loss(self) -> None:
        """Copy the encoder of the network, as it is before the run, into the loss."""
        settings = self.recipe.loss
        features: nn.Module | None = None
        if settings.perceptual > 0:
            from georsr.training.losses import VggFeatures

            features = VggFeatures()
        semantic = semantic_error(self.network) if settings.semantic > 0 else None
        self.image_loss = ImageLoss(settings, semantic, features)

    # -- one step -------------------------------------------------------------------------

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Compute the loss of one batch."""
        # the seed of dropout depends on the step, so that a resumed run draws the same
        step = self.trainer.global_step * self.trainer.world_size + self.trainer.global_rank
        torch.manual_seed((self.recipe.seed << 40) + step)
        lr = batch.lr.contiguous(memory_format=torch.channels_last)
        sensor, sensor_loss = self._sensor(batch)
        sr, _, scene = self.network.predict(lr, sensor)
        done = self.trainer.global_step / self.recipe.steps
        loss: Tensor = self.image_loss(sr, batch.hr, batch.valid, done)
        if self.classifier is not None and scene is not None and self.recipe.loss.scene > 0:
            error = F.cross_entropy(self.classifier.logits(scene), batch.labels, ignore_index=-1)
            loss = loss + self.recipe.loss.scene * torch.nan_to_num(error)
        loss = loss + self.recipe.loss.sensor * sensor_loss
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"training diverged at step {self.trainer.global_step + 1} (loss {value}); lower "
                "the learning rates and start again with 'init: .../best.ckpt'"
            )
        return loss

    def _sensor(self, batch: Batch) -> tuple[Tensor | None, Tensor | float]:
        """Return the sensor input of the network, and the loss of its estimate.

        Crops whose sensor is not known, as those of rasters, get the network's own estimate.
        """
        if self.network.sensor_estimator is None:
            return None, 0.0
        # noise is estimated from differences of a grey level, which half precision rounds
        with torch.autocast(batch.lr.device.type, enabled=False):
            mean, variance = self.network.sensor_estimator(batch.lr)
        if batch.sensor is None:
            return mean.detach(), 0.0
        loss = likelihood_error(mean, variance, batch.sensor)
        return with_errors(batch.sensor, mean.detach()), loss

    def configure_optimizers(self) -> Any:
        """Return Adam, with Muon for the kernels if the recipe says so, and the schedule."""
        settings = self.recipe.optimizer
        kernels, others = split_parameters(self.network, settings.kind == "muon")
        if self.classifier is not None:
            others += [self.classifier.class_prompts, self.classifier.log_temperature]
        optimizer = MuonAdam(
            kernels,
            others,
            muon_lr=settings.muon_lr,
            lr=settings.lr,
            betas=(float(settings.betas[0]), float(settings.betas[1])),  # torch takes no 0
            weight_decay=settings.weight_decay,
        )
        schedule = LambdaLR(optimizer, self.rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def rate(self, step: int) -> float:
        """Return the learning rates at ``step`` as a fraction of their peak."""
        schedule = self.recipe.schedule
        if schedule.kind == "steps":
            return multi_step(step, schedule.warmup, schedule.milestones, schedule.gamma)
        return cosine(step, self.recipe.steps, schedule.warmup, schedule.hold)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **options: Any) -> None:
        """Limit the gradient of Adam's parameters; Muon's steps have a fixed length."""
        if self.recipe.optimizer.clip > 0:
            nn.utils.clip_grad_norm_(
                optimizer.param_groups[0]["params"], self.recipe.optimizer.clip
            )

    # -- validation -----------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Clear the scores of the last validation."""
        self._scores = []

    def validation_step(self, pair: ValidationPair, index: int) -> None:
        """Measure one pair, in float32."""
        hr, lr, valid = pair
        padded = pad_to(lr, *(ceil_to(n, self.network.multiple_of) for n in lr.shape[1:]))
        x = torch.from_numpy(padded).to(self.device).float()[None]
        if lr.dtype == np.uint8:
            x = x / 255
        with torch.autocast(self.device.type, enabled=False):
            sensor = None
            if self.network.sensor_estimator is not None:
                mean, variance = self.network.sensor_estimator(x)
                sensor = combine_estimates(mean, variance)[None]
            sr = self.network.predict(x, sensor).image[0, :, : hr.shape[1], : hr.shape[2]]
        self._scores.append(pair_psnr(sr.float().cpu().numpy(), hr, valid, self.recipe.scale))

    def on_validation_epoch_end(self) -> None:
        """Average over all pairs of all devices."""
        own = torch.tensor([sum(self._scores), len(self._scores)], device=self.device)
        total: Any = self.trainer.strategy.reduce(own, reduce_op="sum")
        self.log(SCORE, total[0] / total[1].clamp(min=1), rank_zero_only=True)

    # -- checkpoints ----------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the recipe with the weights."""
        checkpoint["recipe"] = recipe_text(self.recipe)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise an error if the checkpoint has another recipe."""
        check_recipe(checkpoint, self.recipe)

"""The Lightning module: loss, optimizer, schedule and validation of a recipe's network.

Networks in the form in which they train, and back to the form in which they run.
"""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from georsr.errors import ModelError, UsageError
from georsr.evaluation.metrics import psnr, psnr_y
from georsr.models.io import make_spec
from georsr.models.registry import trainable_architectures
from georsr.models.segsr.lite import SceneClassifier, SceneEncoder, fuse_branches
from georsr.models.segsr.segsr import SegSR
from georsr.models.segsr.sensor import combine_estimates, likelihood_error
from georsr.models.segsr.sfem import ClipEncoder, add_lora, load_clip, merge_lora
from georsr.models.spec import SCENE, SOFTLY, ModelSpec
from georsr.radiometry.degradation import BicubicDegradation, to_uint8
from georsr.tiling.grid import ceil_to
from georsr.tiling.stitch import pad_to
from georsr.training.checkpoint import check_recipe, recipe_text
from georsr.training.data.dataloader import Batch, ValidationPair
from georsr.training.losses import ImageLoss, SemanticError
from georsr.training.optim import MuonAdam, cosine, milestones
from georsr.training.recipe import Recipe
from georsr.window import AnyArray, BoolArray


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
    build = trainable_architectures()[recipe.architecture]
    known = set(inspect.signature(build).parameters) - {"scale", "fused"}
    if unknown := sorted(set(recipe.network) - known):
        raise UsageError(
            f"recipe {recipe.name}: network has no argument {unknown[0]!r}; "
            f"{recipe.architecture} has {', '.join(sorted(known))}"
        )
    arguments = dict(recipe.network)
    if "fused" in inspect.signature(build).parameters:
        arguments["fused"] = False
    clip = load_clip(recipe.clip, recipe.scale) if recipe.clip else None
    if clip is not None:
        arguments["encoder_options"] = clip.options
    try:
        network = build(recipe.scale, **arguments)
    except TypeError as error:
        raise UsageError(f"recipe {recipe.name}: network does not fit ({error})") from error
    assert isinstance(network, SegSR), "all trainable architectures are"
    if isinstance(network.encoder, ClipEncoder):
        if clip is not None:
            network.encoder.load_state_dict(clip.state_dict())
        if recipe.lora > 0:
            add_lora(network.encoder, rank=recipe.lora, alpha=recipe.lora)
    return network


def with_errors(truth: Tensor, estimate: Tensor) -> Tensor:
    """What a network in training is told of the sensor, all (N, N_SENSOR_VALUES) and normalised.

    A crop's own estimate for one half of the crops. For the other half the truth with an error of a
    random size, times what makes it the best guess under a standard normal prior, as estimates are;
    and for one crop in ten zero, as where nothing is known.
    """
    kind = torch.rand(len(truth), 1, device=truth.device)
    size = torch.rand(len(truth), 1, device=truth.device)
    wrong = (truth + size * torch.randn_like(truth)) / (1 + size.square())
    told = torch.where(kind < 0.5, estimate, wrong)
    return told * (kind < 0.9)


def semantic_error(network: SegSR) -> SemanticError:
    """Return the loss that compares images by the tokens of a frozen copy of the encoder."""
    if network.encoder is None:
        raise UsageError("recipe: loss: semantic needs a network with guidance")
    return SemanticError(network.encoder)


def split_parameters(network: SegSR, muon: bool) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(3x3 kernels inside the backbone's groups, for Muon; all other trained parameters)."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if not muon:
        return [], trained
    kernels = [p for p in network.backbone.groups.parameters() if p.requires_grad and p.ndim == 4]
    chosen = {id(p) for p in kernels}
    return kernels, [p for p in trained if id(p) not in chosen]


def for_inference(network: SegSR, recipe: Recipe) -> tuple[SegSR, ModelSpec]:
    """Return the network as users run it, branches fused and LoRA merged, and its specification."""
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
"""Name of the figure by which the best checkpoint is chosen."""


def pair_psnr(sr: AnyArray, hr: AnyArray, valid: BoolArray | None, scale: int) -> float:
    """PSNR in dB of one validation pair.

    RGB images of 8 bits follow the Y protocol; anything else is measured over all bands against
    a peak of 1, where ``valid``.
    """
    if hr.dtype == np.uint8 and len(hr) == 3:
        return psnr_y(to_uint8(sr * 255), hr, scale)
    peak = 255.0 if hr.dtype == np.uint8 else 1.0
    good = np.ones(hr.shape[1:], bool) if valid is None else valid
    return psnr(sr[:, good] * peak, hr[:, good], peak)


class SuperResolution(pl.LightningModule):
    """A recipe's network in training.

    Parameters
    ----------
    recipe
        What to train and how.
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
        """Take what the loss compares with from the network as it now is: call it before a run."""
        settings = self.recipe.loss
        features: nn.Module | None = None
        if settings.perceptual > 0:
            from georsr.training.losses import VggFeatures

            features = VggFeatures()
        semantic = semantic_error(self.network) if settings.semantic > 0 else None
        self.image_loss = ImageLoss(settings, semantic, features)

    # -- one step -------------------------------------------------------------------------

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of one batch."""
        # dropout is drawn from the step's own seed, so that a resumed run draws the same
        step = self.trainer.global_step * self.trainer.world_size + self.trainer.global_rank
        torch.manual_seed((self.recipe.seed << 40) + step)
        lr = batch.lr.contiguous(memory_format=torch.channels_last)
        told, sensor_loss = self._sensor(batch)
        sr, _, scene = self.network.predict(lr, told)
        done = self.trainer.global_step / self.recipe.steps
        loss: Tensor = self.image_loss(sr, batch.hr, batch.valid, done)
        if self.classifier is not None and scene is not None and self.recipe.loss.scene > 0:
            wrong = F.cross_entropy(self.classifier.logits(scene), batch.labels, ignore_index=-1)
            loss = loss + self.recipe.loss.scene * torch.nan_to_num(wrong)
        loss = loss + self.recipe.loss.sensor * sensor_loss
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"training diverged at step {self.trainer.global_step + 1} (loss {value}); lower "
                "the learning rates and start again with 'init: .../best.ckpt'"
            )
        return loss

    def _sensor(self, batch: Batch) -> tuple[Tensor | None, Tensor | float]:
        """What the network is told of the sensor, and how unlikely its estimate makes the truth."""
        if batch.sensor is None or self.network.sensor_estimator is None:
            return None, 0.0
        # differences of a grey level are what noise is measured by: not in half precision
        with torch.autocast(batch.lr.device.type, enabled=False):
            mean, variance = self.network.sensor_estimator(batch.lr)
        told = with_errors(batch.sensor, mean.detach())
        return told, likelihood_error(mean, variance, batch.sensor)

    def configure_optimizers(self) -> Any:
        """Adam, with Muon for the kernels if the recipe says so, on the recipe's schedule."""
        chosen = self.recipe.optimizer
        kernels, others = split_parameters(self.network, chosen.kind == "muon")
        if self.classifier is not None:
            others += [self.classifier.class_prompts, self.classifier.log_temperature]
        optimizer = MuonAdam(
            kernels,
            others,
            muon_lr=chosen.muon_lr,
            lr=chosen.lr,
            betas=chosen.betas,
            weight_decay=chosen.weight_decay,
        )
        schedule = LambdaLR(optimizer, self.rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def rate(self, step: int) -> float:
        """Share of the peak learning rates at ``step``."""
        schedule = self.recipe.schedule
        if schedule.kind == "steps":
            return milestones(step, schedule.warmup, schedule.milestones, schedule.gamma)
        return cosine(step, self.recipe.steps, schedule.warmup, schedule.hold)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **options: Any) -> None:
        """Limit the gradient of Adam's parameters; Muon's steps have a fixed length anyway."""
        if self.recipe.optimizer.clip > 0:
            nn.utils.clip_grad_norm_(
                optimizer.param_groups[0]["params"], self.recipe.optimizer.clip
            )

    # -- validation -----------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the figures of the last validation."""
        self._scores = []

    def validation_step(self, pair: ValidationPair, index: int) -> None:
        """Measure one pair, in float32."""
        hr, lr, valid = pair
        whole = pad_to(lr, *(ceil_to(n, self.network.multiple_of) for n in lr.shape[1:]))
        x = torch.from_numpy(whole).to(self.device).float()[None]
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
        """Mean over all pairs of all devices."""
        mine = torch.tensor([sum(self._scores), len(self._scores)], device=self.device)
        total: Any = self.trainer.strategy.reduce(mine, reduce_op="sum")
        self.log(SCORE, total[0] / total[1].clamp(min=1), rank_zero_only=True)

    # -- checkpoints ----------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The recipe goes with the weights."""
        checkpoint["recipe"] = recipe_text(self.recipe)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run goes on by its own recipe only."""
        check_recipe(checkpoint, self.recipe)

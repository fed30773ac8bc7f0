"""Train a recipe's network with Lightning: network, loss, optimizer, schedule and validation."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from georsr.errors import ModelError, UsageError
from georsr.evaluation.metrics import psnr, psnr_y
from georsr.models.segsr.lite import SceneClassifier, SegSRLite
from georsr.models.segsr.segsr import SegSR, segsr
from georsr.models.segsr.sensor import combined, likelihood_error
from georsr.models.spec import SCENE, SOFTLY, ModelSpec
from georsr.radiometry.degradation import BicubicDegradation, to_uint8
from georsr.tiling.grid import ceil_to
from georsr.tiling.stitch import pad_to
from georsr.training.checkpoint import check_recipe, recipe_text
from georsr.training.data.dataloader import Batch, ValidationPair
from georsr.training.losses import ImageLoss, SemanticError
from georsr.training.optim import MuonAdam, cosine, multi_step
from georsr.training.recipe import Recipe
from georsr.window import AnyArray, BoolArray

TILES: dict[str, dict[str, Any]] = {
    "segsr-lite": {"tile": 192, "halo": 4, "overlap": 8, "multiple_of": 1},
    "segsr": {"tile": 64, "halo": 8, "overlap": 8, "multiple_of": 16},
}
"""How the engine cuts a raster for each architecture, in LR pixels."""

Network = SegSRLite | SegSR


def training_network(recipe: Recipe) -> Network:
    """Build the network of a recipe in the form in which it is trained.

    segsr-lite has its branches; a CLIP encoder has its weights and LoRA.

    Raises
    ------
    UsageError
        The recipe's network arguments do not fit its architecture.
    ModelError
        CLIP weights are missing or damaged.
    """
    if recipe.architecture == "segsr-lite":
        known = set(inspect.signature(SegSRLite).parameters) - {"scale", "fused"}
        _check_arguments(recipe, known)
        return SegSRLite(recipe.scale, **{**recipe.network, "fused": False})
    _check_arguments(recipe, set(inspect.signature(segsr).parameters) - {"scale", "published"})
    arguments = dict(recipe.network)
    encoder = None
    if recipe.clip:
        from georsr.models.segsr.sfem import load_clip

        encoder = load_clip(recipe.clip, recipe.scale)
        arguments["clip"] = encoder.options
    network = segsr(recipe.scale, **arguments)
    if encoder is not None:
        network.encoder.load_state_dict(encoder.state_dict())
    if recipe.lora > 0 and arguments.get("encoder", "clip") == "clip":
        from georsr.models.segsr.sfem import add_lora

        add_lora(network.encoder, rank=recipe.lora, alpha=recipe.lora)  # type: ignore[arg-type]
    return network


def _check_arguments(recipe: Recipe, known: set[str]) -> None:
    if unknown := sorted(set(recipe.network) - known):
        raise UsageError(
            f"recipe {recipe.name}: network has no argument {unknown[0]!r}; "
            f"{recipe.architecture} knows {', '.join(sorted(known))}"
        )


def enlarge(
    network: Network, lr: Tensor, sensor: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Super-resolve (N, C, h, w) in 0..1; returns the image, and the scene vectors or None.

    ``sensor`` is (N, N_SENSOR_VALUES), for a network with the input of a sensor description.
    """
    if isinstance(network, SegSRLite):
        return network.enlarge(lr, sensor)
    image, extra = network.enlarge(lr)
    return image, extra if isinstance(extra, Tensor) else None


def senses(network: nn.Module) -> bool:
    """Return whether a network estimates, and has as an input, a sensor description."""
    return isinstance(network, SegSRLite) and network.senses


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


def semantic_error(network: Network) -> SemanticError:
    """Return the semantic term of the loss, with a frozen copy of a network's encoder."""
    if isinstance(network, SegSRLite):
        if not network.guided:
            raise UsageError("recipe: loss: semantic needs a network with guidance")
        return SemanticError(network.encoder, network.mean, network.gain)
    return SemanticError(network.encoder)


def split_parameters(
    network: nn.Module, muon: bool
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the kernels of the backbone's groups, for Muon, and all other trained parameters."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if not muon:
        return [], trained
    groups: Any = network.backbone.groups  # type: ignore[union-attr]
    kernels = [p for p in groups.parameters() if p.requires_grad and p.ndim == 4]
    kernel_ids = {id(p) for p in kernels}
    return kernels, [p for p in trained if id(p) not in kernel_ids]


def for_inference(network: Network, recipe: Recipe) -> tuple[nn.Module, ModelSpec]:
    """Return the network with branches fused and LoRA merged, and the spec that rebuilds it."""
    whole: nn.Module
    if isinstance(network, SegSRLite):
        whole = network.fuse()
        # Written out in full, so that a later change of a default breaks no weights.
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(SegSRLite).parameters.items()
            if name not in ("scale", "bands", "fused")
        }
        parameters = {**defaults, **recipe.network}
        bands = int(parameters.pop("bands", 3))
    else:
        whole = copy.deepcopy(network)
        parameters = dict(recipe.network)
        bands = 3
        if hasattr(whole.encoder, "options"):
            from georsr.models.segsr.sfem import merge_lora

            parameters["clip"] = dict(whole.encoder.options)  # type: ignore[arg-type]
            merge_lora(whole.encoder)  # type: ignore[arg-type]
    # drawn degradations fit no scene in particular: the scene says which kernel it is
    kernel = "bicubic" if isinstance(recipe.degradation, BicubicDegradation) else SCENE
    spec = ModelSpec(
        name=recipe.name,
        architecture=recipe.architecture,
        scale=recipe.scale,
        parameters=parameters,
        bands=bands,
        band_names=("red", "green", "blue") if bands == 3 else (),
        degradation=recipe.degradation.name,
        kernel=SOFTLY if senses(network) else kernel,
        **TILES[recipe.architecture],
    )
    return whole.eval().requires_grad_(False), spec


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
        guided = isinstance(self.network, SegSRLite) and self.network.guided
        wants_scenes = recipe.loss.scene > 0 or recipe.scene_epochs > 0
        if guided and classes > 0 and wants_scenes:
            encoder: Any = self.network.encoder
            self.classifier = SceneClassifier(encoder, encoder.local_head.out_channels, classes)
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
        sr, scene = enlarge(self.network, lr, sensor)
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
        """Return the sensor input of the network, and the loss of its estimate."""
        if batch.sensor is None or not senses(self.network):
            return None, 0.0
        # noise is estimated from differences of a grey level, which half precision rounds
        with torch.autocast(batch.lr.device.type, enabled=False):
            mean, variance = self.network.estimator(batch.lr)  # type: ignore[operator]
        return with_errors(batch.sensor, mean.detach()), likelihood_error(
            mean, variance, batch.sensor
        )

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
            betas=settings.betas,
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
        multiple = TILES[self.recipe.architecture]["multiple_of"]
        padded = pad_to(lr, *(ceil_to(n, multiple) for n in lr.shape[1:]))
        x = torch.from_numpy(padded).to(self.device).float()[None]
        if lr.dtype == np.uint8:
            x = x / 255
        with torch.autocast(self.device.type, enabled=False):
            sensor = None
            if senses(self.network):
                mean, variance = self.network.estimator(x)  # type: ignore[operator]
                sensor = combined(mean, variance)[None]
            sr = enlarge(self.network, x, sensor)[0][0, :, : hr.shape[1], : hr.shape[2]]
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

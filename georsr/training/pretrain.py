"""Pretrain the encoder on scene classes and the estimator on sensor descriptions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from georsr.errors import UsageError
from georsr.models.segsr_lite import SceneClassifier, SensorEstimator, likelihood_error
from georsr.training.data.crops import CropSource, flip_rotate
from georsr.training.data.dataloader import collate
from georsr.training.recipe import Recipe
from georsr.window import AnyArray

log = logging.getLogger(__name__)

SENSOR_SEED = 78
"""Second of three numbers in the seeds of sensor crops; the seeds of the run have two numbers."""


def _stack(images: Sequence[AnyArray], size: int, rng: np.random.Generator | None) -> Tensor:
    """Stack square crops (central, or random and turned) as (N, 3, size, size) in 0..1."""
    crops = []
    for image in images:
        top, left = ((n - size) // 2 for n in image.shape[1:])
        if rng is not None:
            top, left = (int(rng.integers(n - size + 1)) for n in image.shape[1:])
        crop = image[:, top : top + size, left : left + size]
        crops.append(flip_rotate(crop, int(rng.integers(8))) if rng is not None else crop)
    return torch.from_numpy(np.stack(crops)).float().div_(255)


def classification_accuracy(
    classifier: SceneClassifier,
    images: Sequence[AnyArray],
    labels: Sequence[int],
    *,
    size: int,
) -> float:
    """Return the fraction of ``images`` (3, h, w) uint8 that are classified correctly."""
    classifier.eval()
    with torch.inference_mode():
        correct = classifier(_stack(images, size, None)).argmax(1) == torch.tensor(labels)
    return float(correct.float().mean())


def pretrain_scenes(
    classifier: SceneClassifier,
    images: Sequence[AnyArray],
    labels: Sequence[int],
    *,
    epochs: int,
    size: int,
    seed: int,
    batch: int = 64,
) -> float:
    """Train encoder and class prompts on LR images; returns the last epoch's mean loss.

    Parameters
    ----------
    classifier
        Trained in place.
    images, labels
        LR images (3, h, w) uint8, at least ``size`` pixels wide, and their class indices.
    epochs, size, batch, seed
        Passes over the images, crop size in pixels, crops per step, random seed.
    """
    batch = min(batch, len(images))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.02)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 2))
    loss_sum = 0.0
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, 77, epoch])
        order = rng.permutation(len(images))[: len(images) // batch * batch].reshape(-1, batch)
        classifier.train()
        loss_sum = 0.0
        for indexes in order:
            x = _stack([images[i] for i in indexes], size, rng)
            target = torch.tensor([labels[i] for i in indexes])
            loss = F.cross_entropy(classifier(x), target, label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += float(loss.detach())
        mean = loss_sum / len(order)
        log.debug("scene classes: epoch %d of %d, loss %.3f", epoch + 1, epochs, mean)
    return loss_sum / max(1, len(images) // batch)


def pretrain_encoder(classifier: SceneClassifier, source: CropSource, recipe: Recipe) -> None:
    """Train a network's encoder on the scene classes of its training images, in place.

    Raises
    ------
    UsageError
        The source has no classes.
    """
    if not hasattr(source, "scenes"):
        raise UsageError("recipe: scene_epochs needs images with classes; set 'scene_epochs: 0'")
    images, labels = source.scenes()
    size = min(min(image.shape[1:]) for image in images)
    pretrain_scenes(
        classifier, images, labels, epochs=recipe.scene_epochs, seed=recipe.seed, size=size
    )
    accuracy = classification_accuracy(classifier, images, labels, size=size)
    log.info("scene classes: %.1f %% of the training images classified correctly", 100 * accuracy)


def pretrain_sensor(
    estimator: SensorEstimator, source: CropSource, *, steps: int, seed: int, batch: int = 32
) -> float:
    """Train an estimator on the sensor descriptions of crops, in place; returns the mean loss.

    Parameters
    ----------
    estimator
        Estimator, which is trained on its device.
    source
        Crops whose sensor is known.
    steps, batch, seed
        Steps, crops per step, random seed.

    Raises
    ------
    UsageError
        The crops have no sensor description.
    """
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 2))
    device = next(estimator.parameters()).device
    mean_loss = 0.0
    for step in range(steps):
        numbers = range(step * batch, (step + 1) * batch)
        crops = collate(
            [source.crop(np.random.default_rng([seed, SENSOR_SEED, n])) for n in numbers]
        )
        if crops.sensor is None:
            raise UsageError(
                "recipe: sensor_steps needs crops whose sensor is known: set 'degradation: "
                "{kind: imaging-chain}' and 'data: {variation: {}}'"
            )
        mean, variance = estimator(crops.lr.to(device))
        loss = likelihood_error(mean, variance, crops.sensor.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        mean_loss += (float(loss.detach()) - mean_loss) / min(step + 1, 200)
        if (step + 1) % 500 == 0:
            log.debug("sensors: step %d of %d, loss %.3f", step + 1, steps, mean_loss)
    return mean_loss

"""The models of one benchmark, each as a function, with the baseline in front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from georsr.config import SRConfig
from georsr.device import Placement
from georsr.engine.consistency import Aim
from georsr.engine.fitting import scene_kernel
from georsr.engine.inference import Inference
from georsr.engine.sensing import told_of_scene
from georsr.errors import UsageError
from georsr.evaluation.benchmark import Enlarge, ModelFacts, Sample
from georsr.evaluation.guidance import LABELS, encoder_of, with_guidance
from georsr.models.load import Model, open_model
from georsr.models.zoo import COMPUTED
from georsr.raster.reader import Patch
from georsr.raster.stretch import Stretch
from georsr.training.data.degrade import to_uint8
from georsr.types import AnyArray, Window

BYTES = Stretch((0.0,) * 3, (255.0,) * 3, "dtype")


@dataclass(frozen=True)
class Competitor:
    """A model under the name a report calls it."""

    name: str
    model: Model
    enlarge: Enlarge

    @property
    def facts(self) -> ModelFacts:
        """For the report."""
        return ModelFacts(self.name, self.model.source, self.model.sha256)


def enlarger(inference: Inference) -> Enlarge:
    """Super-resolve a sample as one tile."""

    def enlarge(sample: Sample) -> AnyArray:
        x = sample.lr.astype(np.float32) / np.float32(255)
        return to_uint8(inference([x], [sample.name or "the image"])[0] * 255)

    return enlarge


def consistent_enlarger(inference: Inference, model: Model, config: SRConfig) -> Enlarge:
    """Super-resolve a sample as one tile that, shrunk again, gives the sample back."""

    def enlarge(sample: Sample) -> AnyArray:
        patch = Patch(sample.lr, np.ones(sample.lr.shape, bool), None)
        height, width = sample.lr.shape[1:]

        def read(window: Window) -> Patch:
            rows, columns = window.slices
            return Patch(patch.values[:, rows, columns], patch.valid[:, rows, columns], None)

        informed = told_of_scene(read, height, width, BYTES, model, config)
        asked = inference if informed is model else Inference(informed, inference.placement, 1)
        kernel = scene_kernel(read, height, width, BYTES, informed, config)
        if kernel is None:
            return enlarger(asked)(sample)
        x = sample.lr.astype(np.float32) / np.float32(255)
        batches = asked.submit([x], [sample.name or "the image"], [Aim()], kernel)
        return to_uint8(batches[0].result()[0] * 255)

    return enlarge


def open_models(models: Sequence[str | Model | None], scale: int | None) -> list[Model]:
    """Open models that can compete: of one scale, and taking RGB.

    Raises
    ------
    UsageError
        Their scales differ, or one does not take RGB.
    """
    opened = [m if isinstance(m, Model) else open_model(m, scale) for m in models or [None]]
    first = opened[0].spec
    for model in opened:
        spec = model.spec
        if spec.bands not in (0, 3):
            raise UsageError(f"model {spec.name} takes {spec.bands} bands; image folders are RGB")
        if spec.scale != first.scale:
            raise UsageError(
                f"models enlarge x{first.scale} ({first.name}) and x{spec.scale} ({spec.name}); "
                "compare models of one scale"
            )
    return opened


def make_competitors(
    models: Sequence[Model],
    placement: Placement,
    guidance: Sequence[str] = (),
    consistency: str = "off",
    kernel: str | None = None,
) -> list[Competitor]:
    """Bicubic, then the models in order; bicubic among them, or the same weights, only once.

    Parameters
    ----------
    models
        As from :func:`open_models`.
    placement
        Where they run.
    guidance
        Modes of :data:`georsr.evaluation.guidance.MODES`; after each guided model come its
        ablations.
    consistency, kernel
        As the options of :class:`georsr.config.SRConfig`; bicubic stays what it is.

    Raises
    ------
    UsageError
        An ablation is wanted and no model has guidance.
    """
    baseline = open_model("bicubic", models[0].spec.scale)
    distinct = list({model.sha256: model for model in [baseline, *models]}.values())
    names = [model.spec.name for model in distinct]
    modes = [mode for mode in dict.fromkeys(guidance) if mode != "normal"]
    if modes and all(encoder_of(model.network) is None for model in models):
        raise UsageError(f"model {models[0].spec.name} has no guidance to change")
    config = SRConfig(consistency=consistency, consistency_kernel=kernel)
    competitors = []
    for model in distinct:
        # two trainings of one recipe bear one name: their files tell them apart
        name = model.spec.name if names.count(model.spec.name) == 1 else model.source
        inference = Inference(model, placement, 1)
        fixed = model.spec.name in COMPUTED
        enlarge = enlarger(inference) if fixed else consistent_enlarger(inference, model, config)
        competitors.append(Competitor(name, model, enlarge))
        for mode in modes if encoder_of(model.network) is not None else ():
            ablated = with_guidance(inference, enlarge, mode)
            competitors.append(Competitor(f"{name} ({LABELS[mode]})", model, ablated))
    return competitors

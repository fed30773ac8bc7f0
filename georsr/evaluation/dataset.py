"""Evaluation on image data sets: degrade, restore, measure, beside bicubic.

The models of one benchmark, each as a function, with the baseline in front.

Ablation of guidance: the same network, but its scene encoder sees something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from georsr.config import Consistency, SRConfig
from georsr.device import DeviceConfig, cpu_threads, select_device
from georsr.errors import InputError, UsageError
from georsr.evaluation.benchmark import (
    BenchmarkReport,
    ModelFacts,
    RunFacts,
    Sample,
    SuperResolver,
    benchmark,
)
from georsr.evaluation.image_datasets import (
    ImageFolder,
    LabelledImage,
    open_dataset,
    opened_image,
    read_image,
)
from georsr.evaluation.reports.benchmark_report import Example, make_example, select_examples
from georsr.inference.consistency import ConsistencyTarget
from georsr.inference.kernel_estimation import resolve_kernel
from georsr.inference.predictor import TilePredictor
from georsr.inference.sensing import told_of_scene
from georsr.models.io import Model, open_model
from georsr.models.registry import COMPUTED
from georsr.progress import NullProgress, Progress
from georsr.radiometry.degradation import (
    VALIDATION_SEED,
    BicubicDegradation,
    Degradation,
    crop_to_multiple,
    degrade_image,
    to_uint8,
)
from georsr.radiometry.normalization import Normalization
from georsr.reports import georsr_version
from georsr.window import AnyArray, PixelBlock, Window

MODES = ("normal", "wrong", "off")
"""``wrong``: the encoder sees an image of another class. ``off``: it sees uniform grey, which no
network was trained on: a figure for the worst case, not for a network trained without guidance."""
LABELS = {"wrong": "wrong guidance", "off": "guidance off"}
GREY = 128


def ablate_guidance(inference: TilePredictor, enlarge: SuperResolver, mode: str) -> SuperResolver:
    """A competitor whose encoder describes another picture than the one that is enlarged.

    Parameters
    ----------
    inference
        Runs a network with a submodule ``encoder``; nothing of it changes.
    enlarge
        Enlarges a sample by that very ``inference``.
    mode
        One of :data:`MODES`.

    Raises
    ------
    UsageError
        The network has no encoder, or the mode is unknown.
    """
    if mode not in MODES:
        raise UsageError(f"guidance {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "normal":
        return enlarge
    encoder = encoder_of(inference.network)
    if encoder is None:
        raise UsageError(f"model {inference.spec.name} has no guidance to change")
    picture = _partner if mode == "wrong" else _grey

    def enlarge_misguided(sample: Sample) -> AnyArray:
        described: list[Any] = []
        with _hook(encoder, lambda module, inputs, output: described.append(output)):
            enlarge(Sample("", sample.hr, picture(sample), sample.name))
        with _hook(encoder, lambda module, inputs, output: described[0]):
            return enlarge(sample)

    return enlarge_misguided


def encoder_of(network: nn.Module) -> nn.Module | None:
    """The submodule that describes the scene, if there is one."""
    encoder = getattr(network, "encoder", None)
    return encoder if isinstance(encoder, nn.Module) else None


def fit_to_size(image: AnyArray, height: int, width: int) -> AnyArray:
    """(C, h, w) cut, or continued by its mirror image, to (C, height, width)."""
    short = [(0, 0), (0, max(0, height - image.shape[1])), (0, max(0, width - image.shape[2]))]
    return np.pad(image, short, mode="symmetric")[:, :height, :width]


def mismatched_image(index: int, labels: list[str]) -> int:
    """The image whose description stands in for another one's, the same one in every run.

    The first from half-way round the data set that is of another class; of a data set with one
    class, the one half-way round.

    Raises
    ------
    UsageError
        There is only one image.
    """
    count = len(labels)
    if count < 2:
        raise UsageError("guidance by another image needs a data set of at least two images")
    order = [(index + count // 2 + step) % count for step in range(count)]
    return next((i for i in order if labels[i] != labels[index]), order[0])


def _partner(sample: Sample) -> AnyArray:
    if sample.partner is None:
        raise ValueError("the sample has no partner: make it with partners")
    return sample.partner


def _grey(sample: Sample) -> AnyArray:
    return np.full_like(sample.lr, GREY)


@contextmanager
def _hook(module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


BYTES = Normalization((0.0,) * 3, (255.0,) * 3, "dtype")


@dataclass(frozen=True)
class Candidate:
    """A model under the name a report calls it."""

    name: str
    model: Model
    super_resolve: SuperResolver

    @property
    def facts(self) -> ModelFacts:
        """For the report."""
        return ModelFacts(self.name, self.model.source, self.model.sha256)


def make_super_resolver(inference: TilePredictor) -> SuperResolver:
    """Super-resolve a sample as one tile."""

    def enlarge(sample: Sample) -> AnyArray:
        x = sample.lr.astype(np.float32) / np.float32(255)
        return to_uint8(inference([x], [sample.name or "the image"])[0] * 255)

    return enlarge


def make_consistent_super_resolver(
    inference: TilePredictor, model: Model, config: SRConfig
) -> SuperResolver:
    """Super-resolve a sample as one tile that, shrunk again, gives the sample back."""

    def enlarge(sample: Sample) -> AnyArray:
        patch = PixelBlock(sample.lr, np.ones(sample.lr.shape, bool), None)
        height, width = sample.lr.shape[1:]

        def read(window: Window) -> PixelBlock:
            rows, columns = window.slices
            return PixelBlock(patch.values[:, rows, columns], patch.valid[:, rows, columns], None)

        informed = told_of_scene(read, height, width, BYTES, model, config)
        asked = inference if informed is model else TilePredictor(informed, inference.placement, 1)
        kernel = resolve_kernel(read, height, width, BYTES, informed, config)
        if kernel is None:
            return make_super_resolver(asked)(sample)
        x = sample.lr.astype(np.float32) / np.float32(255)
        batches = asked.submit([x], [sample.name or "the image"], [ConsistencyTarget()], kernel)
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


def make_candidates(
    models: Sequence[Model],
    placement: DeviceConfig,
    guidance: Sequence[str] = (),
    consistency: str = "off",
    kernel: str | None = None,
) -> list[Candidate]:
    """Bicubic, then the models in order; bicubic among them, or the same weights, only once.

    Parameters
    ----------
    models
        As from :func:`open_models`.
    placement
        Where they run.
    guidance
        Modes of :data:`georsr.evaluation.dataset.MODES`; after each guided model come its
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
    config = SRConfig(consistency=cast(Consistency, consistency), consistency_kernel=kernel)
    competitors = []
    for model in distinct:
        # two trainings of one recipe bear one name: their files tell them apart
        name = model.spec.name if names.count(model.spec.name) == 1 else model.source
        inference = TilePredictor(model, placement, 1)
        fixed = model.spec.name in COMPUTED
        enlarge = (
            make_super_resolver(inference)
            if fixed
            else make_consistent_super_resolver(inference, model, config)
        )
        competitors.append(Candidate(name, model, enlarge))
        for mode in modes if encoder_of(model.network) is not None else ():
            ablated = ablate_guidance(inference, enlarge, mode)
            competitors.append(Candidate(f"{name} ({LABELS[mode]})", model, ablated))
    return competitors


SMALLEST = 16
"""Height and width of what is left of an image when its border is cropped."""


class DegradedImages:
    """The images of a data set with their degraded versions, made when asked for.

    Parameters
    ----------
    folder
        Which images.
    degradation
        What makes LR of HR; what it leaves to chance depends on the place of the image in the
        data set and on nothing else.
    scale
        Factor.
    limit
        At most so many images, evenly spread over the data set; None: all.
    partners
        Give every sample an image of another class beside it.
    """

    def __init__(
        self,
        folder: ImageFolder,
        degradation: Degradation,
        scale: int,
        limit: int | None = None,
        *,
        partners: bool = False,
    ) -> None:
        self.folder, self.degradation, self.scale = folder, degradation, scale
        self.labels = [image.label for image in folder] if partners else None
        count = min(limit or len(folder), len(folder))
        self.chosen = [i * len(folder) // count for i in range(count)]

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Sample:
        """Read and degrade one image.

        Raises
        ------
        InputError
            It cannot be decoded, is not RGB or is too small.
        """
        index = self.chosen[number]
        hr = self._truth(index)
        degrade = partial(self._degrade, index)
        lr = degrade(hr)
        partner = None
        if self.labels is not None:
            other = mismatched_image(index, self.labels)
            partner = fit_to_size(self._degrade(other, self._truth(other)), *lr.shape[1:])
        image = self.folder.images[index]
        return Sample(image.label, hr, lr, self._name(image), degrade, partner)

    def _truth(self, index: int) -> AnyArray:
        image = self.folder.images[index]
        hr = crop_to_multiple(_rgb(image), self.scale)
        if min(hr.shape[1:]) - 2 * self.scale < SMALLEST:
            raise InputError(
                f"{image.path}: {hr.shape[2]} x {hr.shape[1]} pixels, expected at least "
                f"{SMALLEST + 2 * self.scale} along each axis at x{self.scale}"
            )
        return hr

    def _degrade(self, index: int, hr: AnyArray) -> AnyArray:
        """The same draw for every version of one image."""
        rng = np.random.default_rng([VALIDATION_SEED, index])
        return degrade_image(hr, self.degradation, self.scale, rng)

    def _name(self, image: LabelledImage) -> str:
        root = self.folder.root
        inside = image.path.is_relative_to(root)
        return (image.path.relative_to(root) if inside else image.path).as_posix()


def _rgb(image: LabelledImage) -> AnyArray:
    """Decode an image that has three bands; no other is quietly turned into one."""
    with opened_image(image.path) as opened:
        mode = opened.mode
    if mode not in ("RGB", "YCbCr"):
        raise InputError(f"{image.path}: mode {mode}, expected RGB with 8 bits; convert it first")
    return read_image(image.path)


@dataclass(frozen=True)
class Evaluation:
    """A data set and the models to measure on it, ready to run."""

    name: str
    images: DegradedImages
    competitors: tuple[Candidate, ...]
    facts: RunFacts
    jobs: int | None = None

    @property
    def files(self) -> dict[str, list[str]]:
        """Kind -> names of the files that are read."""
        models = [each.model.file for each in self.competitors]
        return {
            "image": [str(image.path) for image in self.images.folder.images],
            "model": [file for file in models if file is not None],
        }

    def run(self, progress: Progress | None = None) -> BenchmarkReport:
        """Measure every model on every image."""
        progress = progress or NullProgress()
        progress.start(len(self.images), "images")
        with cpu_threads(self.jobs):
            report = benchmark(
                self.name,
                self.images,
                self.images.scale,
                {each.name: each.super_resolve for each in self.competitors},
                progress,
            )
        return replace(report, run=self.facts)

    def exhibits(self, report: BenchmarkReport) -> Iterator[Example]:
        """Examples of what was measured, made anew one by one; of some hundred images, six."""
        competitors = {each.name: each.super_resolve for each in self.competitors}
        with cpu_threads(self.jobs):
            for number, reasons in select_examples(report).items():
                yield make_example(self.images[number], reasons, competitors)


def prepare(
    root: Path | str,
    split: str | None = None,
    models: Sequence[str | Model | None] = (),
    scale: int | None = None,
    *,
    layout: str = "auto",
    degradation: Degradation | None = None,
    limit: int | None = None,
    guidance: Sequence[str] = (),
    consistency: str = "off",
    consistency_kernel: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    jobs: int | None = None,
    command: str = "",
) -> Evaluation:
    """Open a data set and models.

    Parameters
    ----------
    root, split, layout
        As for :func:`georsr.evaluation.image_datasets.open_dataset`.
    models
        Names, files or open models of one scale; bicubic is always measured beside them. Empty:
        the default model.
    scale
        Wanted factor; None takes the models' own.
    degradation
        What makes LR of HR; None: bicubic.
    limit
        At most so many images.
    guidance
        Modes of :data:`georsr.evaluation.dataset.MODES`: each guided model is also measured
        with each of these.
    consistency, consistency_kernel
        As the options of :class:`georsr.config.SRConfig`; off measures the networks alone.
    device, precision, jobs
        Where the networks run, in what arithmetic, on how many CPU threads.
    command
        For the report.

    Raises
    ------
    UsageError
        The data set or a model does not exist, or they do not belong together.
    InputError
        The data set holds no images.
    """
    if find_spec("PIL") is None:
        raise UsageError("reading images needs Pillow: pip install 'georsr[train]'")
    root, degradation = Path(root), degradation or BicubicDegradation()
    if split is not None and (root / split).is_dir():
        layout = "folder"
    folder = open_dataset(root, layout, split=split)
    opened = open_models(models, scale)
    placement = select_device(device, precision)
    competitors = make_candidates(opened, placement, guidance, consistency, consistency_kernel)
    name = root.resolve().name
    return Evaluation(
        name=f"{name}/{split}" if split else name,
        images=DegradedImages(
            folder, degradation, opened[0].spec.scale, limit, partners="wrong" in guidance
        ),
        competitors=tuple(competitors),
        facts=RunFacts(
            version=georsr_version(),
            device=str(placement.device),
            precision=placement.precision,
            degradation=degradation.describe(),
            consistency=consistency,
            available=len(folder),
            models=tuple(each.facts for each in competitors),
            command=command,
        ),
        jobs=jobs,
    )

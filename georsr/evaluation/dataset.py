"""Evaluate models on image data sets: degrade, super-resolve, measure, and compare with bicubic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from georsr.config import SRConfig
from georsr.device import DeviceConfig, cpu_threads, select_device
from georsr.errors import InputError, UsageError
from georsr.evaluation.benchmark import (
    BenchmarkReport,
    ModelFacts,
    RunFacts,
    Sample,
    SuperResolver,
    benchmark,
    unique_models,
)
from georsr.evaluation.reports.benchmark_report import make_example, select_examples
from georsr.evaluation.reports.figures import Example
from georsr.inference.blur_and_noise import resolve_kernel, with_scene_sensor
from georsr.inference.consistency import ConsistencyTarget
from georsr.inference.predictor import TilePredictor, with_precision
from georsr.io.image_datasets import (
    ImageFolder,
    LabelledImage,
    open_dataset,
    open_image,
    read_image,
)
from georsr.models.io import Model, open_model
from georsr.models.registry import COMPUTED
from georsr.progress import NullProgress, Progress
from georsr.radiometry.degradation import (
    VALIDATION_SEED,
    BicubicDegradation,
    Degradation,
    crop_to_multiple,
    degrade_image,
    to_float,
    to_uint8,
)
from georsr.radiometry.kernels import Kernel
from georsr.radiometry.normalization import Normalization
from georsr.reports import georsr_version
from georsr.window import AnyArray, PixelBlock, Window

ABLATIONS = {"wrong": "wrong guidance", "off": "guidance off"}
"""Mode -> how a report calls it. ``wrong``: the encoder sees an image of another class. ``off``: it
sees uniform grey, on which no network was trained: the result is that of the worst case, not that
of a network trained without guidance."""
MODES = ("normal", *ABLATIONS)
GREY = 128
NETWORK_ALONE = SRConfig(consistency="off")
UINT8_RANGE = Normalization((0.0,) * 3, (255.0,) * 3, "dtype")


def ablate_guidance(
    predictor: TilePredictor, super_resolve: SuperResolver, mode: str
) -> SuperResolver:
    """Return ``super_resolve`` with an encoder that sees another image than the enlarged one.

    ``super_resolve`` enlarges a sample by ``predictor``, whose network has a submodule ``encoder``;
    ``mode`` is one of :data:`MODES`.

    Raises
    ------
    UsageError
        The network has no encoder, or the mode is unknown.
    """
    if mode not in MODES:
        raise UsageError(f"guidance {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "normal":
        return super_resolve
    encoder = encoder_of(predictor.network)
    if encoder is None:
        raise UsageError(f"model {predictor.spec.name} has no guidance to change")

    def ablated(sample: Sample) -> AnyArray:
        encoder_input = np.full_like(sample.lr, GREY) if mode == "off" else sample.partner
        if encoder_input is None:
            raise ValueError("the sample has no partner; open the images with partners=True")
        outputs: list[Any] = []
        with encoder.register_forward_hook(lambda module, args, output: outputs.append(output)):
            super_resolve(replace(sample, lr=encoder_input))
        with encoder.register_forward_hook(lambda module, args, output: outputs[0]):
            return super_resolve(sample)

    return ablated


def encoder_of(network: Any) -> Any:
    """Return the submodule that describes the scene, if there is one."""
    return getattr(network, "encoder", None)


def fit_to_size(image: AnyArray, height: int, width: int) -> AnyArray:
    """Crop (C, h, w), or extend it by its mirror image, to (C, height, width)."""
    missing = [(0, 0), (0, max(0, height - image.shape[1])), (0, max(0, width - image.shape[2]))]
    return np.pad(image, missing, mode="symmetric")[:, :height, :width]


def mismatched_image(index: int, labels: list[str]) -> int:
    """Choose the image whose description replaces that of image ``index``.

    It is the first image of another class, counted from the image half a data set further on; in a
    data set of one class it is that image.

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


@dataclass(frozen=True)
class Candidate:
    """A model to measure, under its name in the report."""

    name: str
    model: Model
    super_resolve: SuperResolver


def make_super_resolver(predictor: TilePredictor) -> SuperResolver:
    """Return a function that super-resolves a sample as one tile."""

    return partial(_super_resolve, predictor, None)


def _super_resolve(predictor: TilePredictor, kernel: Kernel | None, sample: Sample) -> AnyArray:
    tiles, names = [to_float(sample.lr)], [sample.name or "the image"]
    (batch,) = predictor.submit(tiles, names, [ConsistencyTarget()], kernel)
    return to_uint8(batch.result()[0] * 255)


def make_consistent_super_resolver(
    predictor: TilePredictor, model: Model, config: SRConfig
) -> SuperResolver:
    """Return a function that super-resolves a sample as one tile, consistent with the sample."""

    def super_resolve(sample: Sample) -> AnyArray:
        valid = np.ones(sample.lr.shape, bool)
        height, width = sample.lr.shape[1:]

        def read(window: Window) -> PixelBlock:
            return PixelBlock(sample.lr[:, *window.slices], valid[:, *window.slices], None)

        scene = (read, height, width, UINT8_RANGE)
        informed = with_scene_sensor(*scene, model, config, predictor.placement)
        used = predictor if informed is model else TilePredictor(informed, predictor.placement, 1)
        kernel = resolve_kernel(*scene, informed, config, predictor.placement)
        return _super_resolve(used, kernel, sample)

    return super_resolve


def open_models(models: Sequence[str | Model | None], scale: int | None) -> list[Model]:
    """Open models that can be compared: of one scale, and with RGB input.

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
    device: DeviceConfig,
    guidance: Sequence[str] = (),
    config: SRConfig = NETWORK_ALONE,
) -> list[Candidate]:
    """Return bicubic, then the models in order, those with the same weights only once.

    Parameters
    ----------
    models
        Models from :func:`open_models`.
    device
        Device and precision.
    guidance
        Modes of :data:`MODES`; each guided model is followed by its ablations.
    config
        Consistency of the models' outputs; bicubic is not changed by it.

    Raises
    ------
    UsageError
        An ablation is requested and no model has guidance.
    """
    modes = [mode for mode in dict.fromkeys(guidance) if mode != "normal"]
    if modes and all(encoder_of(model.network) is None for model in models):
        raise UsageError(f"model {models[0].spec.name} has no guidance to change")
    baseline = open_model("bicubic", models[0].spec.scale)
    candidates = []
    for name, model in unique_models([baseline, *models]).items():
        placement = DeviceConfig("cpu", "fp32", "onnx") if model.is_exported else device
        predictor = TilePredictor(model, placement, 1)
        super_resolve = (
            make_super_resolver(predictor)
            if model.spec.name in COMPUTED
            else make_consistent_super_resolver(predictor, model, config)
        )
        candidates.append(Candidate(name, model, super_resolve))
        for mode in modes if modes and encoder_of(model.network) is not None else ():
            ablated = ablate_guidance(predictor, super_resolve, mode)
            candidates.append(Candidate(f"{name} ({ABLATIONS[mode]})", model, ablated))
    return candidates


MIN_SIZE = 16
"""Smallest height and width of an image once its border is cropped."""


class DegradedImages:
    """The images of a data set with their degraded versions, which are computed on access.

    Parameters
    ----------
    folder
        Images.
    degradation
        Degradation from HR to LR; its random numbers depend on the index of the image in the data
        set alone.
    scale
        Super-resolution factor.
    limit
        Most images, evenly spread over the data set; None: all.
    partners
        Give every sample an image of another class as its ``partner``.
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
        self.indexes = [i * len(folder) // count for i in range(count)]

    def __len__(self) -> int:
        return len(self.indexes)

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Sample:
        """Read and degrade one image; InputError if it is not RGB, too small or damaged."""
        index = self.indexes[number]
        hr = self._read(index)
        degrade = partial(self._degrade, index)
        lr = degrade(hr)
        partner = None
        if self.labels is not None:
            other = mismatched_image(index, self.labels)
            partner = fit_to_size(self._degrade(other, self._read(other)), *lr.shape[1:])
        image = self.folder.images[index]
        return Sample(image.label, hr, lr, self._name(image), degrade, partner)

    def _read(self, index: int) -> AnyArray:
        image = self.folder.images[index]
        hr = crop_to_multiple(_read_rgb(image), self.scale)
        if min(hr.shape[1:]) - 2 * self.scale < MIN_SIZE:
            raise InputError(
                f"{image.path}: {hr.shape[2]} x {hr.shape[1]} pixels, expected at least "
                f"{MIN_SIZE + 2 * self.scale} along each axis at x{self.scale}"
            )
        return hr

    def _degrade(self, index: int, hr: AnyArray) -> AnyArray:
        """Degrade a version of an image, with the same random numbers for each version."""
        rng = np.random.default_rng([VALIDATION_SEED, index])
        return degrade_image(hr, self.degradation, self.scale, rng)

    def _name(self, image: LabelledImage) -> str:
        root = self.folder.root
        inside = image.path.is_relative_to(root)
        return (image.path.relative_to(root) if inside else image.path).as_posix()


def _read_rgb(image: LabelledImage) -> AnyArray:
    """Decode an image that has three bands; others are not converted silently."""
    with open_image(image.path) as opened:
        mode = opened.mode
    if mode not in ("RGB", "YCbCr"):
        raise InputError(f"{image.path}: mode {mode}, expected RGB with 8 bits; convert it first")
    return read_image(image.path)


@dataclass(frozen=True)
class Evaluation:
    """A data set and the models to measure on it."""

    name: str
    images: DegradedImages
    candidates: tuple[Candidate, ...]
    facts: RunFacts
    threads: int | None = None
    """CPU threads."""

    @property
    def files(self) -> dict[str, list[str]]:
        """Kind -> names of the files that are read."""
        models = [candidate.model.file for candidate in self.candidates]
        return {
            "image": [str(image.path) for image in self.images.folder.images],
            "model": [file for file in models if file is not None],
        }

    @property
    def super_resolvers(self) -> dict[str, SuperResolver]:
        """Name of a candidate -> its function."""
        return {candidate.name: candidate.super_resolve for candidate in self.candidates}

    def run(self, progress: Progress | None = None) -> BenchmarkReport:
        """Measure every model on every image."""
        progress = progress or NullProgress()
        progress.start(len(self.images), "images")
        with cpu_threads(self.threads):
            report = benchmark(
                self.name, self.images, self.images.scale, self.super_resolvers, progress
            )
        return replace(report, run=self.facts)

    def examples(self, report: BenchmarkReport) -> Iterator[Example]:
        """Yield at most six examples of what was measured, computed again one by one."""
        with cpu_threads(self.threads):
            for number, reasons in select_examples(report).items():
                yield make_example(self.images[number], reasons, self.super_resolvers)


def _common_device(models: Sequence[Model], config: SRConfig) -> DeviceConfig:
    """Return device and precision of all models; raise if ``fast`` chooses several."""
    precisions = {with_precision(model, config).precision: model for model in models}
    if len(precisions) > 1:
        chosen = " and ".join(f"{model.spec.name} in {p}" for p, model in precisions.items())
        raise UsageError(f"--fast computes {chosen}; measure them one by one")
    (precision,) = precisions
    return select_device(config.device, precision, "auto")


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
    config: SRConfig = NETWORK_ALONE,
    command: str = "",
) -> Evaluation:
    """Open a data set and models.

    Parameters
    ----------
    root, split, layout
        As for :func:`georsr.io.image_datasets.open_dataset`.
    models
        Names, files or open models of one scale; bicubic is always measured too. Empty: the default
        model.
    scale
        Super-resolution factor; None takes that of the models.
    degradation
        Degradation from HR to LR; None: bicubic.
    limit
        Most images.
    guidance
        Modes of :data:`MODES` by which each guided model is measured, too.
    config
        Consistency, device, precision and CPU threads of the networks.
    command
        Command line, for the report.

    Raises
    ------
    UsageError
        The data set or a model does not exist, they do not belong together, or models would compute
        in different precisions.
    InputError
        The data set holds no images.
    """
    if find_spec("PIL") is None:
        raise UsageError("reading images needs Pillow: pip install pillow")
    root, degradation = Path(root), degradation or BicubicDegradation()
    if split is not None and (root / split).is_dir():
        layout = "folder"
    folder = open_dataset(root, layout, split=split)
    opened = open_models(models, scale)
    placement = _common_device(opened, config)
    candidates = make_candidates(opened, placement, guidance, config)
    name = root.resolve().name
    return Evaluation(
        name=f"{name}/{split}" if split else name,
        images=DegradedImages(
            folder, degradation, opened[0].spec.scale, limit, partners="wrong" in guidance
        ),
        candidates=tuple(candidates),
        facts=RunFacts(
            version=georsr_version(),
            device=str(placement.device),
            precision=placement.precision,
            degradation=degradation.describe(),
            consistency=config.consistency,
            available=len(folder),
            models=tuple(ModelFacts.of(each.name, each.model) for each in candidates),
            command=command,
        ),
        threads=config.num_threads,
    )

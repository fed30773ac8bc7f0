"""Evaluation on image data sets: degrade, restore, measure, beside bicubic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from georsr.device import cpu_threads, place
from georsr.errors import InputError, UsageError
from georsr.evaluation.benchmark import BenchmarkReport, RunFacts, Sample, benchmark
from georsr.evaluation.competitors import Competitor, make_competitors, open_models
from georsr.evaluation.exhibits import Exhibit, choose, exhibit
from georsr.evaluation.guidance import fitted, partner_of
from georsr.models.load import Model
from georsr.progress import Progress, Silent
from georsr.provenance import georsr_version
from georsr.training.data.degrade import Bicubic, Degradation, crop_to_multiple
from georsr.training.data.image_crops import WHOLE, degrade_image
from georsr.training.data.images import ImageFolder, LabelledImage, opened_image, read_image
from georsr.training.data.layouts import open_dataset
from georsr.types import AnyArray

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
            other = partner_of(index, self.labels)
            partner = fitted(self._degrade(other, self._truth(other)), *lr.shape[1:])
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
        rng = np.random.default_rng([WHOLE, index])
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
    competitors: tuple[Competitor, ...]
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
        progress = progress or Silent()
        progress.start(len(self.images), "images")
        with cpu_threads(self.jobs):
            report = benchmark(
                self.name,
                self.images,
                self.images.scale,
                {each.name: each.enlarge for each in self.competitors},
                progress,
            )
        return replace(report, run=self.facts)

    def exhibits(self, report: BenchmarkReport) -> Iterator[Exhibit]:
        """Examples of what was measured, made anew one by one; of some hundred images, six."""
        competitors = {each.name: each.enlarge for each in self.competitors}
        with cpu_threads(self.jobs):
            for number, reasons in choose(report).items():
                yield exhibit(self.images[number], reasons, competitors)


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
        As for :func:`georsr.training.data.layouts.open_dataset`.
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
        Modes of :data:`georsr.evaluation.guidance.MODES`: each guided model is also measured
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
    root, degradation = Path(root), degradation or Bicubic()
    if split is not None and (root / split).is_dir():
        layout = "folder"
    folder = open_dataset(root, layout, split=split)
    opened = open_models(models, scale)
    placement = place(device, precision)
    competitors = make_competitors(opened, placement, guidance, consistency, consistency_kernel)
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

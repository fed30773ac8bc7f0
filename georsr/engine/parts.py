"""Parts: a product as many files and a VRT over them, for outputs beyond one writer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from georsr.config import SRConfig
from georsr.engine.attempt import until_it_fits
from georsr.engine.deviation import Deviation
from georsr.engine.fingerprint import check_unchanged
from georsr.engine.flight import Flight, LocalFlight, room
from georsr.engine.job import Job, memory_of, plan_job
from georsr.engine.part_hand import PartHand, Piece
from georsr.engine.parts_folder import LOCK, PartsFolder
from georsr.engine.preflight import BASE_MEMORY, check_memory, check_space
from georsr.engine.resident import refer
from georsr.engine.run import report_of
from georsr.engine.stream import Clock
from georsr.errors import InputError, UsageError
from georsr.models.load import Model
from georsr.progress import ByArea, Progress, Silent, Stoppable
from georsr.provenance import RunReport
from georsr.raster.assembly import publish_assembly
from georsr.raster.destination import check_destination, is_virtual
from georsr.raster.layout import ProductLayout
from georsr.raster.reader import RasterReader
from georsr.raster.records import Written
from georsr.raster.verify import block_checksum
from georsr.tiling.supertiles import Grid, part_grid

if TYPE_CHECKING:
    from georsr.engine.cluster import Cluster


class PartsAttempt:
    """One pass with one tile size, from wherever an earlier one stopped.

    Parameters
    ----------
    job : Job
    folder : Path
        Of the parts.
    cluster : Cluster, optional
        Who makes them; None: this process.
    progress : Stoppable
    clock : Clock
    """

    def __init__(
        self, job: Job, folder: Path, cluster: Cluster | None, progress: Stoppable, clock: Clock
    ) -> None:
        self.job, self.folder, self.cluster = job, folder, cluster
        self.progress, self.clock = progress, clock
        self.found = self.skipped = self.batch = 0
        self.deviation = Deviation()
        self.then: Callable[[Written], None] = lambda written: None
        """Called once the product has its name, and before it is forgotten that it has."""

    def make(self) -> Written:
        """Make what is missing of the product, and publish it."""
        job, config = self.job, self.job.config
        grid = grid_of(job)
        key = job.key | {"tile": str(job.plan.tile), "parts": f"{grid.side_y} x {grid.side_x}"}
        store = PartsFolder(self.folder, job.destination, key, config.resume)
        info = job.reader.info
        try:
            with store:
                overwrite = config.overwrite or store.published
                check_destination(job.destination, [info.path, *info.files], overwrite)
                self._check_machine(store)
                store.begin()
                self.progress.start(len(job.plan), "tiles")
                self._fill(grid, store)
                with self.clock.stage("verify"):
                    self._check_source(store)
                    return self._publish(grid, store)
        except BaseException as error:
            if store.begun and store.kept:
                error.add_note(
                    f"{len(store.finished)} of {len(grid)} parts are finished and kept in "
                    f"{self.folder}: the same command goes on from there"
                )
            raise

    def _check_source(self, store: PartsFolder) -> None:
        try:
            check_unchanged(self.job.reader, self.job.key["source"])
        except InputError:
            store.useless = True
            raise

    def _check_machine(self, store: PartsFolder) -> None:
        job = self.job
        there = sum(part.bytes for part in store.finished.values())
        check_space(stored_layout(job), str(self.folder / LOCK), job.config, there)
        check_memory(memory_here(job, self.cluster), job.config)

    def _pieces(self, grid: Grid, store: PartsFolder) -> Generator[Piece, None, None]:
        """All parts in which a pixel is wanted."""
        for number, window in enumerate(grid):
            area = self.job.area
            if area is None or area.touches(window.coarser(self.job.plan.scale)):
                name = store.name(*divmod(number, grid.columns))
                yield Piece(number, window, name, store.finished.get(number))
            else:
                store.finished.pop(number, None)

    def _fill(self, grid: Grid, store: PartsFolder) -> None:
        pieces, told = self._pieces(grid, store), self._progress()
        with self._flight() as flight:
            while True:
                flight.send([(piece.number, piece) for piece in islice(pieces, room(flight))])
                if not flight.running:
                    break
                with self.clock.stage("network"):
                    number, made = flight.land()
                store.add(made.part)
                self.found += made.found * len(made.part.blocks) // 8
                self.skipped += made.skipped
                self.deviation.merge(made.deviation)
                self.batch = max(self.batch, made.batch)
                window = grid.window(number)
                told.add(window.height * window.width)

    def _progress(self) -> ByArea:
        plan = self.job.plan
        return ByArea(self.progress, len(plan), plan.out_height * plan.out_width)

    @contextmanager
    def _flight(self) -> Iterator[Flight]:
        reference = refer(self.job.model)
        folder = self.folder.absolute()
        if self.cluster is not None:
            hand = PartHand(self.job, reference, self.cluster.config, folder)
            with self.clock.stage("start"):
                self.cluster.join()
            with self.cluster.flight(hand, self.progress.look) as flight:
                yield flight
        else:
            hand = PartHand(self.job, reference, self.job.config, folder)
            yield LocalFlight(hand, self.progress.stopped)

    def _publish(self, grid: Grid, store: PartsFolder) -> Written:
        job = self.job
        parts = [
            (self.folder.resolve() / part.name, grid.window(number))
            for number, part in sorted(store.finished.items())
        ]
        store.seal()
        size = publish_assembly(job.destination, job.layout, parts)
        size += sum(part.bytes for part in store.finished.values())
        written = Written(job.destination, size, 0.0, self._checksum(grid, store))
        self.then(written)
        store.close()
        return written

    def _checksum(self, grid: Grid, store: PartsFolder) -> str:
        """As of one file with all blocks: see `georsr.raster.records.Written`."""
        layout = self.job.layout
        checksums = np.zeros(layout.blocks_shape, "<u4")
        empty = dict[tuple[int, int], int]()
        for number, window in enumerate(grid):
            part = store.finished.get(number)
            numbers = (
                None if part is None else iter(np.frombuffer(bytes.fromhex(part.blocks), ">u4"))
            )
            for row, column, block in layout.blocks(window):
                if numbers is not None:
                    checksums[row, column] = next(numbers)
                    continue
                size = block.height, block.width
                if size not in empty:
                    empty[size] = self._empty(*size)
                checksums[row, column] = empty[size]
        return f"{zlib.crc32(checksums.tobytes()):08x}"

    def _empty(self, height: int, width: int) -> int:
        layout = self.job.layout
        values = np.full((layout.count, height, width), layout.nodata or 0, layout.dtype)
        if layout.alpha:
            values[-1] = 0
        return block_checksum(values, np.zeros((height, width), np.uint8) if layout.mask else None)


def grid_of(job: Job) -> Grid:
    """The parts of a product."""
    return part_grid(job.plan, job.layout.blocksize)


def part_memory(job: Job, cluster: Cluster | None) -> int:
    """Peak memory of a process that makes parts: this one, or a worker of a cluster."""
    part = job.part(grid_of(job).window(0).coarser(job.plan.scale))
    if cluster is not None:
        from georsr.engine.cluster import as_worker

        part = as_worker(part, cluster)
    return memory_of(part)


def memory_here(job: Job, cluster: Cluster | None) -> int:
    """Peak memory of this machine, if this process or a cluster makes the parts of a product."""
    one = part_memory(job, cluster)
    return one if cluster is None else BASE_MEMORY + (cluster.local or 0) * one


def stored_layout(job: Job) -> ProductLayout:
    """What parts take on the disk: the second copy of a COG is made of one at a time."""
    return replace(job.layout, cog_options=None)


def check_names(destination: str, folder: str) -> None:
    """Refuse names that a VRT and the folder of its parts cannot have.

    Raises
    ------
    UsageError
        Says what is expected.
    """
    if Path(destination).suffix.lower() != ".vrt" or is_virtual(destination):
        raise UsageError(f"{destination}: with --parts this is the VRT over them: call it OUT.vrt")
    if is_virtual(folder):
        raise UsageError(f"--parts {folder}: expected a folder of a file system")


def run_parts(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    progress: Progress | None,
    stop: Callable[[], bool] | None,
    folder: str,
    cluster: Cluster | None = None,
    then: Callable[[RunReport], None] = lambda report: None,
) -> RunReport:
    """Super-resolve an open raster into parts, which are COGs, and a VRT.

    Parameters
    ----------
    reader, model, config, progress, stop
        As for `georsr.engine.run.run`.
    destination
        Path of the VRT: it appears when all parts are there and verified.
    folder
        Of the parts.
    cluster
        Who makes them; None: this process.
    then
        As for `georsr.engine.run.run`.

    Raises
    ------
    GeorsrError
        The destination is then as it was; finished parts are kept.
    """
    clock = Clock()
    check_names(destination, folder)
    with clock.stage("total"):
        with clock.stage("read"):
            placement = None if cluster is None else cluster.placement
            job = plan_job(reader, destination, model, replace(config, cog=True), placement)
        watched = Stoppable(progress or Silent(), stop or (lambda: False))
        watched.look()
        attempt = PartsAttempt(job, Path(folder), cluster, watched, clock)
        reports = list[RunReport]()

        def told(written: Written) -> None:
            reports.append(report_of(attempt.job, written, clock, attempt.found, attempt))
            then(reports[-1])

        attempt.then = told
        until_it_fits(attempt)
    return replace(reports[-1], seconds=clock.rounded())

"""Parts: a product as many files and a VRT over them, for outputs beyond one writer.

PartHand: makes parts of a product, on whatever machine, verified before they get their name.
"""

from __future__ import annotations

import logging
import secrets
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from georsr._files import check_regular, sha256
from georsr.config import SRConfig
from georsr.distributed.task_queue import LocalQueue, TaskQueue, free_slots
from georsr.distributed.worker import JobTask
from georsr.errors import GeorsrError, InputError, OutputError, ResourceError, UsageError
from georsr.inference.model_cache import ModelRef, model_ref
from georsr.inference.pipeline import ResidualStats, Timer
from georsr.io.reader import RasterReader
from georsr.jobs.executor import retry_with_smaller_tiles, tile_stream, write_in_background
from georsr.jobs.job import SRJob, check_unchanged, memory_of, plan_job
from georsr.jobs.parts_index import LOCK, SCRATCH, FinishedPart, PartsFolder
from georsr.jobs.preflight import BASE_MEMORY, check_memory, check_space
from georsr.jobs.run import report_of
from georsr.models.io import Model
from georsr.progress import AreaProgress, Cancellable, NullProgress, Progress
from georsr.reports import RunReport
from georsr.tiling.partition import TaskGrid, parts_grid
from georsr.window import AnyArray, Window
from georsr.writer.layout import OutputLayout
from georsr.writer.partial_tiff import OutputInfo
from georsr.writer.paths import check_destination, is_virtual, sync_path
from georsr.writer.verify import block_checksum
from georsr.writer.vrt import publish_assembly
from georsr.writer.writer import RasterWriter

if TYPE_CHECKING:
    from georsr.distributed.cluster import Cluster

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartTaskSpec:
    """A part to be made, or to be found as it was made."""

    number: int
    window: Window
    """Of the product."""
    name: str
    known: FinishedPart | None

    def __str__(self) -> str:
        return str(self.window)


@dataclass(frozen=True)
class PartResult:
    """A part that lies in the folder."""

    part: FinishedPart
    found: bool
    """Nothing had to be made."""
    batch: int = 0
    skipped: int = 0
    deviation: ResidualStats = field(default_factory=ResidualStats)


class PartTask(JobTask):
    """Makes parts: files that are verified before they get their name.

    Parameters
    ----------
    job, reference, config
        As for `JobTask`.
    folder : Path
        Where parts go, under a name that holds on all machines.
    """

    def __init__(self, job: SRJob, reference: ModelRef, config: SRConfig, folder: Path) -> None:
        super().__init__(job, reference, config)
        self.folder = folder

    def setup(self, address: str) -> None:
        """Check that the folder is the one that the run has locked, and all else."""
        if not (self.folder / LOCK).exists():
            raise ResourceError(
                f"worker {address}: does not see the folder {self.folder} as this machine does; "
                "parts go to storage that all machines share"
            )
        super().setup(address)

    def __call__(self, piece: PartTaskSpec, stopped: Callable[[], bool]) -> PartResult:
        """Find a part, or make it."""
        path, known = self.folder / piece.name, piece.known
        if known is not None:
            if _is_complete(path, known):
                return PartResult(known, found=True)
            log.warning("%s: is missing or damaged, and made anew", path)
        scratch = self.folder / f"{SCRATCH}{secrets.token_hex(6)}"
        try:
            scratch.mkdir()
            made = self._make(piece, scratch / piece.name, stopped)
            (scratch / piece.name).replace(path)
            sync_path(self.folder)
        except FileNotFoundError as error:
            raise OutputError(f"{path}: the folder was taken away meanwhile ({error})") from error
        except OSError as error:
            if isinstance(error, GeorsrError):
                raise
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        finally:
            for left in (*scratch.glob("*"), *scratch.glob(".*")):
                left.unlink(missing_ok=True)
            if scratch.exists():
                scratch.rmdir()
        return made

    def _make(self, piece: PartTaskSpec, path: Path, stopped: Callable[[], bool]) -> PartResult:
        job = self.job.standalone_part(piece.window.coarser(self.job.plan.scale))
        progress = Cancellable(NullProgress(), stopped)
        writer = RasterWriter(
            path, job.layout, verify=job.config.verify, look=progress.check_cancelled
        )
        with self.network() as inference, writer:
            stream = tile_stream(job, inference, progress, Timer())

            def put(item: tuple[Window, AnyArray]) -> None:
                writer.write(item[0], *job.layout.split(item[1]))

            write_in_background(put, stream.blocks(), Timer())
            written = writer.seal()
            blocks = writer.checksums.astype(">u4").tobytes().hex()
            writer.publish()
        part = FinishedPart(piece.number, piece.name, written.bytes, sha256(path), blocks)
        return PartResult(part, False, inference.batch, stream.skipped, stream.deviation)


def _is_complete(path: Path, known: FinishedPart) -> bool:
    try:
        check_regular(path)
        return path.stat().st_size == known.bytes and sha256(path) == known.sha256
    except OSError:
        return False


class WriteParts:
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
        self, job: SRJob, folder: Path, cluster: Cluster | None, progress: Cancellable, clock: Timer
    ) -> None:
        self.job, self.folder, self.cluster = job, folder, cluster
        self.progress, self.clock = progress, clock
        self.found = self.skipped = self.batch = 0
        self.deviation = ResidualStats()
        self.then: Callable[[OutputInfo], None] = lambda written: None
        """Called once the product has its name, and before it is forgotten that it has."""

    def make(self) -> OutputInfo:
        """Make what is missing of the product, and publish it."""
        job, config = self.job, self.job.config
        grid = grid_of(job)
        key = job.key | {
            "tile": str(job.plan.tile),
            "parts": f"{grid.task_height} x {grid.task_width}",
        }
        store = PartsFolder(self.folder, job.destination, key, config.resume)
        info = job.reader.info
        try:
            with store:
                overwrite = config.overwrite or store.published
                check_destination(job.destination, [info.path, *info.files], overwrite)
                self._check_machine(store)
                store.start()
                self.progress.start(len(job.plan), "tiles")
                self._fill(grid, store)
                with self.clock.section("verify"):
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

    def _pieces(self, grid: TaskGrid, store: PartsFolder) -> Generator[PartTaskSpec, None, None]:
        """All parts in which a pixel is wanted."""
        for number, window in enumerate(grid):
            area = self.job.area
            if area is None or area.intersects(window.coarser(self.job.plan.scale)):
                name = store.name(*divmod(number, grid.columns))
                yield PartTaskSpec(number, window, name, store.finished.get(number))
            else:
                store.finished.pop(number, None)

    def _fill(self, grid: TaskGrid, store: PartsFolder) -> None:
        pieces, told = self._pieces(grid, store), self._progress()
        with self._flight() as flight:
            while True:
                flight.submit(
                    [(piece.number, piece) for piece in islice(pieces, free_slots(flight))]
                )
                if not flight.in_flight:
                    break
                with self.clock.section("network"):
                    number, made = flight.next_completed()
                store.add(made.part)
                self.found += made.found * len(made.part.blocks) // 8
                self.skipped += made.skipped
                self.deviation.merge(made.deviation)
                self.batch = max(self.batch, made.batch)
                window = grid.window(number)
                told.add(window.height * window.width)

    def _progress(self) -> AreaProgress:
        plan = self.job.plan
        return AreaProgress(self.progress, len(plan), plan.out_height * plan.out_width)

    @contextmanager
    def _flight(self) -> Iterator[TaskQueue]:
        reference = model_ref(self.job.model)
        folder = self.folder.absolute()
        if self.cluster is not None:
            hand = PartTask(self.job, reference, self.cluster.config, folder)
            with self.clock.section("start"):
                self.cluster.start()
            with self.cluster.task_queue(hand, self.progress.check_cancelled) as flight:
                yield flight
        else:
            hand = PartTask(self.job, reference, self.job.config, folder)
            yield LocalQueue(hand, self.progress.stopped)

    def _publish(self, grid: TaskGrid, store: PartsFolder) -> OutputInfo:
        job = self.job
        parts = [
            (self.folder.resolve() / part.name, grid.window(number))
            for number, part in sorted(store.finished.items())
        ]
        store.write_index()
        size = publish_assembly(job.destination, job.layout, parts)
        size += sum(part.bytes for part in store.finished.values())
        written = OutputInfo(job.destination, size, 0.0, self._checksum(grid, store))
        self.then(written)
        store.close()
        return written

    def _checksum(self, grid: TaskGrid, store: PartsFolder) -> str:
        """As of one file with all blocks: see `georsr.writer.partial_tiff.OutputInfo`."""
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


def grid_of(job: SRJob) -> TaskGrid:
    """The parts of a product."""
    return parts_grid(job.plan, job.layout.blocksize)


def part_memory(job: SRJob, cluster: Cluster | None) -> int:
    """Peak memory of a process that makes parts: this one, or a worker of a cluster."""
    part = job.part(grid_of(job).window(0).coarser(job.plan.scale))
    if cluster is not None:
        from georsr.distributed.cluster import worker_config

        part = worker_config(part, cluster)
    return memory_of(part)


def memory_here(job: SRJob, cluster: Cluster | None) -> int:
    """Peak memory of this machine, if this process or a cluster makes the parts of a product."""
    one = part_memory(job, cluster)
    return one if cluster is None else BASE_MEMORY + (cluster.local or 0) * one


def stored_layout(job: SRJob) -> OutputLayout:
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
        As for `georsr.jobs.run.run`.
    destination
        Path of the VRT: it appears when all parts are there and verified.
    folder
        Of the parts.
    cluster
        Who makes them; None: this process.
    then
        As for `georsr.jobs.run.run`.

    Raises
    ------
    GeorsrError
        The destination is then as it was; finished parts are kept.
    """
    clock = Timer()
    check_names(destination, folder)
    with clock.section("total"):
        with clock.section("read"):
            placement = None if cluster is None else cluster.placement
            job = plan_job(reader, destination, model, replace(config, cog=True), placement)
        watched = Cancellable(progress or NullProgress(), stop or (lambda: False))
        watched.check_cancelled()
        attempt = WriteParts(job, Path(folder), cluster, watched, clock)
        reports = list[RunReport]()

        def told(written: OutputInfo) -> None:
            reports.append(report_of(attempt.job, written, clock, attempt.found, attempt))
            then(reports[-1])

        attempt.then = told
        retry_with_smaller_tiles(attempt)
    return replace(reports[-1], seconds=clock.rounded())

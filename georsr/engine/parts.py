"""Parts: a product as many files and a VRT over them, for outputs beyond one writer."""

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

from georsr.config import SRConfig
from georsr.engine.attempt import until_it_fits
from georsr.engine.cluster_hand import JobHand
from georsr.engine.deviation import Deviation
from georsr.engine.flight import Flight, LocalFlight, room
from georsr.engine.job import Job, memory_of, plan_job
from georsr.engine.maker import make_stream, write_behind
from georsr.engine.parts_folder import LOCK, SCRATCH, FinishedPart, PartsFolder, file_digest
from georsr.engine.preflight import BASE_MEMORY, check_memory, check_space
from georsr.engine.resident import ModelReference, refer
from georsr.engine.run import report_of
from georsr.engine.stream import Clock
from georsr.errors import OutputError, ResourceError, UsageError
from georsr.models.load import Model
from georsr.progress import ByArea, Progress, Silent, Stoppable
from georsr.provenance import RunReport
from georsr.raster.assembly import publish_assembly
from georsr.raster.destination import check_destination, is_virtual, sync_path
from georsr.raster.reader import RasterReader
from georsr.raster.records import Written
from georsr.raster.verify import block_checksum
from georsr.raster.writer import RasterWriter
from georsr.tiling.supertiles import Grid, part_grid
from georsr.types import AnyArray, Window

if TYPE_CHECKING:
    from georsr.engine.cluster import Cluster

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A part to be made, or to be found as it was made."""

    number: int
    window: Window
    """Of the product."""
    name: str
    known: FinishedPart | None

    def __str__(self) -> str:
        return str(self.window)


@dataclass(frozen=True)
class MadePart:
    """A part that lies in the folder."""

    part: FinishedPart
    found: bool
    """Nothing had to be made."""
    batch: int = 0
    skipped: int = 0
    deviation: Deviation = field(default_factory=Deviation)


class PartHand(JobHand):
    """Makes parts: files that are verified before they get their name.

    Parameters
    ----------
    job, reference, config
        As for `JobHand`.
    folder : Path
        Where parts go, under a name that holds on all machines.
    """

    def __init__(self, job: Job, reference: ModelReference, config: SRConfig, folder: Path) -> None:
        super().__init__(job, reference, config)
        self.folder = folder

    def ready(self, address: str) -> None:
        """Check that the folder is the one that the run has locked, and all else."""
        if not (self.folder / LOCK).exists():
            raise ResourceError(
                f"worker {address}: does not see the folder {self.folder} as this machine does; "
                "parts go to storage that all machines share"
            )
        super().ready(address)

    def __call__(self, piece: Piece, stopped: Callable[[], bool]) -> MadePart:
        """Find a part, or make it."""
        path, known = self.folder / piece.name, piece.known
        if known is not None:
            if _is_whole(path, known):
                return MadePart(known, found=True)
            log.warning("%s: is missing or damaged, and made anew", path)
        scratch = self.folder / f"{SCRATCH}{secrets.token_hex(6)}"
        try:
            scratch.mkdir()
            made = self._make(piece, scratch / piece.name, stopped)
            (scratch / piece.name).replace(path)
            sync_path(self.folder)
        except FileNotFoundError as error:
            raise OutputError(f"{path}: the folder was taken away meanwhile ({error})") from error
        finally:
            for left in (*scratch.glob("*"), *scratch.glob(".*")):
                left.unlink(missing_ok=True)
            if scratch.exists():
                scratch.rmdir()
        return made

    def _make(self, piece: Piece, path: Path, stopped: Callable[[], bool]) -> MadePart:
        job = self.job.alone(piece.window.coarser(self.job.plan.scale))
        progress = Stoppable(Silent(), stopped)
        writer = RasterWriter(path, job.layout, verify=job.config.verify, look=progress.look)
        with self.network() as inference, writer:
            stream = make_stream(job, inference, progress, Clock())

            def put(item: tuple[Window, AnyArray]) -> None:
                writer.write(item[0], *job.layout.split(item[1]))

            write_behind(put, stream.blocks(), Clock())
            written = writer.seal()
            blocks = writer.checksums.astype(">u4").tobytes().hex()
            writer.publish()
        part = FinishedPart(piece.number, piece.name, written.bytes, file_digest(path), blocks)
        return MadePart(part, False, inference.batch, stream.skipped, stream.deviation)


def _is_whole(path: Path, known: FinishedPart) -> bool:
    try:
        return path.stat().st_size == known.bytes and file_digest(path) == known.sha256
    except OSError:
        return False


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

    def make(self) -> Written:
        """Make what is missing of the product, and publish it."""
        job, config = self.job, self.job.config
        grid = part_grid(job.plan, job.layout.blocksize)
        key = job.key | {"tile": str(job.plan.tile), "parts": f"{grid.side_y} x {grid.side_x}"}
        store = PartsFolder(self.folder, job.destination, key, config.resume)
        info = job.reader.info
        try:
            with store:
                overwrite = config.overwrite or store.published
                check_destination(job.destination, [info.path, *info.files], overwrite)
                self._check_machine(grid, store)
                store.begin()
                self.progress.start(len(job.plan), "tiles")
                self._fill(grid, store)
                with self.clock.stage("verify"):
                    return self._publish(grid, store)
        except BaseException as error:
            if store.begun and store.kept:
                error.add_note(
                    f"{len(store.finished)} of {len(grid)} parts are finished and kept in "
                    f"{self.folder}: the same command goes on from there"
                )
            raise

    def _check_machine(self, grid: Grid, store: PartsFolder) -> None:
        job = self.job
        there = sum(part.bytes for part in store.finished.values())
        layout = replace(job.layout, cog_options=None)  # a second copy is made of a part at a time
        check_space(layout, str(self.folder / LOCK), job.config, there)
        largest = grid.window(0).coarser(job.plan.scale)
        one = memory_of(job.part(largest))
        here = one if self.cluster is None else BASE_MEMORY + (self.cluster.local or 0) * one
        check_memory(here, job.config)

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
        store.close()
        size += sum(part.bytes for part in store.finished.values())
        return Written(job.destination, size, 0.0, self._checksum(grid, store))

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


def run_parts(
    reader: RasterReader,
    destination: str,
    model: Model,
    config: SRConfig,
    progress: Progress | None,
    stop: Callable[[], bool] | None,
    folder: str,
    cluster: Cluster | None = None,
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

    Raises
    ------
    GeorsrError
        The destination is then as it was; finished parts are kept.
    """
    clock = Clock()
    if Path(destination).suffix.lower() != ".vrt" or is_virtual(destination):
        raise UsageError(f"{destination}: with --parts this is the VRT over them: call it OUT.vrt")
    if is_virtual(folder):
        raise UsageError(f"--parts {folder}: expected a folder of a file system")
    with clock.stage("total"):
        with clock.stage("read"):
            placement = None if cluster is None else cluster.placement
            job = plan_job(reader, destination, model, replace(config, cog=True), placement)
        watched = Stoppable(progress or Silent(), stop or (lambda: False))
        watched.look()
        attempt = PartsAttempt(job, Path(folder), cluster, watched, clock)
        written = until_it_fits(attempt)
    return report_of(attempt.job, written, clock, attempt.found, attempt)

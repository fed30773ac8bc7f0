"""PartHand: makes parts of a product, on whatever machine, verified before they get their name."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from georsr._files import check_regular, sha256
from georsr.config import SRConfig
from georsr.engine.cluster_hand import JobHand
from georsr.engine.deviation import Deviation
from georsr.engine.job import Job
from georsr.engine.maker import make_stream, write_behind
from georsr.engine.parts_folder import LOCK, SCRATCH, FinishedPart
from georsr.engine.resident import ModelReference
from georsr.engine.stream import Clock
from georsr.errors import GeorsrError, OutputError, ResourceError
from georsr.progress import Silent, Stoppable
from georsr.raster.destination import sync_path
from georsr.raster.writer import RasterWriter
from georsr.types import AnyArray, Window

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
        part = FinishedPart(piece.number, piece.name, written.bytes, sha256(path), blocks)
        return MadePart(part, False, inference.batch, stream.skipped, stream.deviation)


def _is_whole(path: Path, known: FinishedPart) -> bool:
    try:
        check_regular(path)
        return path.stat().st_size == known.bytes and sha256(path) == known.sha256
    except OSError:
        return False

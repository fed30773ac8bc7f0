"""Hands: what workers do for a run. A job travels without its network, which they load."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from distributed import get_worker
from torch import nn

from georsr.config import SRConfig
from georsr.engine.cluster_worker import software
from georsr.engine.deviation import Deviation
from georsr.engine.fingerprint import source_digest
from georsr.engine.inference import Inference
from georsr.engine.job import Job
from georsr.engine.maker import make_stream
from georsr.engine.resident import ModelReference, load, resident
from georsr.engine.stream import Clock
from georsr.errors import GeorsrError, ResourceError
from georsr.progress import Silent, Stoppable
from georsr.raster.destination import local_files
from georsr.raster.encoder import BlockEncoder, EncodedBlock, encoders, stored
from georsr.raster.env import absolute
from georsr.types import Window


@dataclass(frozen=True)
class MadeBlocks:
    """What became of a window of the product.

    Attributes
    ----------
    blocks : list of (block row, block column, EncodedBlock)
    batch : int
        Tiles per call of the network.
    skipped : int
        Tiles without a valid pixel.
    deviation : Deviation
        How far the network's outputs were from giving their source back.
    """

    blocks: list[tuple[int, int, EncodedBlock]]
    batch: int
    skipped: int
    deviation: Deviation


class JobHand:
    """What all hands have in common: a job, made ready once in a process.

    Parameters
    ----------
    job : Job
    reference : ModelReference
        Of its model.
    config : SRConfig
        The job's, with device and threads as workers are to understand them.
    """

    def __init__(self, job: Job, reference: ModelReference, config: SRConfig) -> None:
        self.job = replace(job, model=replace(job.model, network=nn.Identity()))
        self.reference, self.config = reference, config
        self.software = software()
        self.files = [absolute(name) for name in job.reader.info.files if local_files(name)]
        self._lock, self._ready = threading.Lock(), False

    def ready(self, address: str) -> None:
        """Check software, source and model.

        Raises
        ------
        ResourceError
            Names the worker and what is different there.
        """
        with self._lock:
            if self._ready:
                return
            try:
                self._check_software()
                self._check_source()
                load(self.reference)
            except GeorsrError as error:
                raise ResourceError(f"worker {address}: {error}") from error
            self._ready = True

    def _check_software(self) -> None:
        here = software()
        for name, expected in self.software.items():
            if here[name] != expected:
                raise ResourceError(
                    f"has {name} {here[name]}, expected {expected}; "
                    "install the same versions on all machines"
                )

    def _check_source(self) -> None:
        for name in self.files:
            if not local_files(name):
                raise ResourceError(
                    f"has no file {name}; put it where all machines see it under the same name"
                )
        with self.job.reader.reopened() as reader:
            if source_digest(reader) != self.job.key["source"]:
                raise ResourceError(
                    f"sees another file under the name {reader.info.path} (header, size or time "
                    "of change differ); put it where all machines see the same"
                )

    def network(self) -> AbstractContextManager[Inference]:
        """This process's network; workers of one machine take its GPUs in turn."""
        config, count = self.config, torch.cuda.device_count()
        name = _worker_name() if config.device == "cuda" else None
        if isinstance(name, int) and count:
            config = replace(config, device=f"cuda:{name % count}")
        return resident(self.reference, config)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_ready": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _worker_name() -> object:
    """Of the Dask worker this is: a number where `georsr.engine.cluster` started it."""
    try:
        return get_worker().name
    except ValueError:  # it is none
        return None


class BlockHand(JobHand):
    """Makes the blocks of a window, encoded as they stand in the file."""

    def __call__(self, window: Window, stopped: Callable[[], bool]) -> MadeBlocks:
        """From a window of the product, made of whole blocks of it."""
        part, size = self.job.part(window.coarser(self.job.plan.scale)), self.job.layout.blocksize
        encode, progress = BlockEncoder(self.job.layout), Stoppable(Silent(), stopped)
        with ThreadPoolExecutor(encoders()) as pool, self.network() as net:
            stream = make_stream(part, net, progress, Clock())
            waiting = []
            for place, planes in stream.blocks():
                row, column = (window.top + place.top) // size, (window.left + place.left) // size
                pixels, mask = stored(*part.layout.split(planes))
                waiting.append((row, column, pool.submit(encode, pixels, mask)))
        blocks = [(row, column, encoded.result()) for row, column, encoded in waiting]
        return MadeBlocks(blocks, net.batch, stream.skipped, stream.deviation)

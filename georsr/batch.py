"""Super-resolve many rasters, each into an output of its own, with one network in memory."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Unpack

from georsr.api import PathLike, super_resolve
from georsr.config import OPTIONS, SRConfig, SROptions, config_of
from georsr.errors import (
    GeorsrError,
    GeorsrWarning,
    InterruptedRunError,
    OutputError,
    UsageError,
    join_lines,
    options_in_messages,
    redact_url,
    speaks_of_options,
)
from georsr.inference.model_cache import ModelRef, load_cached, model_ref
from georsr.inference.predictor import with_own_gpu
from georsr.io import MAX_NAMED, expand_sources
from georsr.io.gdal_env import absolute_path
from georsr.io.reader import open_output
from georsr.models.io import Model, open_model
from georsr.progress import RunContext, never, open_progress
from georsr.system import share_memory
from georsr.writer.paths import Lock, check_outputs, raster_outputs, temp_paths

if TYPE_CHECKING:
    from distributed import Security

    from georsr.distributed.cluster import Cluster
    from georsr.progress import ProgressLike
    from georsr.reports import RunReport

log = logging.getLogger(__name__)

Task = tuple[str, str]
"""Source and output."""
WRITTEN, SKIPPED, FAILED = "written", "skipped", "failed"
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
_ONE_AT_A_TIME = threading.Lock()
"""One run at a time in a process: each uses all its threads."""


@dataclass(frozen=True)
class BatchItem:
    """What became of one raster of a batch."""

    source: str
    output: str
    status: str
    """``written``, ``skipped`` (an earlier run had written it) or ``failed``."""
    error: str = ""
    """Message of the error; empty unless it failed."""
    seconds: float = 0.0
    report: RunReport | None = None
    """Report of the run; None unless it was written."""


@dataclass(frozen=True)
class BatchReport:
    """Report of `georsr.super_resolve_many`, in the order of the sources."""

    items: tuple[BatchItem, ...]

    @property
    def failed(self) -> tuple[BatchItem, ...]:
        """Return the rasters that could not be super-resolved."""
        return tuple(item for item in self.items if item.status == FAILED)

    def to_json(self) -> str:
        """Return indented JSON."""
        return json.dumps([asdict(item) for item in self.items], indent=2)

    def describe(self) -> str:
        """Return a table with one line for each raster, and the numbers of each status."""
        rows = []
        for item in self.items:
            size = f"{item.report.width} x {item.report.height}" if item.report else ""
            rows.append((item.status, size, f"{item.seconds:.1f} s", item.output))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        statuses = [item.status for item in self.items]
        counts = (f"{statuses.count(name)} {name}" for name in (WRITTEN, SKIPPED, FAILED))
        return join_lines([*lines, ", ".join(counts)])

    def describe_warnings(self, texts: Iterable[str]) -> list[str]:
        """Return one line for each kind of warning: how many rasters have it, the text, and which.

        Parameters
        ----------
        texts
            Messages of warnings about these rasters. Those that differ in figures only are of one
            kind; figures that differ become ``…``.
        """
        kinds: dict[str, list[tuple[int, str, str]]] = {}
        for text in dict.fromkeys(texts):
            index, plain = self._without_source(text)
            kind = _FIGURE.sub("…", plain) if index >= 0 else text
            kinds.setdefault(kind, []).append((index, plain, text))
        lines = []
        for occurrences in kinds.values():
            indexes = sorted({index for index, _, _ in occurrences})
            if len(indexes) == 1:
                lines += [text for _, _, text in occurrences]
                continue
            sources = [self.items[index].source for index in indexes[:MAX_NAMED]]
            names = [PurePath(redact_url(source)).name for source in sources]
            if len(indexes) > MAX_NAMED:
                names.append(f"and {len(indexes) - MAX_NAMED} more")
            text = _with_common_figures([plain for _, plain, _ in occurrences])
            count = f"{len(indexes)} of {len(self.items)} rasters"
            lines.append(f"{count}: {text} ({', '.join(names)})")
        return lines

    def _without_source(self, text: str) -> tuple[int, str]:
        """Return the number of the raster that a warning names, and the text without its path.

        The number is -1 if it names none.
        """
        named = [
            (len(path), index, path)
            for index, item in enumerate(self.items)
            for path in map(redact_url, (absolute_path(item.source), item.source))
            if path in text
        ]
        if not named:
            return -1, text
        _, index, path = max(named)
        return index, text.removeprefix(f"{path}: ").replace(path, "…")


def _with_common_figures(texts: Sequence[str]) -> str:
    """Return the first of texts that differ in figures only, with … where they differ."""
    columns = zip(*map(_FIGURE.findall, texts), strict=True)
    figures = [column[0] if len(set(column)) == 1 else "…" for column in columns]
    return _FIGURE.sub(lambda match: figures.pop(0), texts[0])


def super_resolve_many(
    sources: PathLike | Sequence[PathLike],
    out_dir: PathLike,
    model: str | Model | None = None,
    scale: int | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    security: Security | None = None,
    progress: ProgressLike = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Unpack[SROptions],
) -> BatchReport:
    """Super-resolve many rasters, each into an output of its own.

    An output that an earlier call finished, with the same model and options, is skipped. A raster
    that fails does not stop the others.

    Parameters
    ----------
    sources : path or sequence of path
        Rasters, folders of rasters, or ``@FILE`` for a text file with one path per line. Unlike
        those of :func:`super_resolve`, they are no mosaic and need not have anything in common.
    out_dir : path
        Folder of the outputs, which is created if it does not exist. The output of ``a/scene.jp2``
        is ``scene.tif``.
    model, scale, **options
        As for :func:`super_resolve`.
    workers, scheduler, security
        As for :func:`super_resolve`. Each worker super-resolves a raster at a time; those of a
        scheduler write into ``out_dir``, which all machines must share.
    progress : bool, callable, type or Progress, optional
        As for :func:`super_resolve`; counts rasters.
    should_stop : callable, optional
        Called after each tile; when it returns True the call ends with
        :class:`georsr.InterruptedRunError`. The same call continues.

    Returns
    -------
    BatchReport
        What became of each raster.

    Raises
    ------
    UsageError, ModelError, OutputError, ResourceError, InterruptedRunError
        Nothing can be super-resolved: the model, the options or the folder cannot be used, or two
        rasters would have the same output.

    Examples
    --------
    >>> report = georsr.super_resolve_many(["a.tif", "b.tif"], "out")  # doctest: +SKIP
    >>> [item.source for item in report.failed]  # doctest: +SKIP
    """
    config = config_of("super_resolve_many", options)
    tasks = _plan(sources, Path(os.fspath(out_dir)))
    opened = model if isinstance(model, Model) else open_model(model, scale)
    should_stop = should_stop or never
    if workers is None and scheduler is None:
        results = _run_here(tasks, opened, config, should_stop)
    else:
        from georsr.distributed.cluster import Cluster

        cluster = Cluster(opened, config, workers, scheduler, security, should_stop)
        results = _run_on_cluster(tasks, opened, cluster, should_stop)
    items: dict[int, BatchItem] = {}
    with open_progress(progress) as shown, closing(results):
        shown.start(len(tasks), "rasters")
        for index, item in results:
            items[index] = item
            shown.advance(1)
    return BatchReport(tuple(items[index] for index in range(len(tasks))))


def _plan(sources: PathLike | Sequence[PathLike], folder: Path) -> list[Task]:
    """Name the output of each raster, and create the folder.

    Raises
    ------
    UsageError
        Two rasters would have the same output, or an output is one of the rasters.
    OutputError
        The folder cannot be created.
    """
    paths = [*dict.fromkeys(expand_sources(sources))]
    tasks: dict[str, str] = {}
    for path in paths:
        stem = PurePath(path.split("?")[0].rstrip("/")).stem
        name = re.sub(r"[^\w.()+ -]+", "_", stem)
        output = str(folder / f"{name}.tif")
        if output in tasks:
            raise UsageError(
                f"{tasks[output]} and {path} would both be written to {output}; super-resolve "
                "them into different folders"
            )
        tasks[output] = path
    outputs = [path for output in tasks for path in raster_outputs(output)]
    check_outputs({"output": outputs}, {"source": paths})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {error.strerror}") from error
    return [(source, output) for output, source in tasks.items()]


def _run_here(
    tasks: Sequence[Task], model: Model, config: SRConfig, should_stop: Callable[[], bool]
) -> Generator[tuple[int, BatchItem], None, None]:
    for index, task in enumerate(tasks):
        yield index, _run_one(task, model, config, should_stop)


def _run_on_cluster(
    tasks: Sequence[Task], model: Model, cluster: Cluster, should_stop: Callable[[], bool]
) -> Generator[tuple[int, BatchItem], None, None]:
    context = RunContext(should_stop=should_stop)
    with cluster:
        runner = RasterRunner(model_ref(model), cluster.config, cluster.local or 1)
        absolute = [
            (absolute_path(source), str(Path(output).absolute())) for source, output in tasks
        ]
        with cluster.task_queue(runner, context.check_cancelled) as queue:
            for index, item in queue.map(enumerate(absolute), context.timer):
                for text in item.report.warnings if item.report else ():
                    warnings.warn(text, GeorsrWarning, stacklevel=4)  # the worker's are not seen
                yield index, replace(item, source=tasks[index][0], output=tasks[index][1])


class RasterRunner:
    """Super-resolves a raster on a worker; see `georsr.distributed.worker.Runner`.

    Parameters
    ----------
    model : ModelRef
        Name and checksum of the model.
    config : SRConfig
        Options, with the device and the number of threads of a worker.
    processes : int
        Number of workers that share the memory of the machine.
    """

    def __init__(self, model: ModelRef, config: SRConfig, processes: int = 1) -> None:
        self.model, self.config, self.processes = model, config, processes
        self._speaks_of_options = speaks_of_options()

    def prepare(self, worker_name: object) -> None:
        """Load the model, and let each worker use its part of the memory."""
        share_memory(self.processes)
        load_cached(self.model)
        self.config = with_own_gpu(self.config, worker_name)

    def __call__(self, task: Task, should_stop: Callable[[], bool]) -> BatchItem:
        """Super-resolve one raster."""
        with _ONE_AT_A_TIME, options_in_messages(self._speaks_of_options):
            return _run_one(task, load_cached(self.model), self.config, should_stop)


def _run_one(
    task: Task, model: Model, config: SRConfig, should_stop: Callable[[], bool]
) -> BatchItem:
    """Super-resolve a raster, unless an earlier run has; an error becomes a failed item."""
    source, output = task
    start, report = time.monotonic(), None
    try:
        if not config.overwrite and _is_finished(source, output, model, config):
            # an earlier run may have been killed after it had renamed the output
            Lock(temp_paths(output).lock, output).clean()
            return BatchItem(source, output, SKIPPED)
        options: Any = {name: getattr(config, name) for name in OPTIONS}
        report = super_resolve(source, output, model, should_stop=should_stop, **options)
        status, message = WRITTEN, ""
    except InterruptedRunError:
        raise
    except GeorsrError as error:
        status, message = FAILED, "; ".join([str(error), *getattr(error, "__notes__", [])])
    except Exception as error:
        log.debug("traceback", exc_info=True)
        status, message = FAILED, f"{source}: not foreseen: {type(error).__name__}: {error}"
    return BatchItem(source, output, status, message, round(time.monotonic() - start, 3), report)


def _is_finished(source: str, output: str, model: Model, config: SRConfig) -> bool:
    """Return whether the tags of an output say that this run wrote it, from this source.

    Raises
    ------
    UsageError
        There is another file of that name.
    """
    if not os.path.lexists(output) or os.path.lexists(temp_paths(output).journal):
        return False
    try:
        with open_output(output) as reader:
            tags = reader.info.tags.get("", {})
    except GeorsrError:
        tags = {}
    expected = {
        "GEORSR_MODEL_SHA256": model.sha256,
        "GEORSR_OPTIONS": config.tags_json(),
        "GEORSR_SOURCE": PurePath(redact_url(source)).name,
    }
    if _is_newer(source, output) or any(
        tags.get(name) != value for name, value in expected.items()
    ):
        raise UsageError(
            f"{output}: exists, and was not made from this source with this model and these "
            "options; use --overwrite, or another folder"
        )
    return True


def _is_newer(source: str, output: str) -> bool:
    """Return whether a source was written after an output.

    Its modification time alone may lie in the future, as that of a camera with a wrong clock; the
    time of the last change in the file system tells whether it was written since.
    """
    if not Path(source).exists():
        return False
    status = Path(source).stat()
    written = status.st_mtime if os.name == "nt" else min(status.st_mtime, status.st_ctime)
    return written > Path(output).stat().st_mtime

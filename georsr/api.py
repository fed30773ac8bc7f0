"""Super-resolve files and arrays, estimate runs, write quality layers: the public functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

from georsr.config import SRConfig, SROptions, aoi_path, config_of
from georsr.errors import UsageError
from georsr.inference.model_bands import match_bands
from georsr.io import open_sources
from georsr.io.reader import RasterReader, open_output
from georsr.jobs.job import RunRequest
from georsr.jobs.run import Executor, LocalExecutor, run
from georsr.models.io import Model, open_model
from georsr.progress import never, open_progress
from georsr.window import AnyArray, BoolArray
from georsr.writer.paths import (
    Lock,
    check_destination,
    check_format,
    check_outputs,
    check_utf8,
    raster_outputs,
    temp_paths,
)

if TYPE_CHECKING:
    from distributed import Security

    from georsr.distributed.cluster import Cluster
    from georsr.progress import ProgressLike
    from georsr.reports import LayersReport, RunReport
    from georsr.run_estimate import RunEstimate

PathLike = str | os.PathLike[str]


def super_resolve(
    source: PathLike | Sequence[PathLike],
    destination: PathLike,
    model: str | Model | None = None,
    scale: int | None = None,
    *,
    quality: PathLike | None = None,
    stac: PathLike | None = None,
    parts: PathLike | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    security: Security | None = None,
    progress: ProgressLike = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Unpack[SROptions],
) -> RunReport:
    """Super-resolve a raster file.

    Parameters
    ----------
    source : path or sequence of path
        Raster in any format GDAL reads. Several rasters on the same grid are read as one mosaic:
        a sequence of paths, a folder, or ``@FILE`` for a text file with one path per line.
    destination : path
        GeoTIFF to write. It appears only when it is complete and verified.
    model : str or Model, optional
        Name of a built-in model, weights file, or open model. Default: ``segsr-lite-x4-sensor``,
        or ``segsr-lite-x2-sensor`` at scale 2.
    scale : int, optional
        Scale factor. Default: the model's, which is 4 for the default model.
    quality : path, optional
        GeoTIFF of quality layers to write as well, which takes 8 times longer in addition. Both
        files appear, or neither.
    stac : path, optional
        JSON file of a STAC Item to write as well (needs ``pip install pystac``).
    parts : path, optional
        Folder for the parts of the output, each a COG. ``destination`` is then a VRT that joins
        them, ``OUT.vrt``.
    workers : int, optional
        Number of worker processes to start on this computer. They import the calling script, so it
        has to call this function under ``if __name__ == "__main__":``.
    scheduler : str, optional
        Address of a Dask scheduler whose workers do the work, such as ``tls://10.0.0.1:8786``. The
        workers open source and model by the same paths as this process. Anybody who controls the
        scheduler, or with ``tcp://`` can connect to it, can run code as you, here and on the
        workers.
    security : distributed.Security, optional
        Certificates for a ``tls://`` scheduler: ``Security(tls_ca_file=..., tls_client_cert=...,
        tls_client_key=...)``, or the attribute ``security`` of a Dask cluster object. Default:
        Dask's configuration (``distributed.comm.tls``).
    progress : bool, callable, type or Progress, optional
        True for a bar, also in notebooks; a function that is called as ``progress(done, total)``;
        a class of tqdm; or an object with ``start(total, unit)`` and ``advance(count)``, such as
        :class:`georsr.TqdmProgress`. Default: no progress is shown.
    should_stop : callable, optional
        Function without arguments that is called after each tile. When it returns True the run
        ends with :class:`georsr.InterruptedRunError`. Finished blocks are kept, and the same call
        resumes the run.
    **options
        Fields of :class:`georsr.SRConfig`, see :class:`georsr.SROptions`.

    Returns
    -------
    RunReport
        What was computed and written.

    Raises
    ------
    GeorsrError
        UsageError, InputError, OutputError, ModelError, ResourceError or InterruptedRunError. The
        destination is unchanged. If the same call may succeed later, finished blocks are kept next
        to it, and a note of the exception says so.

    Warns
    -----
    GeoreferenceWarning, BandWarning, MetadataWarning, RadiometryWarning
        Something about the source may lead to a result you do not expect.

    Examples
    --------
    >>> import georsr
    >>> report = georsr.super_resolve("scene.tif", "scene_x4.tif")  # doctest: +SKIP
    """
    config = config_of("super_resolve", options)
    outputs = _Outputs.at(destination, quality, stac, parts)
    path = os.fspath(destination)
    check_outputs(outputs.files(), _inputs(source, model, config))
    unfinished = _is_unfinished(path, outputs.parts)
    replace_item = config.overwrite
    if stac is not None:
        from georsr.geo.stac import check_item_path, item_describes

        # the earlier run may have published the output and its Item
        replace_item = replace_item or (unfinished and item_describes(stac, path))
        check_item_path(stac, overwrite=replace_item)
    if not unfinished:
        check_destination(path, [], overwrite=config.overwrite)
    with (
        open_progress(progress) as shown,
        _open(source, _model(model, scale), config) as (reader, opened),
    ):
        check_outputs(outputs.files(), _inputs(source, opened, config, reader))

        def write_stac(report: RunReport) -> None:
            if stac is not None:
                from georsr.geo.stac import write_stac_item

                write_stac_item(stac, report, opened.spec, overwrite=replace_item)

        request = RunRequest(reader, path, opened, config, shown, should_stop or never, write_stac)
        with _cluster(opened, config, workers, scheduler, security, should_stop) as cluster:
            if outputs.parts is not None:
                from georsr.distributed.parts import run_parts

                return run_parts(request, cluster, outputs.parts)
            executor = _executor(cluster)
            if outputs.quality is not None:
                from georsr.quality.write import run_with_layers

                return run_with_layers(request, executor, outputs.quality)
            return run(request, executor)


def estimate(
    source: PathLike | Sequence[PathLike],
    model: str | Model | None = None,
    scale: int | None = None,
    *,
    destination: PathLike | None = None,
    quality: PathLike | None = None,
    stac: PathLike | None = None,
    parts: PathLike | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    security: Security | None = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Unpack[SROptions],
) -> RunEstimate:
    """Estimate the tiles, memory, disk space and time of a run, and write nothing.

    A few tiles are computed to measure their time.

    Parameters
    ----------
    source, model, scale, quality, stac, parts, **options
        As for :func:`super_resolve`.
    destination : path, optional
        Where the output would be written. Default: the current folder, for its free disk space.
    workers, scheduler, security
        As for :func:`super_resolve`. Workers are counted and not started. A scheduler is asked for
        the number of its workers.
    should_stop : callable, optional
        Called without arguments while this waits for a scheduler; true ends the wait.

    Returns
    -------
    RunEstimate
        Its ``problems`` say why the run would be refused.

    Raises
    ------
    GeorsrError
        The run is not possible at all: source, model or options are wrong.
    """
    from georsr.run_estimate import estimate_run

    config = config_of("estimate", options)
    outputs = _Outputs.at(destination, quality, stac, parts)
    path = outputs.destination
    with (
        _open(source, _model(model, scale), config) as (reader, opened),
        _cluster(opened, config, workers, scheduler, security, should_stop) as cluster,
    ):
        report = estimate_run(reader, path, opened, config, outputs.quality, cluster, outputs.parts)
        try:
            check_outputs(outputs.files(), _inputs(source, opened, config, reader))
        except UsageError as error:
            problems = dict.fromkeys((str(error), *report.problems))
            report = replace(report, problems=tuple(problems))
        return report


def quality_layers(
    source: PathLike | Sequence[PathLike],
    output: PathLike,
    destination: PathLike,
    model: str | Model | None = None,
    *,
    progress: ProgressLike = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Unpack[SROptions],
) -> LayersReport:
    """Write quality layers of an output: per-pixel estimates of error and consistency.

    The layers are the same as those of ``super_resolve(..., quality=destination)``.

    Parameters
    ----------
    source, output : path
        Raster that :func:`super_resolve` read, and the one it wrote. The tags of the output record
        the options.
    destination : path
        GeoTIFF to write. A style file for QGIS is written next to it.
    model : str or Model, optional
        Model that computed the output. Default: the name in its tags, if that model is built in.
    progress, should_stop
        As for :func:`super_resolve`.
    **options
        Fields of :class:`georsr.SRConfig`, which override those in the tags.

    Returns
    -------
    LayersReport
        What was written.

    Raises
    ------
    UsageError
        ``output`` was not written by georsr, or belongs to another source or model.
    GeorsrError
        As for :func:`super_resolve`.
    """
    from georsr.quality.write import run_layers
    from georsr.reports import read_output_tags

    output_path, path = os.fspath(output), os.fspath(destination)
    check_format(path)
    with open_output(output_path, allow_drivers=options.get("allow_drivers", ())) as opened_output:
        tags = read_output_tags(output_path, opened_output.info.tags.get("", {}))
    config = tags.config(**options)
    opened = _model(model or tags.shipped_model(), None)
    tags.check(opened.sha256)
    outputs = _Outputs.at(None, path, None, None)
    check_outputs(outputs.files(), _inputs(source, opened, config) | {"output": [output_path]})
    if not os.path.lexists(temp_paths(path).journal):
        Lock(temp_paths(path).lock, path).clean()
    with _open(source, opened, config) as (reader, opened):
        inputs = _inputs(source, opened, config, reader)
        check_outputs(outputs.files(), inputs | {"output": [output_path]})
        with open_progress(progress) as shown:
            return run_layers(reader, output_path, path, opened, config, shown, should_stop)


def super_resolve_array(
    values: AnyArray,
    model: str | Model | None = None,
    scale: int | None = None,
    *,
    valid: BoolArray | None = None,
    **options: Unpack[SROptions],
) -> AnyArray:
    """Super-resolve an array in memory, with the same arithmetic as a file.

    Parameters
    ----------
    values : ndarray, shape (bands, height, width)
        Integers of up to 32 bits, float32 or float64. In a masked array, such as
        ``dataset.read(masked=True)``, masked pixels are invalid. A picture of shape
        (height, width, bands) has to be transposed: ``picture.transpose(2, 0, 1)``.
    model, scale
        As for :func:`super_resolve`.
    valid : ndarray of bool, shape (bands, height, width) or (height, width), optional
        False at invalid pixels. Values that are not finite are always invalid.
    **options
        Fields of :class:`georsr.SRConfig`. Those about files have no effect.

    Returns
    -------
    ndarray, shape (bands, scale * height, scale * width)
        Data type of ``values``, or the option ``dtype``. Invalid pixels keep their value. It is a
        masked array if ``values`` is one.

    Raises
    ------
    UsageError
        ``values`` is no numpy array, or has another shape or data type, or another number of bands
        than the model takes.
    """
    from georsr.inference.array import predict_masked_array

    config = config_of("super_resolve_array", options)
    return predict_masked_array(values, valid, _model(model, scale), config)


def _is_unfinished(destination: str, parts: str | None) -> bool:
    """Return whether an earlier run left a journal; otherwise remove a lock file that it left."""
    paths = temp_paths(destination)
    if parts is None:
        unfinished = os.path.lexists(paths.journal)
    else:
        from georsr.distributed.parts_index import parts_journal, parts_lock

        unfinished = os.path.lexists(parts_journal(parts))
        if not unfinished:
            parts_lock(parts).clean()
    if not unfinished:
        Lock(paths.lock, destination).clean()
    return unfinished


def _model(model: str | Model | None, scale: int | None) -> Model:
    return model if isinstance(model, Model) else open_model(model, scale)


@contextmanager
def _open(
    source: PathLike | Sequence[PathLike], model: Model, config: SRConfig
) -> Iterator[tuple[RasterReader, Model]]:
    """Open the source, and fit its bands and the model to each other."""
    reader = open_sources(
        source,
        indexes=None if config.output_bands == "all" and model.spec.bands else config.indexes,
        nodata=config.src_nodata,
        allow_drivers=config.allow_drivers or None,
        force=config.force,
        alpha=config.alpha,
        stack=config.stack,
    )
    try:
        reader, model = match_bands(reader, model, config)
        yield reader, model
    finally:
        reader.close()


def _cluster(
    model: Model,
    config: SRConfig,
    workers: int | None,
    scheduler: str | None,
    security: Security | None,
    should_stop: Callable[[], bool] | None = None,
) -> AbstractContextManager[Cluster | None]:
    """Return the Dask cluster that does the work; None if this process does it."""
    if security is not None and scheduler is None:
        raise UsageError(
            "--tls-ca, --tls-cert and --tls-key need a scheduler: add --scheduler tls://HOST:PORT"
        )
    if workers is None and scheduler is None:
        return nullcontext()
    from georsr.distributed.cluster import Cluster

    return Cluster(model, config, workers, scheduler, security, should_stop or never)


def _executor(cluster: Cluster | None) -> Executor:
    if cluster is None:
        return LocalExecutor()
    from georsr.distributed.executor import DaskExecutor

    return DaskExecutor(cluster)


@dataclass(frozen=True)
class _Outputs:
    """Paths that a run writes."""

    destination: str | None
    quality: str | None
    stac: str | None
    parts: str | None

    @classmethod
    def at(cls, *paths: PathLike | None) -> _Outputs:
        """Check the names, given in the order of the fields.

        Raises
        ------
        UsageError
            A name does not fit its format, or two outputs cannot be written together.
        """
        outputs = cls(*(None if path is None else os.fspath(path) for path in paths))
        for name in filter(None, (outputs.stac, outputs.parts)):
            check_utf8(name)
        if outputs.parts is not None and outputs.quality is not None:
            raise UsageError(
                "--parts and --quality cannot be combined: write the parts first, then the layers "
                "of their VRT with `georsr quality layers IN OUT.vrt FILE`"
            )
        if outputs.quality is not None:
            check_format(outputs.quality)
        if outputs.destination is not None and outputs.parts is None:
            check_format(outputs.destination)
        elif outputs.destination is not None and outputs.parts is not None:
            from georsr.distributed.parts import check_names

            check_names(outputs.destination, outputs.parts)
        return outputs

    def files(self) -> dict[str, list[PathLike]]:
        """Return option -> paths that the run writes or removes for it."""
        files: dict[str, list[PathLike]] = {}
        if self.destination is not None:
            files["OUT"] = [*raster_outputs(self.destination)]
        if self.quality is not None:
            from georsr.quality.qgis_style import style_path

            style = style_path(self.quality)
            files["--quality"] = [*raster_outputs(self.quality), *([style] if style else [])]
        if self.stac is not None:
            files["--stac"] = [self.stac]
        if self.parts is not None:
            from georsr.distributed.parts_index import parts_outputs

            files["--parts"] = [self.parts, *parts_outputs(self.parts)]
        return files


def _inputs(
    source: PathLike | Sequence[PathLike],
    model: str | Model | None,
    config: SRConfig,
    reader: RasterReader | None = None,
) -> dict[str, list[str]]:
    """Return kind -> paths of the files that a run reads, as far as they are known."""
    sources = [source] if isinstance(source, (str, os.PathLike)) else source
    names = [os.fspath(path) for path in sources]
    weights = model.file if isinstance(model, Model) else model
    area = aoi_path(config.aoi) if isinstance(config.aoi, str) else None
    return {
        "source": names if reader is None else [*names, reader.info.path, *reader.info.files],
        "list of sources": [name[1:] for name in names if name.startswith("@")],
        "area": [area] if area else [],
        "model": [] if weights is None else [weights],
    }

"""Super-resolve files and arrays, estimate runs, write quality layers: the public functions."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from georsr.config import SRConfig
from georsr.errors import UsageError
from georsr.inference.bands import match_bands
from georsr.io.mosaic import open_sources
from georsr.io.reader import RasterReader, open_output
from georsr.jobs.run import Executor, LocalExecutor, run
from georsr.models.io import Model, open_model
from georsr.window import AnyArray, BoolArray
from georsr.writer.lock import Lock
from georsr.writer.paths import (
    check_destination,
    check_format,
    check_outputs,
    raster_outputs,
    temp_paths,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Security

    from georsr.distributed.cluster import Cluster
    from georsr.jobs.estimate import RunEstimate
    from georsr.progress import Progress
    from georsr.reports import LayersReport, RunReport

Path = str | os.PathLike[str]


def _model(model: str | Model | None, scale: int | None) -> Model:
    return model if isinstance(model, Model) else open_model(model, scale)


@contextmanager
def _opened(
    source: Path | Sequence[Path], model: Model, config: SRConfig
) -> Iterator[tuple[RasterReader, Model]]:
    """A source and a model that fit each other."""
    reader = open_sources(
        source,
        indexes=None if config.bands == "all" and model.spec.bands else config.bidx,
        nodata=config.nodata,
        allow_drivers=config.allow_drivers or None,
        force=config.force,
        alpha=config.alpha,
    )
    try:
        reader, model = match_bands(reader, model, config)
        yield reader, model
    finally:
        reader.close()


def super_resolve(
    source: Path | Sequence[Path],
    destination: Path,
    model: str | Model | None = None,
    scale: int | None = None,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    security: Security | None = None,
    parts: Path | None = None,
    quality: Path | None = None,
    stac: Path | None = None,
    **options: Any,
) -> RunReport:
    """Write ``destination``: the raster ``source`` at ``scale`` times the resolution.

    Parameters
    ----------
    source
        Anything GDAL reads; or several rasters of one grid, a folder of them, or ``@FILE`` for a
        text file that names one on each line: they are read as one mosaic.
    destination
        GeoTIFF to write; it appears complete and verified, or not at all.
    model
        Built-in name, weights file, or an open model; None takes
        ``segsr-lite-x4-sensor`` (or ``-x2-``).
    scale
        Factor; None takes the model's own, 4 by default.
    progress
        Whom to tell.
    stop
        Asked after every tile; when it says True the run ends with InterruptedRunError. What is
        finished is kept, and the same call goes on from there.
    workers
        Start so many processes on this machine, and let them do the work. They import the calling
        script, which therefore has to call this under ``if __name__ == "__main__":``.
    scheduler
        Address of a Dask scheduler whose workers do the work: ``tls://10.0.0.1:8786``. They open
        the source, and the model, under the names they have here. Whoever controls it, or with
        ``tcp://`` reaches it, can run code as you here and on the workers.
    security
        Certificates for a ``tls://`` scheduler: ``distributed.Security(tls_ca_file=...,
        tls_client_cert=..., tls_client_key=...)``, or the ``security`` of a cluster object of
        Dask; None takes those of Dask's configuration (``distributed.comm.tls``).
    parts
        Folder for parts of the product, each a COG, made by as many machines as there are;
        ``destination`` is then the VRT over them: ``OUT.vrt``.
    quality
        GeoTIFF of quality layers to make beside the product, at eight times its cost; both
        appear, or neither.
    stac
        JSON file for a STAC Item of the product (needs ``pip install 'georsr[stac]'``).
    **options
        Fields of :class:`georsr.config.SRConfig`.

    Returns
    -------
    RunReport
        What was done.

    Raises
    ------
    GeorsrError
        One line saying what, where, got, expected, and what to do. The destination is what it
        was; where the same call may succeed later, finished blocks are kept beside it, and a note
        of the exception says so.
    """
    config = SRConfig(**options)
    destination = os.fspath(destination)
    _check_names(destination, parts, quality)
    outputs = _outputs(destination, parts, quality, stac)
    check_outputs(outputs, _inputs(source, model, config))
    unfinished = _is_unfinished(destination, parts)
    replace_item = config.overwrite
    if stac is not None:
        from georsr.geo.stac import check_item_path, item_describes

        # the earlier run may have published the output and its Item
        replace_item = replace_item or (unfinished and item_describes(stac, destination))
        check_item_path(stac, overwrite=replace_item)
    if not unfinished:
        check_destination(destination, [], overwrite=config.overwrite)
    with _opened(source, _model(model, scale), config) as (reader, opened):
        check_outputs(outputs, _inputs(source, opened, config, reader))
        spec = opened.spec

        def finish(report: RunReport) -> None:
            if stac is not None:
                from georsr.geo.stac import write_stac_item

                write_stac_item(stac, report, spec, overwrite=replace_item)

        with _machines(opened, config, workers, scheduler, security, stop) as cluster:
            if parts is not None:
                from georsr.jobs.parts import run_parts

                folder = os.fspath(parts)
                return run_parts(
                    reader, destination, opened, config, progress, stop, folder, cluster, finish
                )
            executor = _executor(cluster)
            if quality is not None:
                from georsr.quality.write import run_with_layers

                layers = os.fspath(quality)
                return run_with_layers(
                    reader, destination, layers, opened, config, progress, stop, executor, finish
                )
            return run(reader, destination, opened, config, progress, stop, executor, finish)


def quality_layers(
    source: Path | Sequence[Path],
    product: Path,
    destination: Path,
    model: str | Model | None = None,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    **options: Any,
) -> LayersReport:
    """Write ``destination``: layers that say how far each pixel of a product can be trusted.

    The layers are those that ``super_resolve(..., quality=destination)`` makes.

    Parameters
    ----------
    source, product
        What :func:`super_resolve` read and wrote; the product's tags say with which options.
    destination
        GeoTIFF to write; beside it goes a style for QGIS.
    model
        Name or file of the model that made the product; None takes the name in its tags, if that
        model ships with georsr.
    progress, stop
        As for :func:`super_resolve`.
    **options
        Fields of :class:`georsr.config.SRConfig`, over those in the product's tags.

    Raises
    ------
    UsageError
        The product is none of georsr's, or not of this source or model.
    """
    product, destination = os.fspath(product), os.fspath(destination)
    check_format(destination)
    from georsr.quality.write import run_layers
    from georsr.reports import read_output_tags

    with open_output(product, allow_drivers=options.get("allow_drivers", ())) as made:
        origin = read_output_tags(product, made.info.tags.get("", {}))
    config = origin.config(**options)
    opened = _model(model or origin.shipped_model(), None)
    origin.check(opened.sha256)
    outputs = _outputs(None, None, destination, None)
    check_outputs(outputs, _inputs(source, opened, config) | {"product": [product]})
    place = temp_paths(destination)
    if not os.path.lexists(place.journal):
        Lock(place.lock, destination).clean()
    with _opened(source, opened, config) as (reader, opened):
        inputs = _inputs(source, opened, config, reader)
        check_outputs(outputs, inputs | {"product": [product]})
        return run_layers(reader, product, destination, opened, config, progress, stop)


def _is_unfinished(destination: str, parts: Path | None) -> bool:
    """Return whether an earlier run left a journal; otherwise remove a lock file that it left."""
    paths = temp_paths(destination)
    if parts is None:
        unfinished = os.path.lexists(paths.journal)
    else:
        from georsr.jobs.parts_index import parts_journal, parts_lock

        unfinished = os.path.lexists(parts_journal(parts))
        if not unfinished:
            parts_lock(parts).clean()
    if not unfinished:
        Lock(paths.lock, destination).clean()
    return unfinished


def _check_names(destination: str | None, parts: Path | None, quality: Path | None) -> None:
    """Refuse what products, their parts and layers cannot be called, or not be made together."""
    if parts is not None and quality is not None:
        raise UsageError(
            "--parts and --quality: parts have no quality layers of their own; make those of the "
            "finished VRT: georsr quality layers IN OUT.vrt FILE"
        )
    if quality is not None:
        check_format(quality)
    if destination is None:
        return
    if parts is None:
        check_format(destination)
    else:
        from georsr.jobs.parts import check_names

        check_names(destination, os.fspath(parts))


def _outputs(
    destination: str | None, parts: Path | None, quality: Path | None, stac: Path | None
) -> dict[str, list[Path]]:
    """List what is written and removed, for each option."""
    outputs: dict[str, list[Path]] = {}
    if destination is not None:
        outputs["OUT"] = raster_outputs(destination)
    if quality is not None:
        from georsr.quality.qgis_style import style_path

        style = style_path(os.fspath(quality))
        outputs["--quality"] = [*raster_outputs(os.fspath(quality)), *([style] if style else [])]
    if stac is not None:
        outputs["--stac"] = [stac]
    if parts is not None:
        from georsr.jobs.parts_index import parts_outputs

        outputs["--parts"] = [parts, *parts_outputs(parts)]
    return outputs


def _inputs(
    source: Path | Sequence[Path],
    model: str | Model | None,
    config: SRConfig,
    reader: RasterReader | None = None,
) -> dict[str, list[str]]:
    """List the files that a run reads, as far as they are known."""
    sources = [source] if isinstance(source, (str, os.PathLike)) else source
    names = [os.fspath(each) for each in sources]
    inputs = {
        "source": names if reader is None else [*names, reader.info.path, *reader.info.files],
        "list of sources": [name[1:] for name in names if name.startswith("@")],
        "area": [config.aoi] if isinstance(config.aoi, str) else [],
    }
    file = model.file if isinstance(model, Model) else model
    return inputs | {"model": [] if file is None else [file]}


@contextmanager
def _machines(
    model: Model,
    config: SRConfig,
    workers: int | None,
    scheduler: str | None,
    security: Security | None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Cluster | None]:
    """Who does the work: a cluster, or None for this process."""
    if security is not None and scheduler is None:
        raise UsageError("--tls-ca, --tls-cert, --tls-key: are for --scheduler tls://HOST:PORT")
    if workers is None and scheduler is None:
        yield None
        return
    from georsr.distributed.cluster import open_cluster

    stopped = stop or (lambda: False)
    with open_cluster(model, config, workers, scheduler, security, stopped) as cluster:
        yield cluster


def _executor(cluster: Cluster | None) -> Executor:
    if cluster is None:
        return LocalExecutor()
    from georsr.distributed.executor import DaskExecutor

    return DaskExecutor(cluster)


def plan_report(
    source: Path | Sequence[Path],
    model: str | Model | None = None,
    scale: int | None = None,
    *,
    destination: Path | None = None,
    quality: Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    security: Security | None = None,
    parts: Path | None = None,
    stac: Path | None = None,
    **options: Any,
) -> RunEstimate:
    """What :func:`super_resolve` would take: tiles, memory, disk and time; writes nothing.

    Parameters
    ----------
    source, model, scale, **options
        As for :func:`super_resolve`.
    destination
        Where the product would go, to ask its disk for room; None asks that of the current folder.
    quality
        Where quality layers would go, if they were made, too.
    workers, scheduler, security, parts, stac
        As for :func:`super_resolve`. Workers are counted and not started; a scheduler is asked for
        those that it has.
    """
    from georsr.jobs.estimate import estimate_run

    config = SRConfig(**options)
    where = None if destination is None else os.fspath(destination)
    _check_names(where, parts, quality)
    outputs = _outputs(where, parts, quality, stac)
    layers = None if quality is None else os.fspath(quality)
    folder = None if parts is None else os.fspath(parts)
    with (
        _opened(source, _model(model, scale), config) as (reader, opened),
        _machines(opened, config, workers, scheduler, security) as cluster,
    ):
        report = estimate_run(reader, where, opened, config, layers, cluster, folder)
        try:
            check_outputs(outputs, _inputs(source, opened, config, reader))
        except UsageError as error:
            problems = dict.fromkeys((str(error), *report.problems))
            report = replace(report, problems=tuple(problems))
        return report


def super_resolve_array(
    values: AnyArray,
    model: str | Model | None = None,
    scale: int | None = None,
    *,
    valid: BoolArray | None = None,
    **options: Any,
) -> AnyArray:
    """Super-resolve an array in memory, with the same arithmetic as a file.

    Parameters
    ----------
    values
        (C, h, w), any real dtype up to 32 bits or float64.
    model, scale, **options
        As for :func:`super_resolve`; options that concern files are ignored.
    valid
        (C, h, w) or (h, w); False where pixels are invalid. Values that are not finite always are.

    Returns
    -------
    ndarray
        (C, s * h, s * w) of the input's dtype (or ``dtype``); invalid pixels keep their value.
    """
    from georsr.inference.array import predict_array

    return predict_array(values, valid, _model(model, scale), SRConfig(**options))

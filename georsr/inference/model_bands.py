"""Choose the bands that the network sees, and how the other bands are enlarged.

Check that a source has the bands a model takes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from georsr.config import SRConfig
from georsr.errors import BandWarning, UsageError, worded
from georsr.io.metadata import BandInfo, RasterInfo
from georsr.io.reader import RasterReader, open_raster, warn_once
from georsr.io.rgb_bands import COLORS, RGBBands, declared_rgb_bands, detect_rgb_bands
from georsr.models.io import Model
from georsr.models.spec import ModelSpec


def check_bands(info: RasterInfo, spec: ModelSpec) -> None:
    """Refuse a number of bands that the model does not take.

    Raises
    ------
    UsageError
        Names the bands there are and how to choose.
    """
    if spec.bands and len(info.indexes) != spec.bands:
        available = ", ".join(info.selectable_bands)
        advice = ""
        if len(info.indexes) > spec.bands:
            choice = " ".join(f"-b {index}" for index in info.indexes)
            advice = (
                "; --bands all carries the others; for only these bands, first: "
                f"gdal_translate {choice} IN few.vrt"
            )
        raise UsageError(
            f"{info.path}: model {spec.name} takes {spec.bands} bands "
            f"({', '.join(spec.band_names)}), got {len(info.indexes)}; "
            f"choose with --bidx, in that order, from: {available}{advice}"
        )


log = logging.getLogger(__name__)


def wrap_multiband(model: Model, positions: tuple[int, ...], mode: str) -> Model:
    """Return a model for any number of bands, which sees those at ``positions``."""
    if model.spec.bands == 0 or model.multiband is not None:
        return model
    from georsr.models.multiband import MultiBand  # most rasters have the bands of the model

    spec = replace(model.spec, bands=0, band_names=())
    return replace(model, spec=spec, multiband=MultiBand(model.spec, positions, mode))


def match_bands(reader: RasterReader, model: Model, config: SRConfig) -> tuple[RasterReader, Model]:
    """Choose the bands of a raster for a model, or adapt the model to the raster.

    A raster of one band is given to a model as grey. Of one with more bands than the model takes,
    ``output_bands="rgb"`` takes red, green and blue alone, and ``output_bands="all"`` all of them,
    the others by ``other_bands``.

    Parameters
    ----------
    reader
        Opened with ``config.indexes`` for red, green and blue alone, with every band for all.
    model, config
        What is run, and how.

    Returns
    -------
    reader, model
        The reader may be another one, of other bands; the one given is then closed.

    Raises
    ------
    UsageError
        Red, green and blue are not declared, and not chosen.
    """
    spec, info = model.spec, reader.info
    if spec.bands == 0 or model.multiband is not None:
        return reader, model
    if info.count == 1:
        return reader, wrap_multiband(model, (0,) * spec.bands, "per-band")
    if spec.bands != 3:
        return reader, model
    every_band = config.output_bands == "all"
    if config.indexes is not None and not every_band:
        return reader, model
    rgb_bands = _rgb_bands_of_all(info, config) if every_band else detect_rgb_bands(info)
    if rgb_bands.numbers == info.indexes and not every_band:
        return warn_assumed_bands(reader, rgb_bands), model
    if every_band or info.count == spec.bands:  # the three, in another order
        positions = tuple(info.indexes.index(number) for number in rgb_bands.numbers)
        return warn_assumed_bands(reader, rgb_bands), wrap_multiband(
            model, positions, config.other_bands
        )
    numbers = ",".join(map(str, rgb_bands.numbers))
    text = f"bands {numbers} of {info.count} (red, green, blue); for the others: --bands all"
    log.warning(worded(text))
    selected = reader.with_bands(rgb_bands.numbers)
    reader.close()
    return warn_assumed_bands(selected, rgb_bands), model


@contextmanager
def open_for_model(
    path: str, model: Model, config: SRConfig | None = None
) -> Iterator[tuple[RasterReader, Model]]:
    """Open a raster with the bands that a model takes, which are found as for a run.

    Yields what `match_bands` returns. Of the options, those about bands count; None finds the
    bands.

    Raises
    ------
    UsageError
        The raster does not have the bands of the model.
    """
    config = config or SRConfig()
    every_band = config.output_bands == "all" and model.spec.bands
    reader = open_raster(path, indexes=None if every_band else config.indexes)
    try:
        reader, model = match_bands(reader, model, config)
        check_bands(reader.info, model.spec)
        yield reader, model
    finally:
        reader.close()


def with_bands_of_output(config: SRConfig, bands: Sequence[int] | None) -> SRConfig:
    """Return the options of an output so that its bands are chosen from its source again.

    ``config`` are the options in its tags, ``bands`` those of the source that it has; None: all.
    """
    if bands is None or config.output_bands == "all":
        return config
    return replace(config, indexes=tuple(bands))


def _rgb_bands_of_all(info: RasterInfo, config: SRConfig) -> RGBBands:
    if config.indexes is not None:
        missing = [number for number in config.indexes if number not in info.indexes]
        if missing:
            raise UsageError(
                f"{info.path}: there is no band {missing[0]} to guide; available: "
                f"{', '.join(info.selectable_bands)}"
            )
        if len(config.indexes) != 3:
            raise UsageError(
                f"{info.path}: --bidx with --bands all names the guide: expected three bands "
                f"(red, green, blue), got {len(config.indexes)}"
            )
        return RGBBands(config.indexes)
    try:
        return detect_rgb_bands(info)
    except UsageError:
        if config.other_bands != "per-band":
            raise
        return RGBBands((info.indexes[0],) * 3)


def with_found_colors(info: RasterInfo, model: Model, config: SRConfig) -> RasterInfo:
    """Return metadata in which the bands that the network saw as red, green and blue say so.

    Metadata that declare a colour are not changed. Bands that the user chose get the colours of
    their names; if they have no names, the user's order is red, green, blue; other bands, such as
    the infrared of a false-colour image, are not changed.

    ``info`` describes the bands of the output; ``model`` is that of `match_bands`.
    """
    positions = (0, 1, 2) if model.multiband is None else model.multiband.network_bands
    is_rgb = model.multiband is not None or model.spec.bands == len(COLORS)
    declared = any(band.colorinterp in COLORS for band in info.bands)
    if declared or not is_rgb or len(set(positions)) != len(COLORS):
        return info
    bands = [info.bands[position] for position in positions]
    numbers = tuple(band.number for band in bands)
    if config.indexes is not None:
        by_name = declared_rgb_bands(bands)
        if by_name is None and any(map(_is_named, bands)):
            return info
        numbers = by_name or numbers
    colors = dict(zip(numbers, COLORS, strict=True))
    return replace(
        info,
        bands=tuple(
            replace(band, colorinterp=colors.get(band.number, "undefined")) for band in info.bands
        ),
    )


def _is_named(band: BandInfo) -> bool:
    """Return whether a band has a colour, or a name that is more than its number."""
    name = band.description or ""
    numbered = re.fullmatch(r"(band|layer)?[ _]*\d*", name, re.IGNORECASE)
    return band.colorinterp not in ("gray", "undefined") or not numbered


def warn_assumed_bands(reader: RasterReader, rgb_bands: RGBBands) -> RasterReader:
    """Warn that the red, green and blue bands were assumed."""
    if rgb_bands.note:
        warn_once(reader, rgb_bands.note, BandWarning)
    return reader


def match_array_bands(model: Model, count: int, config: SRConfig) -> Model:
    """Return the model for an array of ``count`` bands, of which it sees ``config.indexes``.

    Raises
    ------
    UsageError
        All bands are wanted, and red, green and blue are not named.
    """
    spec = model.spec
    if spec.bands == 0 or model.multiband is not None:
        return model
    if count == 1:
        return wrap_multiband(model, (0,) * spec.bands, "per-band")
    if config.output_bands != "all" or spec.bands != 3:
        return model
    numbers = config.indexes or ((1, 2, 3) if count == 3 else None)
    if numbers is None and config.other_bands == "per-band":
        numbers = (1, 1, 1)
    if numbers is None or len(numbers) != 3 or not all(1 <= number <= count for number in numbers):
        got = "" if numbers is None else f", got indexes={numbers}"
        raise UsageError(
            f"array of {count} bands: name the three that guide the others (red, green, blue), "
            f"counted from 1 along the axis of the bands, such as indexes=(3, 2, 1){got}"
        )
    return wrap_multiband(model, tuple(number - 1 for number in numbers), config.other_bands)

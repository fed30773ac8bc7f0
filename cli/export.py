"""``georsr export``: write a model as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exit_codes import print_line
from .main import importing
from .options import BandList, FileName, ModelName, verbosity_options

if TYPE_CHECKING:
    from georsr.config import SRConfig
    from georsr.models.io import Model
    from georsr.window import FloatArray


@click.command("export", short_help="Write a model as an ONNX file.")
@click.argument("model", metavar="MODEL", type=ModelName())
@click.argument("destination", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option("--tile", type=click.IntRange(1), help="Side of its tiles; the model's by default.")
@click.option(
    "--dynamic",
    is_flag=True,
    help="Let it take any number of tiles of any size, instead of one of that size; Deepness "
    "does not take such files.",
)
@click.option(
    "--ground",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Metres per pixel of the images it is for: what Deepness proposes in QGIS.",
)
@click.option(
    "--int8",
    "scenes",
    type=FileName(),
    metavar="RASTER",
    multiple=True,
    help="Compute between features in 8 bits, in ranges learned from this raster: about twice as "
    "fast on CPUs, for some hundredths of a decibel; repeatable.",
)
@click.option("-b", "--bidx", type=BandList(), help="Bands of these rasters, in the model's order.")
@click.option(
    "--sensor",
    metavar="NAME=VALUE,...",
    help="Properties of the sensor that the file is for, as in 'georsr sr'. Those not given are "
    "estimated from the first raster of --int8, or typical ones. They are fixed in the file.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.onnx if it exists.")
@verbosity_options
def command(
    model: str,
    destination: Path,
    tile: int | None,
    dynamic: bool,
    ground: float,
    scenes: tuple[str, ...],
    bidx: tuple[int, ...] | None,
    sensor: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write MODEL as an ONNX file, compared with torch.

    The file is a model like others: georsr runs it with ONNX Runtime, as it does any model after
    --backend onnx. Other programs feed it pixels in 0..1, bands first. The plugin Deepness of QGIS
    finds its settings in the file: load it as super-resolution model, scale factor as printed,
    output scaling 255. A model that takes a description of the sensor is written for one sensor.

    \b
    georsr export segsr-lite-x4 segsr-lite-x4.onnx
    georsr sr scene.tif out.tif --model segsr-lite-x4.onnx
    georsr export segsr-lite-x4-sensor fast.onnx --int8 scene.tif
    """
    with importing():
        from georsr._files import check_writable
        from georsr.config import SRConfig
        from georsr.errors import UsageError
        from georsr.inference.blur_and_noise import description_of
        from georsr.models.io import open_model
        from georsr.models.onnx.export import export_model
        from georsr.writer.paths import check_outputs

    if destination.suffix != ".onnx":
        raise UsageError(f"{destination}: the name must end in .onnx")
    check_outputs({"OUT": [destination]}, {"model": [model], "source": list(scenes)})
    if not destination.parent.is_dir():
        raise UsageError(f"{destination.parent}: no such folder")
    check_writable(destination, overwrite=overwrite)
    opened = open_model(model)
    check_outputs({"OUT": [destination]}, {"model": [opened.file or model]})
    config = SRConfig(sensor=sensor, tile_size=tile, indexes=bidx)
    opened, examples = _for_scenes(opened, scenes, config, dynamic=dynamic)
    exported = export_model(
        opened, destination, tile=tile, dynamic=dynamic, ground=ground, examples=examples
    )
    if not quiet:
        bits = f"; in 8 bits like it to {exported.fidelity:.1f} dB" if exported.fidelity else ""
        described = description_of(opened)
        fixed = "" if dynamic or described is None else f"; for one sensor: {described}"
        print_line(
            f"{destination}: {opened.spec.name}, x{opened.spec.scale}, differs from torch by "
            f"{exported.difference:.1g} at most{bits}{fixed}"
        )


def _for_scenes(
    model: Model,
    scenes: tuple[str, ...],
    config: SRConfig,
    *,
    dynamic: bool,
) -> tuple[Model, list[FloatArray] | None]:
    """Return the model with the sensor description of the first scene, and tiles of all scenes."""
    from georsr.device import DeviceConfig
    from georsr.inference.blur_and_noise import scene_sensor, with_scene_sensor, with_sensor
    from georsr.inference.model_bands import open_for_model
    from georsr.inference.pipeline import calibration_tiles
    from georsr.io.reader import choose_normalization
    from georsr.radiometry.normalization import Normalization

    fixed, tiles = None, []
    if dynamic or not scenes:  # a file that takes any tile takes any sensor
        unused = Normalization((0.0,), (1.0,), "fixed")
        fixed = with_sensor(model, scene_sensor([], unused, model, config))
    for scene in scenes:
        with open_for_model(scene, model, config) as (reader, fitted):
            if fixed is None:
                info, normalization = reader.info, choose_normalization(reader, "auto")
                scene_pixels = reader.read, info.height, info.width, normalization
                informed = with_scene_sensor(*scene_pixels, fitted, config, DeviceConfig("cpu"))
                fixed = with_sensor(model, informed.sensor)
            new_tiles = calibration_tiles(reader, fitted.spec, config.tile_size)
            positions = None if fitted.multiband is None else list(fitted.multiband.network_bands)
            tiles += new_tiles if positions is None else [pixels[positions] for pixels in new_tiles]
    assert fixed is not None, "set above, or by the first scene"
    return fixed, tiles or None

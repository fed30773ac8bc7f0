"""Draw the manual's pictures from sample_data.

    python docs/make_pictures.py [FOLDER]

FOLDER is docs/images unless given. Nothing but the sample scenes and the bundled models goes into
the pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import torch
from PIL import Image, ImageDraw

import georsr

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parent / "sample_data"
CROP = (120, 100, 112, 112)
"""Row, column, height and width of the part that is shown, in pixels of the 0.5 m truth."""
ZOOM = 3
GAP, CAPTION = 8, 18


def read(name: str, bidx: Sequence[int] = (1, 2, 3)) -> np.ndarray:
    """Read bands of a sample scene, (C, h, w)."""
    with rasterio.open(SAMPLES / name) as source:
        return np.asarray(source.read(bidx))


def crop(values: np.ndarray, factor: int = 1) -> np.ndarray:
    """Return the part that is shown, of a raster ``factor`` times coarser than the truth."""
    row, column, height, width = (n // factor for n in CROP)
    return values[..., row : row + height, column : column + width]


def enlarged(values: np.ndarray, factor: int) -> Image.Image:
    """Return bytes (3, h, w) or (h, w) as a picture, every pixel a square."""
    picture = Image.fromarray(np.moveaxis(values, 0, -1) if values.ndim == 3 else values)
    size = (picture.width * factor, picture.height * factor)
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST)


def side_by_side(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Return pictures of one height in a row, a caption above each."""
    width = sum(picture.width for _, picture in panels) + GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, panels[0][1].height + CAPTION), "white")
    pen, x = ImageDraw.Draw(sheet), 0
    for caption, picture in panels:
        pen.text((x, 2), caption, fill="black")
        sheet.paste(picture, (x, CAPTION))
        x += picture.width + GAP
    return sheet


def start() -> Image.Image:
    """Draw input, bicubic, georsr and truth of the town."""
    source = read("town_rgb_2m.tif")
    bicubic = georsr.super_resolve_array(source, "bicubic-x4")
    ours = georsr.super_resolve_array(source, "segsr-lite-x4")
    return side_by_side(
        [
            ("input, 2 m", enlarged(crop(source, 4), 4 * ZOOM)),
            ("bicubic, 0.5 m", enlarged(crop(bicubic), ZOOM)),
            ("segsr-lite-x4, 0.5 m", enlarged(crop(ours), ZOOM)),
            ("truth, 0.5 m", enlarged(crop(read("town_rgb_0.5m.tif")), ZOOM)),
        ]
    )


@contextmanager
def outputs_of(module: torch.nn.Module) -> Iterator[list[list[torch.Tensor]]]:
    """Collect the outputs of a module of a network while the body runs it."""
    outputs: list[list[torch.Tensor]] = []
    hook = module.register_forward_hook(lambda m, i, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def guidance() -> Image.Image:
    """Draw the guidance maps of the four groups of segsr-lite, each stretched to its own range."""
    source = read("town_rgb_2m.tif")
    model = georsr.open_model("segsr-lite-x4-sensor")
    with outputs_of(model.network.get_submodule("localization")) as outputs:
        georsr.super_resolve_array(source, model, backend="torch")
    panels = [("the tile", enlarged(source, 2))]
    for i, found in enumerate(outputs[0]):
        values = found[0, 0].numpy()
        low, high = np.percentile(values, (2, 98))
        grey = (np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        size = panels[0][1].size
        map_ = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")
        panels.append((f"map of group {i + 1}", map_))
    return side_by_side(panels)


def limits() -> Image.Image:
    """Draw the error of the network beside its output and the truth."""
    source, truth = read("town_rgb_2m.tif"), read("town_rgb_0.5m.tif")
    ours = georsr.super_resolve_array(source, "segsr-lite-x4")
    error = np.abs(ours.astype(float) - truth).mean(axis=0)
    shade = (255 - np.clip(error * 4, 0, 255)).astype(np.uint8)
    return side_by_side(
        [
            ("segsr-lite-x4", enlarged(crop(ours), ZOOM)),
            ("truth", enlarged(crop(truth), ZOOM)),
            ("error, black: 64 of 255", enlarged(crop(shade), ZOOM)),
        ]
    )


def seams() -> Image.Image:
    """Draw how the output changes if tiles do and do not overlap; the tiles are small."""
    source = read("town_rgb_2m.tif")
    whole = georsr.super_resolve_array(source, "segsr-lite-x4", tile_size=96, halo=0, overlap=0)
    panels = []
    for caption, options in (
        ("tiles side by side", {"tile_size": 32, "halo": 0, "overlap": 0}),
        ("georsr: halo 4, overlap 8", {"tile_size": 32, "halo": 4, "overlap": 8}),
    ):
        tiled = georsr.super_resolve_array(source, "segsr-lite-x4", **options)
        change = np.abs(tiled.astype(float) - whole).mean(axis=0)
        panels.append((caption, enlarged((255 - np.clip(change * 20, 0, 255)).astype("uint8"), 1)))
    return side_by_side(panels)


PICTURES = {"start": start, "guidance": guidance, "limits": limits, "seams": seams}


def main(folder: Path) -> None:
    """Draw and write all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw().save(folder / f"{name}.png", optimize=True)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "images")

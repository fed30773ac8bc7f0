"""Tiles per second of a model by precision and runtime, with and without torch.compile, in one run.

    python benchmarks/speed/precisions.py [--model NAME] [--device auto] [--batch N] [--tile N]
                                    [--rounds 5] [--peak TFLOPS] [--image FILE] [--onnx]
                                    [--openvino]

Every way takes the same batches of random tiles through georsr's Inference, copies to and from the
device included, one batch in flight where the device works by itself; ways take turns, and each
round's rate is divided by that of float32 in the same round. With ``--peak`` (the device's dense
bfloat16 peak, in TFLOP/s) the share of it is printed, two operations per multiply-accumulate. With
``--image`` (an RGB image file) the PSNR of each way against float32's output is printed too.
``--model segsr-x4`` is SeG-SR at its published size with random weights. ``--openvino`` needs that
package, which georsr does not: it takes the file that ``georsr export`` writes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from georsr.device import PRECISIONS, DeviceConfig, select_device
from georsr.evaluation.metrics import psnr
from georsr.inference.predictor import TilePredictor, choose_batch
from georsr.models.io import Model, create_model, open_model
from georsr.models.onnx.export import export_model
from georsr.models.onnx.runtime import INPUT
from georsr.run_estimate import complexity
from georsr.window import FloatArray


def published_size() -> Model:
    """SeG-SR as published, with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    return create_model("segsr-published", 4, name="segsr-x4")


def seconds(inference: TilePredictor, tiles: list[FloatArray], batches: int) -> float:
    """Seconds of ``batches`` batches, the next one started before the last one is waited for."""
    names = ["a tile"] * len(tiles)
    since = time.perf_counter()
    flying = inference.submit(tiles, names)
    for _ in range(batches - 1):
        started = inference.submit(tiles, names)
        for batch in flying:
            batch.result()
        flying = started
    for batch in flying:
        batch.result()
    return time.perf_counter() - since


def image_tiles(path: Path, size: int) -> list[FloatArray]:
    """Whole tiles of an image, (3, size, size) in 0..1."""
    from georsr.io.image_datasets import read_image

    image = read_image(path).astype(np.float32) / 255
    steps = (range(0, n - size + 1, size) for n in image.shape[1:])
    return [image[:, r : r + size, c : c + size] for r, c in itertools.product(*steps)]


class OpenVino(nn.Module):
    """A model's exported file in OpenVINO, on the CPU in float32, by torch's number of threads."""

    def __init__(self, model: Model, tile: int) -> None:
        import openvino

        super().__init__()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_model(model, path, tile=tile)
            self.ask = openvino.Core().compile_model(path, "CPU", settings)

    def forward(self, x: Tensor) -> Tensor:
        """(1, C, h, w) in 0..1 -> (1, C, s * h, s * w)."""
        return torch.from_numpy(self.ask({INPUT: x.contiguous().numpy()})[0])


def the_ways(arguments: argparse.Namespace, model: Model, device: str) -> dict[str, TilePredictor]:
    """Name -> what is timed."""
    ways: dict[str, TilePredictor] = {}
    for precision in PRECISIONS:
        if precision == "fp16" and device == "cpu":
            continue
        placement = DeviceConfig(device, precision)
        batch = choose_batch(placement, arguments.batch)
        ways[precision] = TilePredictor(model, placement, batch)
        if not arguments.no_compile:
            ways[f"{precision} compiled"] = TilePredictor(model, placement, batch, compiled=True)
    if arguments.onnx:
        for precision in ("fp32", "int8"):
            placement = select_device("cpu", precision, "onnx")
            ways[f"onnx {precision}"] = TilePredictor(model, placement, batch)
    if arguments.openvino:
        other = replace(model, weights=OpenVino(model, arguments.tile or model.spec.tile))
        ways["openvino"] = TilePredictor(other, select_device("cpu", "fp32"), 1)
    return ways


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="segsr-lite-x4")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--batches", type=int, default=8, help="per measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=float)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--onnx", action="store_true", help="also ONNX Runtime, on the CPU")
    parser.add_argument("--openvino", action="store_true", help="also OpenVINO, on the CPU")
    arguments = parser.parse_args()
    model = published_size() if arguments.model == "segsr-x4" else open_model(arguments.model)
    device = select_device(arguments.device).device
    size = arguments.tile or model.spec.tile
    gmacs = complexity(model.network, model.spec.bands, size).gmacs
    ways = the_ways(arguments, model, device)
    batch = ways["fp32"].batch
    rng = np.random.default_rng(0)
    tiles = [rng.random((3, size, size), np.float32) for _ in range(batch)]
    for inference in ways.values():
        seconds(inference, tiles, 2)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, inference in ways.items():
            taken = seconds(inference, tiles, arguments.batches)
            rates[name].append(len(tiles) * arguments.batches / taken)
    print(f"{model.spec.name}, tiles of {size}, {batch} at a time, {gmacs:.2f} GMAC per tile")
    print(f"{ways['fp32'].placement.describe()}, torch {torch.__version__}")
    shown = image_tiles(arguments.image, size) if arguments.image else []
    exact = np.stack(ways["fp32"](shown, ["a tile"] * len(shown))) if shown else None
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates["fp32"], strict=True))
        rate = statistics.median(values)
        line = (
            f"{name:<15} {rate:10.2f} tiles/s {rate * size**2 / 1e6:8.3f} M LR px/s {ratio:6.2f}x"
        )
        if arguments.peak:
            line += f" {100 * 2e-3 * gmacs * rate / arguments.peak:6.1f} % of the peak"
        if exact is not None:
            made = np.stack(ways[name](shown, ["a tile"] * len(shown)))
            line += f" PSNR to fp32 {psnr(made * 255, exact * 255):7.2f} dB"
        print(line)


if __name__ == "__main__":
    main()

"""One 64x64 tile through SeG-SR on the CPU, ours and, where it is there, the published code.

    python benchmarks/speed/segsr_tile.py [--reference FOLDER] [--rounds 3] [--threads 2] \
        [--scale 4]

FOLDER is a checkout of the published code, which has no licence and is not part of georsr. It is
run as it is, from its own folder: only the packages it wants around itself are stood in for
(BasicSR's registry, einops, the loader of CLIP's file, ``.cuda()``). Both networks get the same
random weights, take turns in the same process, and must agree. Without FOLDER only ours is timed.
Prints the median of the ratios of each round, in wall time and in processor time (which a busy
machine disturbs less, with one thread least), and the peak memory of ours on four tiles when it
runs alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path

import torch
from torch import Tensor, nn

from georsr.models.io import create_model, open_model
from georsr.run_estimate import complexity


def stand_in(name: str, **members: object) -> None:
    """Put an invented module where ``import name`` finds it."""
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def rearrange(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """The patterns of einops that the published code uses on its way."""
    h = sizes.get("h", 1)
    if pattern == "b n (h d) -> (b h) n d":
        return x.unflatten(2, (h, -1)).transpose(1, 2).flatten(0, 1)
    if pattern == "(b h) n d -> b n (h d)":
        return x.unflatten(0, (-1, h)).transpose(1, 2).flatten(2)
    if pattern == "b c h w -> b (h w) c":
        return x.flatten(2).transpose(1, 2)
    side = sizes["owh"]
    x = x.unflatten(1, (2, sizes["ch"], side * side)).permute(1, 0, 4, 3, 2)
    return x.flatten(1, 2)


def reference(folder: Path, scale: int) -> nn.Module:
    """The published network, built on the CPU without its CLIP file."""

    def load(path: Path, name: str) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    towers = load(folder / "clip" / "model.py", "reference_clip_model")

    def clip_load(*_: object, **__: object) -> tuple[nn.Module, None]:
        return towers.CLIP_Local(512, 224, 12, 768, 16, 77, 8, 64, 1, 1), None

    class Registry:
        def register(self):
            return lambda kind: kind

    stand_in("clip", load=clip_load)
    stand_in("einops", rearrange=rearrange, repeat=None)
    stand_in("basicsr")
    stand_in("basicsr.utils")
    stand_in("basicsr.utils.registry", ARCH_REGISTRY=Registry())
    stand_in("basicsr.archs")
    stand_in(
        "basicsr.archs.arch_util",
        to_2tuple=lambda x: x if isinstance(x, tuple) else (x, x),
        trunc_normal_=nn.init.trunc_normal_,
    )
    torch.Tensor.cuda = lambda self: self  # type: ignore[method-assign]
    code = load(folder / "segsr" / "archs" / "segsr_arch.py", "reference_segsr")
    network = code.SEGSR(
        upscale=scale,
        in_chans=3,
        img_size=64,
        window_size=16,
        compress_ratio=3,
        squeeze_factor=30,
        conv_scale=0.01,
        overlap_ratio=0.5,
        img_range=1.0,
        depths=[6] * 6,
        embed_dim=180,
        num_heads=[6] * 6,
        mlp_ratio=2,
        upsampler="pixelshuffle",
        resi_connection="1conv",
    )
    return network.eval()


def ours_from(published: nn.Module, scale: int) -> nn.Module:
    """Our network with the published one's weights, through the public loader."""
    entries = dict(published.state_dict())
    for i, prompt in enumerate(published.text_locals):
        entries[f"text_locals.{i}"] = prompt.detach()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"reference-x{scale}.pth"
        torch.save({"params_ema": entries}, path)
        return open_model(str(path)).network


def seconds(network: nn.Module, x: Tensor) -> tuple[float, float]:
    """Wall and processor time of one forward."""
    wall, busy = time.perf_counter(), time.process_time()
    network(x)
    return time.perf_counter() - wall, time.process_time() - busy


def time_ours(scale: int, rounds: int) -> None:
    """Time and memory of ours without company."""
    network = create_model("segsr-published", scale).network
    tile = torch.rand(1, 3, 64, 64)
    network(tile)
    times = [seconds(network, tile)[0] for _ in range(rounds)]
    print(f"ours: {statistics.median(times):.2f} s per tile")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    taken = seconds(network, torch.rand(4, 3, 64, 64))[0]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"four tiles: {taken / 4:.2f} s per tile, peak {after:.2f} GiB ({before:.2f} before)")
    measured = complexity(network, 3, 64)
    print(f"{measured.parameters / 1e6:.1f} M parameters, {measured.gmacs:.1f} GMAC per tile")


def compare_with_published(folder: Path, scale: int, rounds: int) -> None:
    """Both, in alternation."""
    torch.manual_seed(0)
    published = reference(folder, scale).requires_grad_(False)
    network = ours_from(published, scale)
    tile = torch.rand(1, 3, 64, 64)
    difference = (published(tile) - network(tile)).abs().max().item()
    print(f"largest difference of the outputs: {difference:.1e}")
    ratios = []
    for _ in range(rounds):
        (theirs, their_busy), (mine, my_busy) = seconds(published, tile), seconds(network, tile)
        ratios.append((theirs / mine, their_busy / my_busy))
        print(
            f"published {theirs:.2f} s ({their_busy:.2f} busy), ours {mine:.2f} s "
            f"({my_busy:.2f} busy): {ratios[-1][0]:.2f}x ({ratios[-1][1]:.2f}x)"
        )
    wall, busy = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratio: {wall:.2f}x in wall time, {busy:.2f}x in processor time")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="checkout of the published code")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=int, default=4, choices=[2, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        if arguments.reference is None:
            time_ours(arguments.scale, arguments.rounds)
        else:
            compare_with_published(arguments.reference, arguments.scale, arguments.rounds)


if __name__ == "__main__":
    main()

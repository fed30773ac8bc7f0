"""Measure the gain by guidance and by a sensor description on several backbones, at x4.

    python benchmarks/quality/backbones.py ROOT [--steps 2000] [--seeds 0 1] [--backbones plain ...]
                                           [--paths none semantic ...] [--out runs/backbones]

ROOT is UC Merced. Each backbone has about 0.15 million weights: ``plain`` (residual 3x3
convolutions), ``gated`` (depthwise 5x5 convolutions with a gate, after normalization over the
channels) and ``hat`` (HAT's window attention). With one seed all get the same crops, from scratch.
Paths: ``none``, the backbone alone; ``semantic``, with scene encoder, SLM and LMM, as in SeG-SR;
both by bicubic pairs. ``blind`` and ``sensor``: semantic guidance, by pairs of the imaging chain,
whose crops have no classes to train the scene encoder by;
``sensor`` also estimates the sensor description and scales and shifts the features of each group by
it. Each run has a folder in ``--out``; an unfinished one is resumed, a finished one is only
reported. Prints PSNR over ``val``, and the gains by both paths for each seed.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from georsr.models.registry import find_backbone, register_architecture, register_backbone
from georsr.models.segsr import SLM, Backbone, FiLM, Films, SegSR
from georsr.models.segsr_lite import LightLMM, SceneEncoder, SensorEstimator
from georsr.radiometry.kernels import N_SENSOR_VALUES
from georsr.training.callbacks import HISTORY
from georsr.training.recipe import Recipe
from georsr.training.train import train

GROUPS = 4
SIZES: dict[str, dict[str, Any]] = {
    "plain": {"embed_dim": 32, "depth": 2},
    "gated": {"embed_dim": 48, "depth": 3},
    "hat": {"embed_dim": 32, "depth": 1},
}
OPTIONS: dict[str, dict[str, Any]] = {"hat": {"num_heads": 4, "window_size": 8}}
PATHS = ("none", "semantic", "blind", "sensor")
GAINS = (("semantic", "none"), ("sensor", "blind"))


class GatedBlock(nn.Module):
    """x + out(a * b) of two depthwise convolutions a and b of the normalized features."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, embed_dim)
        self.inner = nn.Conv2d(embed_dim, 2 * embed_dim, 1)
        self.spatial = nn.Conv2d(2 * embed_dim, 2 * embed_dim, 5, padding=2, groups=2 * embed_dim)
        self.out = nn.Conv2d(embed_dim, embed_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        a, b = self.spatial(self.inner(self.norm(x))).chunk(2, dim=1)
        result: Tensor = x + self.out(a * b)
        return result


@register_backbone("gated")
class GatedBackbone(Backbone):
    """Groups of gated depthwise convolutions."""

    def __init__(self, bands: int, embed_dim: int, num_groups: int, depth: int) -> None:
        super().__init__(bands, embed_dim)
        for _ in range(num_groups):
            self.groups.append(nn.Sequential(*(GatedBlock(embed_dim) for _ in range(depth))))


class ModulatedGroup(nn.Module):
    """A group whose output is scaled and shifted by one FiLM."""

    def __init__(self, group: nn.Module) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor, films: Films = ()) -> Tensor:  # type: ignore[assignment]
        """(N, C, h, w) -> (N, C, h, w)."""
        x = self.group(x)
        for scale, shift in films:
            x = x * (1 + scale) + shift
        return x


@register_architecture("compared")
def compared(
    scale: int, bands: int = 3, *, backbone: str = "plain", path: str = "none", fused: bool = True
) -> SegSR:
    """Build an untrained network of a backbone and a path."""
    kind = find_backbone(backbone)
    options = {**({} if fused else kind.training_options), **OPTIONS.get(backbone, {})}
    width, depth = SIZES[backbone]["embed_dim"], SIZES[backbone]["depth"]
    body: Any = kind(bands, width, GROUPS, depth, **options)  # type: ignore[call-arg]
    body.groups = nn.ModuleList(ModulatedGroup(group) for group in body.groups)
    upsampler = Backbone.make_upsampler(body, scale)
    if not fused:
        upsampler.start_near_bicubic()  # type: ignore[operator]
    if path == "none":
        return SegSR(None, None, body, [], upsampler)
    sensor: dict[str, Any] = {}
    if path == "sensor":
        sensor["sensor_estimator"] = SensorEstimator(bands)
        sensor["sensor_film"] = FiLM(N_SENSOR_VALUES, 32, width, GROUPS, num_layers=2)
    modulations = [LightLMM(width) for _ in range(GROUPS)]
    slm = SLM(32, GROUPS, num_heads=4, temperature=10.0)
    return SegSR(SceneEncoder(scale, bands), slm, body, modulations, upsampler, **sensor)


def recipe_of(backbone: str, path: str, seed: int, steps: int, root: str) -> Recipe:
    """Return the recipe of one run."""
    chain = path in ("blind", "sensor")
    return Recipe.from_dict(
        {
            "name": f"{backbone}-{path}-{seed}",
            "scale": 4,
            "architecture": "compared",
            "network": {"backbone": backbone, "path": path},
            "data": {"kind": "images", "root": [root], **({"variation": {}} if chain else {})},
            "degradation": {"kind": "imaging-chain" if chain else "bicubic"},
            "optimizer": {"kind": "adam", "lr": 0.001},
            "steps": steps,
            "schedule": {"kind": "cosine", "warmup": min(200, steps // 5), "hold": 0.15},
            "loss": {"absolute": 1.0, "scene": 0.001 if path == "semantic" else 0.0},
            "scene_epochs": 15 if path == "semantic" else 0,
            "sensor_steps": steps // 2 if path == "sensor" else 0,
            "validate_every": steps,
            "seed": seed,
        },
        path,
    )


def last(out: Path) -> float:
    """Return the validation PSNR at the end of a run."""
    with (out / HISTORY).open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["psnr"])


def main() -> None:
    """Train every network, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--backbones", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--out", type=Path, default=Path("runs/backbones"))
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for backbone in arguments.backbones:
            scores = {}
            for path in arguments.paths:
                recipe = recipe_of(backbone, path, seed, arguments.steps, arguments.root)
                out = arguments.out / recipe.name
                if not (out / f"{recipe.name}.safetensors").exists():
                    train(recipe, out, resume=(out / "last.ckpt").exists())
                scores[path] = last(out)
                print(f"seed {seed}, {backbone}, {path}: {scores[path]:.3f} dB", flush=True)
            for path, without in GAINS:
                if {path, without} <= set(scores):
                    gain = scores[path] - scores[without]
                    print(f"seed {seed}, {backbone}: {path} over {without} {gain:+.3f} dB")


if __name__ == "__main__":
    main()

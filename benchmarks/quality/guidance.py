"""Measure the gain by guidance: segsr-lite at x4, trained with and without it on the same crops.

    python benchmarks/quality/guidance.py ROOT [--steps 5000] [--seeds 0] [--ways guided plain wide]
                                  [--out runs/guidance]

ROOT is UC Merced. With one seed every network gets the same crops in the same order, from scratch:
``guided`` is the bundled network, ``plain`` its backbone alone, ``wide`` a backbone alone with as
many parameters as the guided network, which takes a fifth more multiply-accumulates. Each run has
a folder in ``--out``; an unfinished one is resumed, a finished one is only reported. Prints the
best PSNR on Y over ``val`` (validated twice a run), and the gain by guidance.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from georsr.models.segsr_lite import segsr_lite
from georsr.run_estimate import complexity
from georsr.training.callbacks import HISTORY
from georsr.training.recipe import Recipe
from georsr.training.train import train

GUIDED = {"film_dim": 16}
WAYS = {"guided": GUIDED, "plain": {"token_dim": 0}, "wide": {"token_dim": 0, "embed_dim": 53}}
SCALE = 4


def recipe_of(way: str, seed: int, steps: int, root: str) -> Recipe:
    """Return the recipe of one run."""
    guided = WAYS[way] is GUIDED
    loss = {"absolute": 1.0, "squared_share": 0.15} | ({"scene": 0.001} if guided else {})
    return Recipe.from_dict(
        {
            "name": f"{way}-{seed}",
            "scale": SCALE,
            "network": WAYS[way],
            "data": {"kind": "images", "root": [root]},
            "steps": steps,
            "schedule": {"kind": "cosine", "warmup": min(200, steps // 5), "hold": 0.15},
            "loss": loss,
            "scene_epochs": 30 if guided else 0,
            "validate_every": -(-steps // 2),
            "seed": seed,
        },
        way,
    )


def best(out: Path) -> float:
    """Return the best validation PSNR of a run."""
    with (out / HISTORY).open(newline="") as file:
        return max(float(row["psnr"]) for row in csv.DictReader(file))


def main() -> None:
    """Train every network, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["guided", "plain"])
    parser.add_argument("--out", type=Path, default=Path("runs/guidance"))
    arguments = parser.parse_args()
    for way in arguments.ways:
        size = complexity(segsr_lite(SCALE, **WAYS[way]), 3, 64)
        print(f"{way}: {size.parameters:,} parameters, {size.gmacs:.3f} GMAC per 64 x 64 tile")
    for seed in arguments.seeds:
        scores = {}
        for way in arguments.ways:
            recipe = recipe_of(way, seed, arguments.steps, arguments.root)
            out = arguments.out / recipe.name
            if not (out / f"{recipe.name}.safetensors").exists():
                train(recipe, out, resume=(out / "last.ckpt").exists())
            scores[way] = best(out)
            print(f"seed {seed}, {way}: {scores[way]:.3f} dB", flush=True)
        for way in [way for way in scores if way != "guided" and "guided" in scores]:
            print(f"seed {seed}: guided over {way} {scores['guided'] - scores[way]:+.3f} dB")


if __name__ == "__main__":
    main()

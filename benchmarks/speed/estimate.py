"""How near the time that a plan tells comes to what the run then takes.

    OMP_NUM_THREADS=1 python benchmarks/speed/estimate.py [--size 1500] [--rounds 3] [--only WHAT
    ...]

Each round plans and then runs: the network over a scene, the network over the same scene with two
thirds of it empty, with two workers, with quality layers, and bicubic interpolation of a larger
scene, where reading and encoding take most. Prints seconds told and taken, and their ratio: below
one, the plan promised too much.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from workers import make_scene

from georsr.api import estimate, super_resolve

LARGER = 3
"""Sides of the scene that is only interpolated, in units of the other's."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="segsr-lite-x4-sensor")
    parser.add_argument("--size", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene, third, large = (folder / f"{what}.tif" for what in ("scene", "third", "large"))
        make_scene(scene, arguments.size)
        make_scene(third, arguments.size, full=1 / 3)
        make_scene(large, LARGER * arguments.size)
        layers = {"quality": str(folder / "quality.tif")}
        cases: dict[str, tuple[Path, str, dict[str, Any]]] = {
            "network": (scene, arguments.model, {}),
            "empty": (third, arguments.model, {}),
            "workers": (scene, arguments.model, {"workers": 2}),
            "quality": (scene, arguments.model, layers),
            "bicubic": (large, "bicubic-x4", {}),
        }
        ratios: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            for what in arguments.only or cases:
                source, model, options = cases[what]
                out = str(folder / "out.tif")
                options = {**options, "overwrite": True}
                told = estimate(source, model, destination=out, **options).seconds
                took = super_resolve(source, out, model, **options).seconds["total"]
                ratios.setdefault(what, []).append(told / took)
                print(f"{what:<8} told {told:7.1f} s, took {took:7.1f} s", flush=True)
    for what, several in ratios.items():
        print(
            f"{what:<8} ratio {statistics.median(several):.2f} "
            f"({min(several):.2f} to {max(several):.2f})"
        )


if __name__ == "__main__":
    main()

"""What resuming costs: whole runs with and without a journal, in alternation.

    python benchmarks/speed/journal.py [--model NAME] [--size 1500] [--rounds 5]

Prints the time of a run that could be resumed as a ratio to that of one that could not, on the wall
and of processors. With a network the ratio is what users pay; a model that does next to nothing,
such as nearest-x4, shows the cost itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from end_to_end import SAMPLE, make_scene

from georsr.api import super_resolve
from georsr.models.io import Model, open_model


def seconds(scene: Path, out: Path, model: Model, resume: bool | None) -> tuple[float, float]:
    """(wall, processors) of one run."""
    wall, busy = time.perf_counter(), time.process_time()
    super_resolve(scene, out, model, resume=resume, overwrite=True)
    return time.perf_counter() - wall, time.process_time() - busy


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="segsr-lite-x4-sensor")
    parser.add_argument("--size", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = open_model(arguments.model)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        scene, out = Path(folder) / "scene.tif", Path(folder) / "out.tif"
        make_scene(scene, SAMPLE, arguments.size)
        super_resolve(scene, out, model)
        for _ in range(arguments.rounds):
            without = seconds(scene, out, model, False)
            with_it = seconds(scene, out, model, None)
            ratios.append([a / b for a, b in zip(with_it, without, strict=True)])
            print(f"with {with_it[0]:.2f} s, without {without[0]:.2f} s", flush=True)
    wall, busy = (statistics.median(pair[k] for pair in ratios) for k in (0, 1))
    print(f"{arguments.model}: ratio {wall:.3f} on the wall, {busy:.3f} of processors")


if __name__ == "__main__":
    main()

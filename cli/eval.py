"""``georsr eval``: measure the quality of models and outputs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from georsr.errors import redact_url

from .main import importing
from .options import (
    DEVICE_OPTIONS,
    BandList,
    FileName,
    make_progress,
    model_options,
    sr_options,
    verbosity_options,
)

LAYOUTS = ("ucmerced", "aid", "folder")
FOREIGN = {
    "rasters": (
        *("root", "split", "limit", "csv", "report", "models", "guidance"),
        *("consistency", "consistency_kernel"),
    ),
    "--dataset": ("lr", "bidx"),
    "--pairs": (
        *("lr", "bidx", "root", "split", "limit", "csv", "guidance", "scale", "degradation"),
    ),
}
"""What is measured -> options that have no meaning for it."""
MODEL_OPTIONS = ("consistency_kernel", "device", "precision", "fast", "num_threads")


@click.command("eval", short_help="Measure super-resolution quality.")
@click.argument("rasters", nargs=-1, metavar="[SR [HR]]", type=FileName())
@click.option(
    "--dataset",
    metavar="ucmerced|aid|folder|DIR",
    help="Layout of an image data set below --root, or a folder of images.",
)
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Real pairs: DIR contains pairs.tsv and, for each pair, NAME_lr.tif and NAME_hr.tif.",
)
@click.option("--root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--split", help="Part of the data set: train, val or test.")
@click.option("--limit", type=click.IntRange(1), help="Largest number of images, evenly spread.")
@click.option(
    "--lr",
    type=FileName(),
    help="Source of SR: also measure consistency, and bicubic for comparison.",
)
@click.option("-b", "--bidx", type=BandList(), help="Bands of --lr, in the order of SR's.")
@model_options("Built-in name or weights file, repeatable.", several=True)
@click.option(
    "--degradation",
    show_default="bicubic; for rasters, the kernel in the tags of SR",
    metavar="KIND[,KEY=VALUE...]",
    help="Degradation from HR to LR: bicubic, or sensor,mtf=0.2,noise=0.005,bits=8. For rasters "
    "also mean (block averages) or psf:MTF.",
)
@click.option(
    "--guidance",
    type=click.Choice(["normal", "wrong", "off"]),
    multiple=True,
    help="Also measure each guided network while its scene encoder sees an image of another "
    "class (wrong) or uniform grey (off); repeatable.",
)
@click.option(
    "--consistency",
    type=click.Choice(["auto", "on", "off"]),
    show_default="off; auto for --pairs",
    help="Correct outputs so that, downsampled, they reproduce LR, as 'georsr sr' does (auto).",
)
@click.option(
    "--consistency-kernel",
    metavar="bicubic|mean|psf:MTF[+SHARPEN]|auto",
    help="Kernel of that correction; by default the model's.",
)
@sr_options(*DEVICE_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@click.option("--csv", type=click.Path(path_type=Path), help="One row for each image and model.")
@click.option("--report", type=click.Path(path_type=Path), help="HTML page with examples.")
@click.option("--overwrite", is_flag=True, help="Replace --csv and --report if they exist.")
@verbosity_options
def command(
    rasters: tuple[str, ...],
    dataset: str | None,
    pairs: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure models on a data set or on real pairs, or an output with or without a truth.

    The images of a data set are degraded and super-resolved by each --model and by bicubic. An
    output SR is compared with the truth HR where both are valid. Without HR, sharpness of edges,
    ringing, noise and artefacts are measured, and those of bicubic if the source (--lr) is given.
    A real pair is a coarse and a fine raster of the same area, from other bands or another sensor.
    Each --model super-resolves the coarse raster, and its gain over bicubic is compared with that
    of linear filters.

    \b
    georsr eval --dataset ucmerced --root UCMerced_LandUse --split val -m segsr-lite-x4
    georsr eval --dataset photos --limit 20 -m segsr-lite-x4 -m mine.safetensors --report a.html
    georsr eval out.tif truth.tif --lr scene.tif
    georsr eval out.tif --lr scene.tif
    georsr eval --pairs pairs -m segsr-lite-x2-sensor -m segsr-lite-x4-sensor --report pairs.html
    """
    given = {"rasters": bool(rasters), "--dataset": bool(dataset), "--pairs": pairs is not None}
    if sum(given.values()) != 1:
        raise click.UsageError("give either one or two rasters, or --dataset, or --pairs")
    if len(rasters) > 2:
        raise click.UsageError(f"expected SR, or SR and HR, got {len(rasters)} rasters")
    measured = next(kind for kind, chosen in given.items() if chosen)
    for name in FOREIGN[measured]:
        if options[name]:
            option = "--" + name.replace("_", "-").removesuffix("s")
            fitting = " and ".join(kind for kind in FOREIGN if name not in FOREIGN[kind])
            if name == "consistency_kernel":
                fitting += "; for rasters, use --degradation"
            raise click.UsageError(f"{option} is for {fitting}")
    if dataset:
        click.echo(_measure_dataset(dataset, as_json, quiet, options))
    elif pairs is not None:
        click.echo(_measure_pairs(pairs, as_json, quiet, options))
    else:
        click.echo(_measure_rasters(rasters, as_json, options))


def _measure_dataset(dataset: str, as_json: bool, quiet: bool, options: dict[str, Any]) -> str:
    with importing():
        from georsr._files import atomic_write_text, check_writable
        from georsr.config import SRConfig
        from georsr.evaluation.benchmark import csv_table, text_table
        from georsr.evaluation.dataset import prepare
        from georsr.radiometry.degradation import parse_degradation
        from georsr.writer.paths import check_outputs

    csv, report_path = options["csv"], options["report"]
    outputs = {name: [options[name[2:]]] for name in ("--csv", "--report") if options[name[2:]]}
    check_outputs(outputs, {"model": options["models"]})
    for path in filter(None, (csv, report_path)):
        check_writable(path, overwrite=options["overwrite"])
    root, layout = options["root"], dataset
    if root is None:
        if dataset in LAYOUTS and not Path(dataset).is_dir():
            raise click.UsageError(f"--dataset {dataset}: give the folder it lies in with --root")
        root, layout = Path(dataset), "auto"
    elif layout not in LAYOUTS:
        raise click.UsageError(f"--dataset {dataset}: with --root, one of {', '.join(LAYOUTS)}")
    evaluation = prepare(
        root,
        options["split"],
        options["models"],
        options["scale"],
        layout=layout,
        degradation=parse_degradation(options["degradation"] or "bicubic"),
        limit=options["limit"],
        guidance=options["guidance"],
        config=SRConfig(
            consistency=options["consistency"] or "off",
            **{name: options[name] for name in MODEL_OPTIONS},
        ),
        command=redact_url(shlex.join(["georsr", *sys.argv[1:]])),
    )
    if outputs:
        check_outputs(outputs, evaluation.files)
    with make_progress("auto", quiet) as progress:
        report = evaluation.run(progress)
    if csv is not None:
        atomic_write_text(csv, csv_table(report))
    if report_path is not None:
        from georsr.evaluation.reports.benchmark_report import html_page

        atomic_write_text(report_path, html_page(report, evaluation.examples(report)))
    return report.to_json() if as_json else text_table(report)


def _measure_pairs(pairs: Path, as_json: bool, quiet: bool, options: dict[str, Any]) -> str:
    with importing():
        from georsr._files import atomic_write_text, check_writable
        from georsr.evaluation.pairs import prepare_pairs
        from georsr.writer.paths import check_outputs

    page = options["report"]
    outputs = {} if page is None else {"--report": [page]}
    check_outputs(outputs, {"model": options["models"]})
    if page is not None:
        check_writable(page, overwrite=options["overwrite"])
    evaluation = prepare_pairs(
        pairs,
        options["models"],
        consistency=options["consistency"] or "auto",
        batch_size=options["batch_size"],
        **{name: options[name] for name in MODEL_OPTIONS},
        command=redact_url(shlex.join(["georsr", *sys.argv[1:]])),
    )
    check_outputs(outputs, evaluation.files)
    with make_progress("auto", quiet) as progress:
        report = evaluation.run(progress, pictures=page is not None)
    if page is not None:
        from georsr.evaluation.reports.pairs_report import pairs_page

        atomic_write_text(page, pairs_page(report, evaluation.examples))
    return report.to_json() if as_json else report.describe()


def _measure_rasters(rasters: tuple[str, ...], as_json: bool, options: dict[str, Any]) -> str:
    with importing():
        from georsr.evaluation.no_reference import measure_no_reference
        from georsr.evaluation.raster_comparison import (
            compare,
            compare_bicubic,
            compare_with_source,
        )
        from georsr.radiometry.degradation import parse_degradation
        from georsr.radiometry.kernels import parse_kernel

    lr, scale, degradation = options["lr"], options["scale"], options["degradation"]
    is_kernel = degradation == "mean" or (degradation or "").startswith("psf:")
    parse = parse_kernel if is_kernel else parse_degradation
    how = {"bidx": options["bidx"], "degradation": degradation and parse(degradation)}
    if len(rasters) == 1:
        scene = measure_no_reference(rasters[0], lr, scale=scale, run=True, **how)
        return scene.to_json() if as_json else scene.describe()
    sr, hr = rasters
    if lr is None:
        pairs = [compare(sr, hr, scale=scale)]
    else:
        pairs = [compare_with_source(sr, hr, lr, **how), compare_bicubic(lr, sr, hr, **how)]
    if not as_json:
        return "\n".join(pair.describe() for pair in pairs)
    texts = [pair.to_json() for pair in pairs]
    return texts[0] if lr is None else f"[{', '.join(texts)}]"

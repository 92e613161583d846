"""`deepgcn eval` and `deepgcn predict`: trained networks on rooms and scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepgcn_cli.options import (
    Device,
    InferenceBatch,
    Json,
    Quiet,
    Runs,
    Seed,
    examples,
    given,
    option,
)
from pipelines.config import ABSENT, PALETTES, PROTOCOLS, REPORTS, EvalConfig, PredictConfig


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command(
        "eval",
        epilog=examples(
            "deepgcn eval --report md",
            "deepgcn eval runs/mine --protocol all --report html --report tex",
            "deepgcn eval --votes 4 --view",
            "deepgcn eval --six-fold --train-missing",
        ),
    )(evaluate)
    app.command(
        epilog=examples(
            "deepgcn predict scan.ply",
            "deepgcn predict scan.pcd room.las 'more/*.csv' --out labelled --up y --scale 0.001",
            "deepgcn predict scan.ply --run runs/mine --out labelled.ply --view",
        )
    )(predict)


def evaluate(
    run_dirs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Run folders; none: the latest finished run."),
    ] = None,
    protocols: Annotated[
        list[str] | None,
        option(
            f"What is scored: {', '.join(PROTOCOLS)} or all; repeatable.",
            "--protocol",
            default=", ".join(EvalConfig.protocols),
            metavar="NAME",
        ),
    ] = None,
    reports: Annotated[
        list[str] | None,
        option(
            f"Report to write: {', '.join(REPORTS)}; repeatable.",
            "--report",
            default=", ".join(EvalConfig.reports),
            metavar="FORMAT",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None, option("best or last.", default=EvalConfig.checkpoint, metavar="NAME")
    ] = None,
    absent: Annotated[
        str | None,
        option(
            f"What a class that never occurs counts as in the means: {', '.join(ABSENT)}.",
            default=EvalConfig.absent,
            metavar="NAME",
        ),
    ] = None,
    votes: Annotated[
        int | None,
        option(
            "Passes over each room, turned, mirrored and scaled, whose logits are summed.",
            default=EvalConfig.votes,
            metavar="N",
        ),
    ] = None,
    six_fold: Annotated[
        bool, typer.Option("--six-fold", help="Score one run per area, pooled and averaged.")
    ] = False,
    train_missing: Annotated[
        bool, typer.Option("--train-missing", help="With --six-fold: train areas without a run.")
    ] = False,
    pictures: Annotated[
        bool | None,
        option("Draw rooms, errors, confusion, curves.", "--pictures/--no-pictures", default="on"),
    ] = None,
    palette: Annotated[
        str | None,
        option(
            f"Colours of the classes: {', '.join(PALETTES)} (for colour-blind readers).",
            default=EvalConfig.palette,
            metavar="NAME",
        ),
    ] = None,
    view: Annotated[
        bool | None, option("Also write rooms as HTML pages to look at in 3-D.", "--view")
    ] = None,
    data: Annotated[
        Path | None,
        option("Folder of the prepared data. [default: the run's]", metavar="DIR"),
    ] = None,
    runs: Runs = None,
    batch_size: InferenceBatch = None,
    seed: Seed = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score runs on the area that they left out: OA, mAcc, mIoU, IoU of every class."""
    flags = locals()
    if protocols and "all" in protocols:
        flags["protocols"] = PROTOCOLS
    if train_missing and not six_fold:
        raise typer.BadParameter("found --train-missing without --six-fold.")
    config = EvalConfig(**given(EvalConfig, flags))

    from deepgcn_cli.interruption import interruptible
    from deepgcn_cli.progress import open_progress
    from deepgcn_cli.scores import print_folds, print_scores

    progress = open_progress(quiet=quiet)
    with interruptible("the same command starts the scoring again"):
        if six_fold:
            from pipelines.sixfold import six_fold as stage

            folds = stage(config, train_missing=train_missing, progress=progress)
            return print_folds(folds, as_json=as_json)

        from pipelines.evaluate import evaluate as one_stage

        print_scores(one_stage(config, progress=progress), as_json=as_json)


def predict(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN", help="PLY, PCD, LAS, LAZ, E57, text, NPY, NPZ, S3DIS rooms; patterns."
        ),
    ],
    run: Annotated[
        Path | None,
        option("Run folder. [default: the latest finished run]", "--run", metavar="RUN"),
    ] = None,
    weights: Annotated[
        Path | None, option("Weights file, instead of a run.", metavar="FILE")
    ] = None,
    runs: Runs = None,
    out: Annotated[
        Path | None,
        option("Folder, or for one scan a file. [default: beside the scan]", metavar="PATH"),
    ] = None,
    format: Annotated[
        str | None,
        option("Format of the results: ply, las, csv, … [default: the scan's]", metavar="NAME"),
    ] = None,
    no_color_ok: Annotated[
        bool | None,
        option("Take scans without colour, as grey.", "--no-color-ok"),
    ] = None,
    drop_nan: Annotated[
        bool | None, option("Leave out points without coordinates.", "--drop-nan")
    ] = None,
    view: Annotated[
        bool | None, option("Also write an HTML page to look at it in 3-D, offline.", "--view")
    ] = None,
    probabilities: Annotated[
        bool | None, option("Also write the probability of every class.", "--probabilities")
    ] = None,
    up: Annotated[
        str | None,
        option("The scans' vertical axis: z, y or x.", default=PredictConfig.up, metavar="AXIS"),
    ] = None,
    scale: Annotated[
        float | None,
        option(
            "Metres per unit of their coordinates; 0.001 for millimetres.",
            default=PredictConfig.scale,
            metavar="X",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        option("Columns of text files, as x,y,z,r,g,b,-. [default: detected]", metavar="NAMES"),
    ] = None,
    num_points: Annotated[
        int | None, option("Points drawn at a time. [default: as in training]", metavar="N")
    ] = None,
    batch_size: InferenceBatch = None,
    seed: Seed = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label every point of scans: class, colour and confidence, in the scan's own order.

    Exit code 1: a scan could not be labelled; with several, the others are.
    """
    flags = locals()
    config = PredictConfig(**given(PredictConfig, flags))

    from deepgcn_cli.interruption import interruptible
    from deepgcn_cli.progress import open_progress
    from deepgcn_cli.scores import print_predictions
    from pipelines.predict import predict as stage

    progress = open_progress(quiet=quiet)
    with interruptible("the same command goes on where it stopped, with large scans"):
        result = stage(config, progress=progress)
    print_predictions(result, as_json=as_json)
    if result.failed:
        raise typer.Exit(1)

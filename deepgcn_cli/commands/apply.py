"""`deepgcn eval` and `deepgcn predict`: trained networks on rooms and scans."""

from __future__ import annotations

from typing import Annotated

import typer

from deepgcn_cli.options import Flags, Json, Quiet, examples, takes
from pipelines.config import PROTOCOLS, EvalConfig, PredictConfig


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


@takes(EvalConfig)
def evaluate(
    *,
    flags: Flags,
    six_fold: Annotated[
        bool, typer.Option("--six-fold", help="Score one run per area, pooled and averaged.")
    ] = False,
    train_missing: Annotated[
        bool, typer.Option("--train-missing", help="With --six-fold: train areas without a run.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score runs on the area that they left out: OA, mAcc, mIoU, IoU of every class."""
    if "all" in flags.get("protocols", ()):
        flags["protocols"] = PROTOCOLS
    if train_missing and not six_fold:
        raise typer.BadParameter("found --train-missing without --six-fold.")
    config = EvalConfig(**flags)

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


@takes(PredictConfig)
def predict(*, flags: Flags, as_json: Json = False, quiet: Quiet = False) -> None:
    """Label every point of scans: class, colour and confidence, in the scan's own order.

    Exit code 1: a scan could not be labelled; with several, the others are.
    """
    config = PredictConfig(**flags)

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

"""`deepgcn eval`: the scores of trained runs on the areas that they left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from deepgcn_cli.display import percent, print_json, print_table, print_text
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import Flags, Json, Quiet, subcommand
from deepgcn_cli.progress import open_progress
from pipelines.config import EvalConfig

if TYPE_CHECKING:
    from pipelines.evaluate import RunScores, SixFoldResult

# What a script wants of one run's scores; scores.json has the rest.
SHOWN = ("run", "area", "protocol", "scores", "baseline", "files", "blocks", "seconds")


@subcommand(
    "deepgcn eval --report md",
    "deepgcn eval runs/mine --protocol all --report html --report tex",
    "deepgcn eval --votes 4 --view",
    "deepgcn eval --six-fold --train-missing",
    takes=(EvalConfig,),
    name="eval",
)
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
    if train_missing and not six_fold:
        raise typer.BadParameter("found --train-missing without --six-fold.")
    config = EvalConfig(**flags)
    progress = open_progress(quiet=quiet)
    with interruptible("the same command starts the scoring again"):
        if six_fold:
            from pipelines.evaluate import six_fold as stage

            folds = stage(config, train_missing=train_missing, progress=progress)
            if as_json:
                return print_json([{**each.report.values, "files": each.files} for each in folds])
            return print_reports(folds)

        from pipelines.evaluate import evaluate as one_stage

        results = one_stage(config, progress=progress).results
    if as_json:
        return print_json([{name: getattr(each, name) for name in SHOWN} for each in results])
    print_reports(results)
    if len(results) > 1:
        print_text("")
        print_side_by_side(results)


def print_reports(results: Sequence[RunScores | SixFoldResult]) -> None:
    """Print each report's table, classes down and rows across, so that it fits on a terminal."""
    for number, found in enumerate(results):
        if number:
            print_text("")
        print_text(found.report.title)
        table = found.report.table()
        names, *rows = zip(table.columns, *table.lines, strict=True)
        print_table(names, rows)
        print_text("\n".join(found.report.notes))
        for file in found.files:
            print_text(f"  {file}")


def print_side_by_side(results: Sequence[RunScores]) -> None:
    """Print a line for each run and protocol."""
    columns = ("run", "protocol", "points scored", "OA", "mAcc", "mIoU")
    rows = []
    for found in results:
        means = map(percent, (found.scores.oa, found.scores.macc, found.scores.miou))
        rows.append((found.run.name, found.protocol, f"{found.scores.points:,}", *means))
    print_table(columns, rows)

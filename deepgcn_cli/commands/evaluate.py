"""`deepgcn eval`: the scores of trained runs on the areas that they left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepgcn_cli.display import percent, print_json, print_table, print_text
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import Flags, Json, Quiet, subcommand
from deepgcn_cli.progress import open_progress
from pipelines.config import PROTOCOLS, EvalConfig

if TYPE_CHECKING:
    from pipelines.evaluate import EvalResult, RunScores
    from pipelines.reports.tables import Report
    from pipelines.sixfold import SixFoldResult


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
    if "all" in flags.get("protocols", ()):
        flags["protocols"] = PROTOCOLS
    if train_missing and not six_fold:
        raise typer.BadParameter("found --train-missing without --six-fold.")
    config = EvalConfig(**flags)
    progress = open_progress(quiet=quiet)
    with interruptible("the same command starts the scoring again"):
        if six_fold:
            from pipelines.sixfold import six_fold as stage

            folds = stage(config, train_missing=train_missing, progress=progress)
            return print_folds(folds, as_json=as_json)

        from pipelines.evaluate import evaluate as one_stage

        print_scores(one_stage(config, progress=progress), as_json=as_json)


def print_scores(result: EvalResult, *, as_json: bool) -> None:
    """Print the scores of every run under every protocol, and where the reports are."""
    if as_json:
        return print_json([_record(found) for found in result.results])
    for number, found in enumerate(result.results):
        if number:
            print_text("")
        print_report(found.report, found.files)
    if len(result.results) > 1:
        print_text("")
        print_side_by_side(result.results)


def print_report(report: Report, files: Sequence[Path]) -> None:
    """Print a report's table, classes down and rows across, so that it fits on a terminal."""
    print_text(report.title)
    table = report.table()
    columns, lines = table.columns, table.lines
    names = ["", *(line[0] for line in lines)]
    rows = [[columns[n], *(line[n] for line in lines)] for n in range(1, len(columns))]
    print_table(names, rows)
    print_text("\n".join(report.notes))
    for file in files:
        print_text(f"  {file}")


def print_side_by_side(results: Sequence[RunScores]) -> None:
    """Print a line for each run and protocol."""
    columns = ("run", "protocol", "points scored", "OA", "mAcc", "mIoU")
    rows = [
        (
            found.run.name,
            found.protocol,
            f"{found.scores.points:,}",
            *(percent(v) for v in (found.scores.oa, found.scores.macc, found.scores.miou)),
        )
        for found in results
    ]
    print_table(columns, rows)


def print_folds(results: Sequence[SixFoldResult], *, as_json: bool) -> None:
    """Print the pooled and mean scores of all areas."""
    if as_json:
        return print_json([{**found.report.values, "files": found.files} for found in results])
    for number, found in enumerate(results):
        if number:
            print_text("")
        print_report(found.report, found.files)


def _record(found: RunScores) -> dict[str, object]:
    """Return what a script wants of one run's scores; scores.json has the rest."""
    return {
        "run": found.run,
        "area": found.area,
        "protocol": found.protocol,
        "scores": found.scores,
        "baseline": found.baseline,
        "files": found.files,
        "blocks": found.blocks,
        "seconds": found.seconds,
    }

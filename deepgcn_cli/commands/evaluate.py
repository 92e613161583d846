"""`deepgcn eval`: the scores of runs on the areas that they left out, and of any weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from deepgcn_cli.display import Answer, Table, percent
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import subcommand
from pipelines.config import EvalConfig
from pipelines.config.options import option
from pipelines.progress import Progress

if TYPE_CHECKING:
    from pipelines.evaluate import RunScores
    from pipelines.studies.sixfold import SixFoldResult

# What a script wants of one run's scores; scores.json has the rest.
SHOWN = ("name", "run", "area", "protocol", "scores", "baseline", "files", "blocks", "seconds")


@subcommand(
    "deepgcn eval --report md",
    "deepgcn eval runs/mine --protocol all --report html --report tex",
    "deepgcn eval --votes 4 --view",
    "deepgcn eval --weights mine.safetensors --weights dgcnn-s3dis-area5 --area 5 --average",
    "deepgcn eval --six-fold --train-missing",
    name="eval",
)
def evaluate(
    *,
    config: EvalConfig,
    six_fold: bool = option(False, "Score one run per area, pooled and averaged."),
    train_missing: bool = option(False, "With --six-fold: train areas without a run."),
    progress: Progress,
) -> Answer:
    """Score runs on the area that they left out: OA, mAcc, mIoU, IoU of every class.

    With --weights, score any weights on prepared rooms of the same classes.
    """
    if train_missing and not six_fold:
        raise typer.BadParameter("found --train-missing without --six-fold.")
    with interruptible("the same command starts the scoring again"):
        if six_fold:
            if config.weights:
                raise typer.BadParameter("found --six-fold with --weights, expected runs.")
            from pipelines.studies.sixfold import six_fold as stage

            folds = stage(config, train_missing=train_missing, progress=progress)
            values = [{**each.report.values, "files": each.files} for each in folds]
            return Answer(values, _reports(folds))

        from pipelines.evaluate import evaluate as one_stage

        results = one_stage(config, progress=progress).results
    values = [{name: getattr(each, name) for name in SHOWN} for each in results]
    side_by_side = _side_by_side(results) if len(results) > 1 else ()
    return Answer(values, (*_reports(results), *side_by_side))


def _reports(results: Sequence[RunScores | SixFoldResult]) -> Iterator[str | Table]:
    """Yield each report, its table with classes down and rows across, to fit on a terminal."""
    for number, found in enumerate(results):
        if number:
            yield ""
        yield found.report.title
        table = found.report.table()
        names, *rows = zip(table.columns, *table.lines, strict=True)
        yield Table(names, rows)
        yield "\n".join(found.report.notes)
        for file in found.files:
            yield f"  {file}"


def _side_by_side(results: Sequence[RunScores]) -> Iterator[str | Table]:
    """Yield a table with a line for each run and protocol."""
    rows = []
    for found in results:
        means = map(percent, (found.scores.oa, found.scores.macc, found.scores.miou))
        rows.append((found.name, found.protocol, f"{found.scores.points:,}", *means))
    yield ""
    yield Table(("run", "protocol", "points scored", "OA", "mAcc", "mIoU"), rows)

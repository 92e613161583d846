"""`deepgcn ablate`: many trainings that differ in one thing each → one table."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgcn_cli.display import Answer, Table, print_part
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import Flags, ModelFlags, TrainFlags, subcommand
from pipelines.config import AblateConfig
from pipelines.config.model import OWN_CLASSES
from pipelines.config.options import check_option, flag_of, option, options_of
from pipelines.progress import Progress, counted

if TYPE_CHECKING:
    from pipelines.studies.state import RowEstimate
    from pipelines.studies.tables import AblateResult


@subcommand(
    "deepgcn ablate --preset smoke --seeds 2",
    "deepgcn ablate --preset paper-table1 --seeds 3 --dry-run",
    "deepgcn ablate --preset paper-table1 --rows dense --rows plain --width 16 --epochs 2",
    "deepgcn ablate --grid grid.yaml --workers 2",
    "deepgcn ablate --preset recipe --launcher slurm --slurm partition=gpu --slurm gpus=1",
    "deepgcn ablate --status",
)
def ablate(
    *,
    study: Annotated[Flags, AblateConfig],
    model: ModelFlags,
    training: TrainFlags,
    dry_run: bool = option(False, "Only show the runs and estimates of what they take."),
    status: bool = option(False, "Only show the table as it is now (latest study)."),
    progress: Progress,
) -> Answer:
    """Train variations of a network, score them alike and put them into one table.

    Options of the network and the training are the defaults of every row; a row that doubles or
    halves a setting starts from its default. The same command continues where it stopped, and
    reuses finished runs, whatever they are called. Exit code 1: a run failed; the others are in
    the table.
    """
    if status:
        return _found(_study_so_far(study))
    if "slurm" in study:
        study["slurm"] = slurm_options(study["slurm"])
    config = AblateConfig(**study, base={**model, **training})
    if dry_run:
        return _estimate(config, progress)

    from pipelines.ablate import ablate as stage

    with interruptible("the same command continues; the table so far: deepgcn ablate --status"):
        result = stage(config, progress=progress)
    return _found(result, failed=result.finished < result.runs)


def slurm_options(texts: Sequence[str]) -> dict[str, Any]:
    """Return what `--slurm NAME=VALUE` says, as fields of SlurmOptions."""
    from pipelines.launch.slurm import SlurmOptions

    fields = typing.get_type_hints(SlurmOptions)
    found: dict[str, Any] = {}
    for text in texts:
        name, is_set, value = text.partition("=")
        field = name.replace("-", "_")
        known = field in fields and field not in ("extra", "at_most")  # of sbatch, of --workers
        if not name or (known and not is_set):
            raise typer.BadParameter(f"--slurm: found {text!r}, expected NAME=VALUE.")
        if not known:
            found.setdefault("extra", {})[name] = value
        elif field == "setup":
            found["setup"] = (*found.get("setup", ()), value)
        elif int not in (fields[field], *typing.get_args(fields[field])):
            found[field] = value
        elif value.isdecimal():
            found[field] = int(value)
        else:
            raise typer.BadParameter(f"--slurm: found {text!r}, expected a whole number.")
    return found


def _study_so_far(flags: Flags) -> AblateResult:
    from pipelines.studies.grid import read_grid
    from pipelines.studies.plan import latest_study, load_plan, study_file
    from pipelines.studies.tables import summarize

    for field in ("reports", "page_columns"):
        shown = options_of(AblateConfig)[field]
        check_option(flag_of(field, shown), shown, flags.get(field))
    runs, grid = flags.get("runs", AblateConfig.runs), flags.get("grid")
    name = flags.get("name") or flags.get("preset")
    name = name or (read_grid(grid).name if grid else latest_study(runs))
    how = {"pictures": False, **{n: flags[n] for n in ("pictures", "page_columns") if n in flags}}
    return summarize(load_plan(study_file(runs, name)), flags.get("reports", ()), **how)


def _found(result: AblateResult, *, failed: bool = False) -> Answer:
    from pipelines.reports.studies import tables_markdown, tables_values

    counts = {name: getattr(result, name) for name in ("study", "runs", "finished", "failed")}
    value = {**counts, "files": result.files, "tables": tables_values(result.tables)}
    scored = f"{result.finished} of {counted(result.runs, 'run')} scored, {result.failed} failed"
    files = [f"  {file}" for file in result.files]
    return Answer(value, [tables_markdown(result.tables), scored, *files], failed=failed)


def _estimate(config: AblateConfig, progress: Progress) -> Answer:
    from pipelines.ablate import dry_run
    from pipelines.reports.studies import duration

    def shown(row: RowEstimate) -> tuple[str, ...]:
        planned = row.row
        return (
            planned.group,
            planned.name,
            planned.label,
            str(row.runs),
            "–" if planned.parameters is None else f"{planned.parameters / 1e6:.3f} M",
            "–" if row.steps is None else f"{row.steps:,}",
            "–" if row.seconds is None else duration(row.seconds),
            "–" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
        )

    found = dry_run(config, progress=progress)
    columns = ("group", "row", "network", "runs", "parameters", "steps", "time", "memory")
    failing = [row.row for row in found.rows if row.row.error]
    runs = sum(row.runs for row in found.rows)
    total = "–" if found.seconds is None else duration(found.seconds)
    parts: list[str | Table] = [
        Table(columns, [shown(row) for row in found.rows]),
        *(f"{row.name} cannot be trained: {row.error}" for row in failing),
        *found.notes,
        f"{counted(runs, 'run')} to train, estimate {total} one after the other; starting "
        "(some 10 s a run), validation and scoring are not counted. All times are estimates, from "
        f"{found.source}.",
    ]
    return Answer(found, parts)


@subcommand(
    "deepgcn ablate-job runs/studies/smoke/study.json dense 0", name="ablate-job", hidden=True
)
def ablate_job(
    *,
    study: Path = option(MISSING, "The study file.", "STUDY", flag=""),
    row: str = option(MISSING, "The row's name.", "ROW", flag=""),
    seed: int = option(MISSING, "One of the study's seeds.", "SEED", flag=""),
    own_classes: tuple[str, ...] = OWN_CLASSES,
    progress: Progress,
) -> None:
    """Train and score one row and seed of a study; what deepgcn ablate runs."""
    from pipelines.ablate import ablate_job as stage

    print_part(str(stage(study, row, seed, own=own_classes, progress=progress)))

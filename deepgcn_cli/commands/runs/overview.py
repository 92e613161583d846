"""`deepgcn runs list`, `show`, `compare`, `export` and `sync`: what was trained, how well.

`list` has to answer at once however many runs there are, so nothing heavy is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgcn_cli.display import MEANS, percent, print_json, print_table, print_text
from deepgcn_cli.options import RUNS, Json, Quiet, Runs, Where, option_of, subcommand
from deepgcn_cli.progress import clock_time, open_progress
from pipelines.config import PROTOCOLS
from pipelines.config.options import COUNT
from pipelines.errors import RunError, command
from pipelines.serialization import to_plain

if TYPE_CHECKING:
    from pipelines.reports.comparison import Difference
    from pipelines.runs.directory import Run

Sort = Annotated[
    str | None,
    option_of(
        "Order by these columns; -miou: the best first.",
        flag="--sort",
        default="created",
        metavar="COLUMNS",
    ),
]
# What the table is made of: the column's title, the columns of the index, what to show of them.
COLUMNS = ("name", "state", "arch", "depth", "conv", "width", "k", "test_area", "epoch", "step")
SCORES = ("val_miou", "room_oa", "room_miou")
TITLES = ("run", "state", "network", "area", "epoch", "step", "val mIoU", "OA", "mIoU")


@subcommand(
    "deepgcn runs list",
    'deepgcn runs list --where "arch=resgcn and miou>0.4" --sort -miou',
    "deepgcn runs list --columns name,lr,seed,miou --limit 10",
    "deepgcn runs list --json",
    name="list",
)
def list_runs(
    where: Where = None,
    sort: Sort = None,
    limit: Annotated[int | None, option_of("So many runs at most.", "--limit", metavar="N")] = None,
    columns: Annotated[
        str | None,
        option_of("Show these columns of the index instead.", "--columns", metavar="A,B,…"),
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List runs, oldest first, with their scores.

    A condition compares columns of the index with = != < <= > >= or ~ (contains), joined by and,
    or, not and parentheses: "tag=paper and not (miou<40% or state=failed)".
    """
    from pipelines.runs.index import query
    from pipelines.runs.query import parse_columns

    if limit is not None:
        COUNT.check("--limit", limit)
        limit = min(limit, sys.maxsize)  # SQLite takes no more
    names = parse_columns(columns.split(",") if columns is not None else None)
    if columns is None and not as_json:
        names = (*COLUMNS, *SCORES, "tags", "error")
    options: dict[str, Any] = {"where": where, "sort": sort, "limit": limit, "columns": names}
    rows = query(runs, **options, progress=open_progress(quiet=quiet))
    if as_json:
        return print_json([dict(zip(names, row, strict=True)) for row in rows])
    if not rows and where is not None:
        return print_text(f"{runs}: no runs fulfil {where!r}.")
    if not rows:
        return print_text(f"{runs}: no runs yet. Start one: deepgcn train")
    if columns is not None:
        return _print_columns(names, rows)
    _print_runs(rows)


def _print_runs(rows: Sequence[tuple[Any, ...]]) -> None:
    """Print the usual table; the tags if there are any, and what is wrong with broken runs."""
    tagged = any(row[-2] for row in rows)
    shown = [
        (
            *row[:2],
            _network(row),
            *map(_count, row[7:10]),
            *map(percent, row[10:13]),
            *([row[-2]] if tagged else []),
        )
        for row in rows
    ]
    print_table((*TITLES, "tags") if tagged else TITLES, shown)
    for row in rows:
        if row[-1]:
            print_text(row[-1])
    print_text("Scores in percent; OA and mIoU under protocol room.")


def _network(row: tuple[Any, ...]) -> str:
    arch, depth, conv, width, k = row[2:7]
    return "–" if arch is None else f"{arch}-{depth} {conv} C{width} k{k}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _print_columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    from pipelines.runs.query import SCORES as FRACTIONS

    show = [percent if name in FRACTIONS else _one_line for name in names]
    print_table(names, [[each(v) for each, v in zip(show, row, strict=True)] for row in rows])


def _one_line(value: Any) -> str:
    """Return a value for a row of a table; a note may have several lines."""
    return "–" if value is None else " ".join(str(value).split())


@subcommand(
    "deepgcn runs export runs.csv",
    'deepgcn runs export best.parquet --where "miou>0.4" --sort -miou',
)
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .csv or .parquet file.")],
    where: Where = None,
    sort: Sort = None,
    runs: Runs = RUNS,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write runs with all their columns to a CSV or Parquet file; scores are from 0 to 1."""
    from pipelines.runs.index import export_runs

    progress = open_progress(quiet=quiet)
    count = export_runs(file, runs, where=where, sort=sort, progress=progress)
    if as_json:
        return print_json({"file": file, "runs": count})
    print_text(f"{file}: {_runs(count)}")


@subcommand("deepgcn runs sync", name="sync")
def sync_runs(runs: Runs = RUNS, as_json: Json = False, quiet: Quiet = False) -> None:
    """Read every run directory again, also those that look unchanged, into the index results.db."""
    from pipelines.runs.index import FILE, sync

    count = sync(runs, open_progress(quiet=quiet))
    index = runs / FILE if runs.is_dir() else None
    if as_json:
        return print_json({"runs": count, "index": index})
    print_text(f"{index}: {_runs(count)}" if index else f"{runs}: found no such folder, so no runs")


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"


@subcommand("deepgcn runs show runs/mine", name="show")
def show_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's name or folder.")],
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Show one run: its network, state, machine and scores."""
    from pipelines.runs.annotations import read_note, read_tags
    from pipelines.runs.directory import named_run

    found = named_run(run, runs)
    scores = {name: found.scores(name) for name in PROTOCOLS}
    summary = {
        "run": str(found.path),
        "status": {**found.status, "state": found.state},
        "config": to_plain(found.config),
        "environment": found.environment,
        "tags": read_tags(found.path),
        "note": read_note(found.path),
        "scores": {name: values for name, values in scores.items() if values},
    }
    if as_json:
        return print_json(summary)
    print_table(("what", "value"), [*_described(found), *_scored(summary["scores"])])


def _described(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the lines of a run's summary: name and value."""
    from pipelines.runs.annotations import read_note, read_tags
    from pipelines.weights.safetensors import describe

    config, status, environment = run.config, run.status, run.environment
    yield "run", str(run.path)
    yield "state", run.state
    if status.get("error"):
        yield "error", str(status["error"])
    if tags := read_tags(run.path):
        yield "tags", ", ".join(tags)
    if note := read_note(run.path):
        yield "note", " ".join(note.split())
    yield "network", describe(config.model)
    yield "test area", _count(config.test_area)
    yield "recipe", f"{config.recipe_text}, batch {config.batch_size} × {config.num_points} points"
    yield "seed", str(config.seed)
    yield "created", str(status.get("created", "–"))
    yield "steps", f"{_count(status.get('step'))} ({_count(status.get('epoch'))} epochs)"
    yield "time", clock_time(float(status.get("seconds") or 0))
    yield "validation mIoU", percent(status.get("best_miou"))
    yield "hardware", str(environment.get("gpu") or environment.get("cpu") or "–")
    yield "software", ", ".join(f"{k} {v}" for k, v in environment.get("packages", {}).items())
    yield "commit", str(environment.get("commit") or "–")
    yield "data", str(config.data)


def _scored(scores: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the scores under each protocol."""
    for protocol, values in scores.items():
        shown = (f"{name} {percent(values[key])}" for name, key in MEANS)
        yield f"protocol {protocol}", ", ".join(shown)
        for name, iou in zip(values["classes"], values["iou"], strict=True):
            yield f"  IoU {name}", percent(iou)


@subcommand(
    "deepgcn runs compare mine other",
    "deepgcn runs compare a b c --protocol block-s1",
    name="compare",
)
def compare_runs(
    names: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Two or more runs; the first is the base.")
    ],
    protocol: Annotated[
        str,
        option_of("Protocol to compare under.", "--protocol", default=PROTOCOLS[0], metavar="NAME"),
    ] = PROTOCOLS[0],
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Compare runs: settings, scores per class, and an interval on the mIoU's difference."""
    if len(names) < 2:
        raise typer.BadParameter("found one run, expected two or more to compare.")

    from pipelines.reports.comparison import compare_scores
    from pipelines.runs.directory import named_run
    from pipelines.runs.resume import different_settings

    found = [named_run(name, runs) for name in names]
    values = [_scores_under(run, protocol) for run in found]
    settings = different_settings([to_plain(run.config) for run in found])
    differences = compare_scores([run.name for run in found], values)
    if as_json:
        scores = {run.name: each for run, each in zip(found, values, strict=True)}
        means = {name: {key: each[key] for _, key in MEANS} for name, each in scores.items()}
        compared = {"protocol": protocol, "settings": settings, "differences": differences}
        return print_json({**compared, "scores": means})
    _print_comparison([run.name for run in found], values, settings, differences)


def _scores_under(run: Run, protocol: str) -> dict[str, Any]:
    values = run.scores(protocol)
    if values is None:
        raise RunError(
            f"{run.path}: found no scores under protocol {protocol}.\n"
            f"Score it first: {command('eval', run.path, '--protocol', protocol)}"
        )
    return values


def _print_comparison(
    names: list[str],
    values: list[dict[str, Any]],
    settings: dict[str, list[Any]],
    differences: list[Difference],
) -> None:
    if settings:
        rows = [(name, *map(str, each)) for name, each in settings.items()]
        print_table(("setting", *names), rows)
        print_text("")
    changes = [f"− {names[0]}: {each.name}" for each in differences]
    rows = []
    for title, key in MEANS:
        deltas = (_signed(each[key] - values[0][key]) for each in values[1:])
        rows.append((title, *(percent(each[key]) for each in values), *deltas))
    for number, name in enumerate(values[0]["classes"]):
        shown = (percent(each["iou"][number]) for each in values)
        rows.append((f"IoU {name}", *shown, *(_signed(each.iou[number]) for each in differences)))
    print_table(("in %", *names, *changes), rows)
    for each in differences:
        print_text(
            f"{each.name} − {names[0]}: mIoU {_signed(each.miou)} points, 95 % of bootstrap draws "
            f"over the {len(values[0]['rooms'])} rooms within {_signed(each.low)} … "
            f"{_signed(each.high)}"
        )


def _signed(difference: float | None) -> str:
    return "–" if difference is None else f"{100 * difference:+.2f}"

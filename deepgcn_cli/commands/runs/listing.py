"""`deepgcn runs list`, `export` and `sync`: the index of runs, for people and for other programs.

`list` has to answer at once however many runs there are, so nothing heavy is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deepgcn_cli.later import Later
from deepgcn_cli.options import Json, Quiet, Runs, examples, option
from pipelines.config import TrainConfig
from pipelines.config.options import COUNT

Where = Annotated[
    str | None,
    option('Only runs that fulfil this, as "arch=resgcn and miou>0.4".', metavar="CONDITION"),
]
Sort = Annotated[
    str | None,
    option("Order by these columns; -miou: the best first.", default="created", metavar="COLUMNS"),
]
# What the table is made of: the column's title, the columns of the index, what to show of them.
_SHOWN = ("name", "state", "arch", "depth", "conv", "width", "k", "test_area", "epoch", "step")
_SCORES = ("val_miou", "room_oa", "room_miou")
_TITLES = ("run", "state", "network", "area", "epoch", "step", "val mIoU", "OA", "mIoU")


def register(group: typer.Typer) -> None:
    """Add the commands to the group `runs`."""
    group.command(
        "list",
        epilog=examples(
            "deepgcn runs list",
            'deepgcn runs list --where "arch=resgcn and miou>0.4" --sort -miou',
            "deepgcn runs list --columns name,lr,seed,miou --limit 10",
            "deepgcn runs list --json",
        ),
    )(list_runs)
    group.command(
        "export",
        epilog=examples(
            "deepgcn runs export runs.csv",
            'deepgcn runs export best.parquet --where "miou>0.4" --sort -miou',
        ),
    )(export)
    group.command("sync", epilog=examples("deepgcn runs sync"))(sync_runs)


def list_runs(
    where: Where = None,
    sort: Sort = None,
    limit: Annotated[int | None, option("So many runs at most.", metavar="N")] = None,
    columns: Annotated[
        str | None, option("Show these columns of the index instead.", metavar="A,B,…")
    ] = None,
    runs: Runs = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List runs, oldest first, with their scores.

    A condition compares columns of the index with = != < <= > >= or ~ (contains), joined by and,
    or, not and parentheses: "tag=paper and not (miou<40% or state=failed)".
    """
    from deepgcn_cli.display import print_json, print_text
    from pipelines.runs.index import query
    from pipelines.runs.query import parse_columns

    if limit is not None:
        COUNT.check("--limit", limit)
        limit = min(limit, sys.maxsize)  # SQLite takes no more
    names = parse_columns(columns.split(",") if columns is not None else None)
    if columns is None and not as_json:
        names = (*_SHOWN, *_SCORES, "tags", "error")
    folder = runs or TrainConfig.runs
    options: dict[str, Any] = {"where": where, "sort": sort, "limit": limit, "columns": names}
    rows = query(folder, **options, progress=Later(quiet=quiet))
    if as_json:
        return print_json([dict(zip(names, row, strict=True)) for row in rows])
    if not rows and where is not None:
        return print_text(f"{folder}: no runs fulfil {where!r}.")
    if not rows:
        return print_text(f"{folder}: no runs yet. Start one: deepgcn train")
    if columns is not None:
        return _print_columns(names, rows)
    _print_runs(rows)


def _print_runs(rows: Sequence[tuple[Any, ...]]) -> None:
    """Print the usual table; the tags if there are any, and what is wrong with broken runs."""
    from deepgcn_cli.display import percent, print_table, print_text

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
    print_table((*_TITLES, "tags") if tagged else _TITLES, shown)
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
    from deepgcn_cli.display import print_table

    show = [_shown_as(name) for name in names]
    print_table(names, [[each(v) for each, v in zip(show, row, strict=True)] for row in rows])


def _shown_as(name: str) -> Callable[[Any], str]:
    """Return what shows the values of a column."""
    from deepgcn_cli.display import percent
    from pipelines.runs.query import SCORES

    if name in SCORES:
        return percent
    # A note may have several lines, a row has one.
    return lambda value: "–" if value is None else " ".join(str(value).split())


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .csv or .parquet file.")],
    where: Where = None,
    sort: Sort = None,
    runs: Runs = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write runs with all their columns to a CSV or Parquet file; scores are from 0 to 1."""
    from deepgcn_cli.display import print_json, print_text
    from pipelines.runs.frame import export_runs

    folder, progress = runs or TrainConfig.runs, Later(quiet=quiet)
    count = export_runs(file, folder, where=where, sort=sort, progress=progress)
    if as_json:
        return print_json({"file": file, "runs": count})
    print_text(f"{file}: {_runs(count)}")


def sync_runs(runs: Runs = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Read every run directory again, also those that look unchanged, into the index results.db."""
    from deepgcn_cli.display import print_json, print_text
    from pipelines.runs.index import FILE, sync

    folder = runs or TrainConfig.runs
    count = sync(folder, Later(quiet=quiet))
    index = folder / FILE if folder.is_dir() else None
    if as_json:
        return print_json({"runs": count, "index": index})
    print_text(f"{index}: {_runs(count)}" if index else f"{folder}: no such folder, so no runs")


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"

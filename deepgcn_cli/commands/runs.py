"""`deepgcn runs`: what was trained, with which result.

`list` has to answer at once however many runs there are, so nothing heavy is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgcn_cli.display import MEANS, percent, print_json, print_table, print_text
from deepgcn_cli.options import RUNS, Json, Quiet, Runs, option_of, subcommand
from deepgcn_cli.progress import clock_time, open_progress
from pipelines.config import PROTOCOLS, TrainConfig
from pipelines.config.options import COUNT
from pipelines.errors import RunError, command
from pipelines.serialization import to_plain

if TYPE_CHECKING:
    from pipelines.reports.comparison import Difference
    from pipelines.runs.directory import Run

RunName = Annotated[Path, typer.Argument(metavar="RUN", help="The run's name or folder.")]
Sort = Annotated[
    str | None,
    option_of("Order by these columns; -miou: the best first.", "--sort", "COLUMNS", "created"),
]
Where = Annotated[
    str | None,
    option_of('Only runs that fulfil this, as "arch=resgcn and miou>0.4".', "--where", "CONDITION"),
]
# The columns of the index that the usual table shows, and its titles.
COLUMNS = (
    *("name", "state", "arch", "depth", "conv", "width", "k", "test_area", "epoch", "step"),
    *("val_miou", "room_oa", "room_miou", "tags", "error"),
)
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
    limit: Annotated[int | None, option_of("So many runs at most.", "--limit", "N")] = None,
    columns: Annotated[
        str | None, option_of("Show these columns of the index instead.", "--columns", "A,B,…")
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
        names = COLUMNS
    progress = open_progress(quiet=quiet)
    rows = query(runs, where=where, sort=sort, limit=limit, columns=names, progress=progress)
    if as_json:
        return print_json([dict(zip(names, row, strict=True)) for row in rows])
    if not rows and where is not None:
        print_text(f"{runs}: no runs fulfil {where!r}.")
    elif not rows:
        print_text(f"{runs}: no runs yet. Start one: deepgcn train")
    elif columns is not None:
        _print_columns(names, rows)
    else:
        _print_runs(rows)


def _print_runs(rows: Sequence[tuple[Any, ...]]) -> None:
    """Print the usual table; the tags if there are any, and what is wrong with broken runs."""
    shown, errors = [], []
    for name, state, arch, depth, conv, width, k, area, epoch, step, *scores, tags, error in rows:
        network = "–" if arch is None else f"{arch}-{depth} {conv} C{width} k{k}"
        counts = map(_count, (area, epoch, step))
        shown.append((name, state, network, *counts, *map(percent, scores), tags or "–"))
        errors += [error] if error else []
    tagged = any(row[-1] != "–" for row in shown)
    titles = (*TITLES, "tags") if tagged else TITLES
    print_table(titles, [row[: len(titles)] for row in shown])
    for error in errors:
        print_text(error)
    print_text("Scores in percent; OA and mIoU under protocol room.")


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _print_columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    from pipelines.runs.query import SCORES as FRACTIONS

    show = [percent if name in FRACTIONS else _one_line for name in names]
    print_table(names, [[each(v) for each, v in zip(show, row, strict=True)] for row in rows])


def _one_line(value: Any) -> str:
    return "–" if value is None else " ".join(str(value).split())  # a note may have several


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
def show_run(run: RunName, runs: Runs = RUNS, as_json: Json = False) -> None:
    """Show one run: its network, state, machine and scores."""
    from pipelines.runs.annotations import read_note, read_tags
    from pipelines.runs.directory import named_run

    found = named_run(run, runs)
    scores = ((name, found.scores(name)) for name in PROTOCOLS)
    summary = {
        "run": str(found.path),
        "status": {**found.status, "state": found.state},
        "config": to_plain(found.config),
        "environment": found.environment,
        "tags": read_tags(found.path),
        "note": read_note(found.path),
        "scores": {name: values for name, values in scores if values},
    }
    if as_json:
        return print_json(summary)
    print_table(("what", "value"), list(_described(found.config, summary)))


def _described(config: TrainConfig, summary: dict[str, Any]) -> Iterator[tuple[str, str]]:

    status, environment = summary["status"], summary["environment"]
    yield "run", summary["run"]
    yield "state", status["state"]
    if status.get("error"):
        yield "error", str(status["error"])
    if summary["tags"]:
        yield "tags", ", ".join(summary["tags"])
    if summary["note"]:
        yield "note", " ".join(summary["note"].split())
    yield "network", config.model.label
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
    for protocol, values in summary["scores"].items():
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
        str, option_of("Protocol to compare under.", "--protocol", "NAME", PROTOCOLS[0])
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
        means = ({key: each[key] for _, key in MEANS} for each in values)
        scores = dict(zip((run.name for run in found), means, strict=True))
        compared = {"protocol": protocol, "settings": settings, "differences": differences}
        return print_json({**compared, "scores": scores})
    names_found = [run.name for run in found]
    if settings:
        rows = [(name, *map(str, each)) for name, each in settings.items()]
        print_table(("setting", *names_found), rows)
        print_text("")
    _print_comparison(names_found, values, differences)


def _scores_under(run: Run, protocol: str) -> dict[str, Any]:
    values = run.scores(protocol)
    if values is None:
        raise RunError(
            f"{run.path}: found no scores under protocol {protocol}.\n"
            f"Score it first: {command('eval', run.path, '--protocol', protocol)}"
        )
    return values


def _print_comparison(
    names: list[str], values: list[dict[str, Any]], differences: list[Difference]
) -> None:
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


@subcommand("deepgcn runs tag mine other paper", "deepgcn runs tag mine paper --remove", name="tag")
def tag_runs(
    words: Annotated[
        list[str],
        typer.Argument(metavar="RUN… TAG", help="The runs' names or folders, then the tag."),
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Put a tag on runs, or take it away; list them with --where tag=TAG."""
    from pipelines.runs.annotations import add_tag, check_tag, read_tags, remove_tag
    from pipelines.runs.directory import named_run

    *names, tag = words
    if not names:
        raise typer.BadParameter(f"found only {tag!r}, expected runs and then a tag.")
    check_tag(tag)
    found = [named_run(Path(name), runs) for name in names]
    for run in found:
        (remove_tag if remove else add_tag)(run.path, tag)
    tags = {str(run.path): read_tags(run.path) for run in found}
    if as_json:
        return print_json(tags)
    for path, each in tags.items():
        print_text(f"{path}: {'tags ' + ', '.join(each) if each else 'no tags'}")


@subcommand(
    'deepgcn runs note mine "diverged after epoch 3"',
    "deepgcn runs note mine",
    'deepgcn runs note mine ""',
    name="note",
)
def note_run(
    run: RunName,
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help='The note; "" removes it, nothing shows it.'),
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Put a note on a run in place of the one that it has, or show it."""
    from pipelines.runs.annotations import read_note, write_note
    from pipelines.runs.directory import named_run

    found = named_run(run, runs)
    if text is not None:
        write_note(found.path, text)
    note = read_note(found.path)
    if as_json:
        return print_json({"run": found.path, "note": note})
    print_text(f"{found.path}: {note or 'no note'}")


@subcommand(
    "deepgcn runs rm mine other",
    'deepgcn runs rm --where "state=failed and created<2026-01-01" --yes',
    "deepgcn runs rm --empty-trash",
    name="rm",
)
def remove_runs(
    names: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN…]", help="The runs' names or folders.")
    ] = None,
    where: Where = None,
    empty: Annotated[
        bool, typer.Option("--empty-trash", help="Delete what is in the trash, for good.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, with --where and --empty-trash.")
    ] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Move runs to the trash, runs/.trash; `deepgcn runs restore` brings them back."""
    from pipelines.runs.annotations import discard

    if empty:
        if names or where is not None:
            raise typer.BadParameter("found runs with --empty-trash, expected one of the two.")
        return _empty(runs, yes=yes, as_json=as_json)
    if not names and where is None:
        raise typer.BadParameter("found no runs, expected names or --where.")
    found = _chosen(runs, names or [], where)
    if where is not None and found:
        shown = ", ".join(run.name for run in found[:10]) + (", …" if len(found) > 10 else "")
        _ask(f"{runs}: move {len(found)} to the trash: {shown}?", yes=yes)
    moved = {str(run.path): str(path) for run, path in zip(found, discard(found), strict=True)}
    if as_json:
        return print_json(moved)
    if not moved:
        print_text(f"{runs}: no runs fulfil {where!r}.")
    for source, target in moved.items():
        print_text(f"{source} → {target}")


def _chosen(folder: Path, names: list[Path], where: str | None) -> list[Run]:
    """Return the runs that are named or fulfil the condition, each once."""
    from pipelines.runs.directory import Run, named_run
    from pipelines.runs.index import query

    found = [named_run(name, folder) for name in names]
    if where is not None:
        lines = query(folder, where=where, columns=("name",), progress=open_progress())
        found += [Run(folder / name) for (name,) in lines]
    return list({run.path.resolve(): run for run in found}.values())


def _empty(folder: Path, *, yes: bool, as_json: bool) -> None:
    from pipelines.runs.annotations import discarded, empty_trash
    from pipelines.runs.directory import TRASH

    names = discarded(folder)
    if names:
        _ask(f"{folder / TRASH}: delete {len(names)} for good: {', '.join(names[:10])}?", yes=yes)
        names = empty_trash(folder, open_progress())
    if as_json:
        return print_json(names)
    print_text(f"{folder / TRASH}: deleted {len(names)}" if names else f"{folder / TRASH}: empty")


def _ask(question: str, *, yes: bool) -> None:
    """Go on only if the person agrees; without a terminal nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} There is nobody to ask here; add --yes.")
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(1)


@subcommand("deepgcn runs restore mine", name="restore")
def restore_runs(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="The runs' names in the trash.")
    ],
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Bring runs back from the trash."""
    from pipelines.runs.annotations import restore

    found = [restore(runs, name) for name in names]
    if as_json:
        return print_json([run.path for run in found])
    for run in found:
        print_text(f"{run.path}: back, {run.state}")

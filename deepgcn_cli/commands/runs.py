"""`deepgcn runs`: what was trained, with which result.

`list` has to answer at once however many runs there are, so nothing heavy is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from deepgcn_cli.display import MEANS, Answer, Table, percent
from deepgcn_cli.options import RUNS, subcommand
from deepgcn_cli.progress import clock_time, open_progress
from deepgcn_cli.streams import show
from pipelines.config import PROTOCOLS, TrainConfig
from pipelines.config.model import sharing
from pipelines.config.options import COUNT, option
from pipelines.errors import RunError, command
from pipelines.progress import Progress, counted
from pipelines.runs import annotations as marks
from pipelines.runs import index
from pipelines.runs.directory import CONFIG, TRASH, Run, named_run
from pipelines.runs.query import SCORES, parse_columns
from pipelines.serialization import to_plain

if TYPE_CHECKING:
    from pipelines.reports.comparison import Difference

RUN = option(MISSING, "The run's name or folder.", "RUN", flag="")
SORT = option(None, "Order by these columns; -miou: the best first. [default: created]", "COLUMNS")
WHERE = option(None, 'Only runs that fulfil this, as "arch=resgcn and miou>0.4".', "CONDITION")
COUNTS, PERCENT = ("test_area", "epoch", "step"), ("val_miou", "room_oa", "room_miou")
SCORED = ("votes", "seed", "checkpoint")  # how scores were made; different ones are shown
# The columns of the usual table: these counts and scores, and the tags where there are any.
TITLES = ("run", "state", "network", "area", "epoch", "step", "val mIoU", "OA", "mIoU", "tags")


@subcommand(
    "deepgcn runs list",
    'deepgcn runs list --where "arch=resgcn and miou>0.4" --sort -miou',
    "deepgcn runs list --columns name,lr,seed,miou --limit 10",
    "deepgcn runs list --json",
    name="list",
)
def list_runs(
    *,
    where: str | None = WHERE,
    sort: str | None = SORT,
    limit: int | None = option(None, "So many runs at most."),
    columns: str | None = option(None, "Show these columns of the index instead.", "A,B,…"),
    runs: Path = RUNS,
    progress: Progress,
) -> Answer:
    """List runs, oldest first, with their scores.

    A condition compares columns of the index with = != < <= > >= or ~ (contains), joined by and,
    or, not and parentheses: "tag=paper and not (miou<40% or state=failed)".
    """
    if limit is not None:
        COUNT.check("--limit", limit)
        limit = min(limit, sys.maxsize)  # SQLite takes no more
    names = parse_columns(columns.split(",") if columns is not None else None)
    rows = index.query(runs, where=where, sort=sort, limit=limit, columns=names, progress=progress)
    found = [dict(zip(names, row, strict=True)) for row in rows]
    if not found and where is not None:
        return Answer(found, [f"{runs}: no runs fulfil {where!r}."])
    if not found:
        return Answer(found, [f"{runs}: no runs yet. Start one: deepgcn train"])
    if columns is None:
        return Answer(found, _usual_table(found))
    cells = [[_cell(name, value) for name, value in run.items()] for run in found]
    return Answer(found, [Table(names, cells)])


def _usual_table(runs: list[dict[str, Any]]) -> Iterator[str | Table]:
    """Yield the table, and what is wrong with broken runs."""
    rows = []
    for run in runs:
        network = "–"
        if run["arch"] is not None:
            network = "{arch}-{depth} {conv} C{width} k{k}".format_map(run)
            graphs = ("depth", "knn", "knn_every", "knn_until", "spatial")
            shared = sharing(*(run[name] for name in graphs))
            network += shared and f", {shared}"
        counts = (_count(run[name]) for name in COUNTS)
        scores = (percent(run[name]) for name in PERCENT)
        rows.append((run["name"], run["state"], network, *counts, *scores, run["tags"] or "–"))
    titles = TITLES if any(run["tags"] for run in runs) else TITLES[:-1]
    yield Table(titles, [row[: len(titles)] for row in rows])
    yield from (run["error"] for run in runs if run["error"])
    yield "Scores in percent; OA and mIoU under protocol room."


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _cell(column: str, value: Any) -> str:
    if column in SCORES:
        return percent(value)
    return "–" if value is None else " ".join(str(value).split())  # a note may have several lines


@subcommand(
    "deepgcn runs export runs.csv",
    'deepgcn runs export best.parquet --where "miou>0.4" --sort -miou',
)
def export(
    *,
    file: Path = option(MISSING, "The .csv or .parquet file.", "FILE", flag=""),
    where: str | None = WHERE,
    sort: str | None = SORT,
    runs: Path = RUNS,
    progress: Progress,
) -> Answer:
    """Write runs with all their columns to a CSV or Parquet file; scores are from 0 to 1."""
    count = index.export_runs(file, runs, where=where, sort=sort, progress=progress)
    return Answer({"file": file, "runs": count}, [f"{file}: {counted(count, 'run')}"])


@subcommand("deepgcn runs sync", name="sync")
def sync_runs(*, runs: Path = RUNS, progress: Progress) -> Answer:
    """Read every run directory again, also those that look unchanged, into the index results.db."""
    count = index.sync(runs, progress)
    file = runs / index.FILE if runs.is_dir() else None
    text = counted(count, "run") if file else "found no such folder, so no runs"
    return Answer({"runs": count, "index": file}, [f"{file or runs}: {text}"])


@subcommand("deepgcn runs show runs/mine", name="show")
def show_run(run: Path = RUN, runs: Path = RUNS) -> Answer:
    """Show one run: its network, state, machine and scores."""
    found = named_run(run, runs)
    scores = ((name, found.scores(name, whole=True)) for name in PROTOCOLS)
    summary = {
        "run": str(found.path),
        "status": {**found.status, "state": found.state},
        "config": to_plain(found.config),
        "environment": found.environment,
        "tags": marks.read_tags(found.path),
        "note": marks.read_note(found.path),
        "scores": {name: values for name, values in scores if values},
    }
    scored = ((found, values) for values in summary["scores"].values())
    summary["earlier"] = _of_earlier(scored)
    table = Table(("what", "value"), [*_described(found.config, summary)])
    return Answer(summary, [table, *summary["earlier"]])


def _described(config: TrainConfig, summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    status, environment = summary["status"], summary["environment"]
    yield "run", summary["run"]
    yield "state", status["state"]
    noted = (status.get("error"), ", ".join(summary["tags"]), summary["note"])
    for name, text in zip(("error", "tags", "note"), noted, strict=True):
        if text:
            yield name, " ".join(text.split())
    yield "network", config.label
    yield "test area", _count(config.test_area)
    yield "recipe", f"{config.recipe_text}, batch {config.batch_size} × {config.num_points} points"
    yield "seed", str(config.seed)
    yield "created", str(status.get("created", "–"))
    yield "steps", f"{_count(status.get('step'))} (epochs: {_count(status.get('epoch'))})"
    yield "time", clock_time(float(status.get("seconds") or 0))
    yield "validation mIoU", percent(status.get("best_miou"))
    yield "hardware", str(environment.get("gpu") or environment.get("cpu") or "–")
    yield "software", ", ".join(f"{k} {v}" for k, v in environment.get("packages", {}).items())
    yield "commit", str(environment.get("commit") or "–")
    yield "data", config.data_text
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
    names: tuple[Path, ...] = option(
        MISSING, "Two or more runs; the first is the base.", "RUN…", flag=""
    ),
    protocol: str = option(PROTOCOLS[0], "Protocol to compare under."),
    runs: Path = RUNS,
) -> Answer:
    """Compare runs: settings, scores per class, and an interval on the mIoU's difference."""
    if len(names) < 2:
        raise typer.BadParameter("found one run, expected two or more to compare.")

    from pipelines.reports.comparison import compare_scores
    from pipelines.runs.resume import different_settings

    found = [named_run(name, runs) for name in names]
    values = [_scores_under(run, protocol) for run in found]
    titles = [run.name for run in found]
    if len({*titles}) < len(titles):  # of several folders
        titles = [str(run.path) for run in found]
    settings = different_settings([to_plain(run.config) for run in found])
    for name in SCORED:
        if len({each.get(name) for each in values}) > 1:
            settings[f"{name} of the scores"] = [each.get(name) for each in values]
    differences = compare_scores(titles, values, [run.path for run in found])
    means = ({key: each[key] for _, key in MEANS} for each in values)
    compared = {"protocol": protocol, "settings": settings, "differences": differences}
    scores = dict(zip(titles, means, strict=True))
    parts = _comparison(titles, settings, values, differences)
    earlier = _of_earlier(zip(found, values, strict=True))
    return Answer({**compared, "scores": scores, "earlier": earlier}, [*parts, *earlier])


def _scores_under(run: Run, protocol: str) -> dict[str, Any]:
    values = run.scores(protocol, whole=True)
    if values is None:
        raise RunError(
            f"{run.path}: found no scores under protocol {protocol}.\n"
            f"Score it first: {command('eval', run.path, '--protocol', protocol)}"
        )
    return values


def _of_earlier(scored: Iterable[tuple[Run, dict[str, Any]]]) -> list[str]:
    """Return a caution for each run and scores that are of weights which it has no longer."""
    from pipelines.files import sha256_of

    cautions = []
    for run, values in scored:
        weights = [*(values.get("weights") or ())]  # earlier versions did not say which
        path = run.checkpoint_path(str(values.get("checkpoint")))
        if weights and path.is_file() and sha256_of(path) != weights[0].get("sha256"):
            named = [n for n in ("protocol", *SCORED) if n in values]
            how = [word for n in named for word in (f"--{n}", values[n])]
            again = command("eval", run.path, *how)
            cautions.append(f"{run.path}: these scores are of earlier weights. Again: {again}")
    return cautions


def _comparison(
    names: list[str],
    settings: dict[str, list[Any]],
    values: list[dict[str, Any]],
    differences: list[Difference],
) -> Iterator[str | Table]:
    """Yield other settings, the scores, each run's difference to the first one's, intervals."""
    from pipelines.reports.comparison import few_rooms

    if settings:
        lines = [(name, *map(str, each)) for name, each in settings.items()]
        yield Table(("setting", *names), lines)
        yield ""
    changes = [f"− {names[0]}: {each.name}" for each in differences]
    rows = []
    for title, key in MEANS:
        deltas = (_signed(each[key] - values[0][key]) for each in values[1:])
        rows.append((title, *(percent(each[key]) for each in values), *deltas))
    for number, name in enumerate(values[0]["classes"]):
        shown = (percent(each["iou"][number]) for each in values)
        rows.append((f"IoU {name}", *shown, *(_signed(each.iou[number]) for each in differences)))
    yield Table(("in %", *names, *changes), rows)
    rooms = len(values[0]["rooms"])
    for each in differences:
        yield (
            f"{each.name} − {names[0]}: mIoU {_signed(each.miou)} points, 95 % of bootstrap draws "
            f"over the {counted(rooms, 'room')} within {_signed(each.low)} … {_signed(each.high)}"
        )
    yield from few_rooms(rooms)


def _signed(difference: float | None) -> str:
    return "–" if difference is None else f"{100 * difference:+.2f}"


@subcommand("deepgcn runs tag mine other paper", "deepgcn runs tag mine paper --remove", name="tag")
def tag_runs(
    words: tuple[str, ...] = option(
        MISSING, "The runs' names or folders, then the tag.", "RUN… TAG", flag=""
    ),
    remove: bool = option(False, "Take the tag away."),
    runs: Path = RUNS,
) -> Answer:
    """Put a tag on runs, or take it away; list them with --where tag=TAG."""
    *names, tag = words
    if not names:
        raise typer.BadParameter(f"found only {tag!r}, expected runs and then a tag.")
    marks.check_tag(tag)
    change = marks.remove_tag if remove else marks.add_tag
    found = [named_run(Path(name), runs) for name in names]
    for run in found:
        change(run.path, tag)
    tags = {str(run.path): marks.read_tags(run.path) for run in found}
    shown = {path: f"tags {', '.join(each)}" if each else "no tags" for path, each in tags.items()}
    return Answer(tags, [f"{path}: {text}" for path, text in shown.items()])


@subcommand(
    'deepgcn runs note mine "diverged after epoch 3"',
    "deepgcn runs note mine",
    'deepgcn runs note mine ""',
    name="note",
)
def note_run(
    run: Path = RUN,
    text: str | None = option(
        None, 'The note; "" removes it, nothing shows it.', "[TEXT]", flag=""
    ),
    runs: Path = RUNS,
) -> Answer:
    """Put a note on a run in place of the one that it has, or show it."""
    path = named_run(run, runs).path
    if text is not None:
        marks.write_note(path, text)
    note = marks.read_note(path)
    return Answer({"run": path, "note": note}, [f"{path}: {note or 'no note'}"])


@subcommand(
    "deepgcn runs rm mine other",
    'deepgcn runs rm --where "state=failed and created<2026-01-01" --yes',
    "deepgcn runs rm --empty-trash",
    name="rm",
)
def remove_runs(
    names: tuple[Path, ...] = option((), "The runs' names or folders.", "[RUN…]", flag=""),
    where: str | None = WHERE,
    empty_trash: bool = option(False, "Delete what is in the trash, for good."),
    yes: bool = option(False, "Do not ask, with --where and --empty-trash.", flag="--yes -y"),
    runs: Path = RUNS,
) -> Answer:
    """Move runs to the trash, runs/.trash; `deepgcn runs restore` brings them back."""
    if empty_trash:
        if names or where is not None:
            raise typer.BadParameter("found runs with --empty-trash, expected one of the two.")
        return _empty(runs, yes=yes)
    if not names and where is None:
        raise typer.BadParameter("found no runs, expected names or --where.")
    left = [name for name in names if not _is_in_trash(name, runs)]
    chosen = [named_run(name, runs) for name in left or names]
    if where is not None:
        lines = index.query(runs, where=where, columns=("name",), progress=open_progress())
        chosen += [Run(runs / name) for (name,) in lines]
    found = list({run.path.resolve(): run for run in chosen}.values())  # each once
    if where is not None and found:
        shown = ", ".join(run.name for run in found[:10]) + (", …" if len(found) > 10 else "")
        _ask(f"{runs}: move {len(found)} to the trash: {shown}?", yes=yes)
    targets = marks.discard(found)
    moved = {str(run.path): str(path) for run, path in zip(found, targets, strict=True)}
    if not moved:
        return Answer(moved, [f"{runs}: no runs fulfil {where!r}."])
    before = [f"{name}: was in the trash" for name in names if left and name not in left]
    return Answer(moved, [*before, *(f"{source} → {target}" for source, target in moved.items())])


def _is_in_trash(name: Path, runs: Path) -> bool:
    """Return whether an `rm` that was stopped before it had moved all runs has moved this one."""
    there = (runs / name / CONFIG).is_file() or (name / CONFIG).is_file()
    return not there and (runs / TRASH / name.name / CONFIG).is_file()


def _empty(folder: Path, *, yes: bool) -> Answer:
    trash, names = folder / TRASH, marks.discarded(folder)
    if not names:
        return Answer([], [f"{trash}: empty"])
    _ask(f"{trash}: delete {len(names)} for good: {', '.join(names[:10])}?", yes=yes)
    names = marks.empty_trash(folder, open_progress())
    return Answer(names, [f"{trash}: deleted {len(names)}" if names else f"{trash}: empty"])


def _ask(question: str, *, yes: bool) -> None:
    """Ask the user to agree, or exit; without a terminal raise an error."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} There is no terminal to answer on; add --yes.")
    show(f"{question} [y/N] ", error=True, end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        show("Nothing was changed.", error=True)
        raise typer.Exit(1)


@subcommand("deepgcn runs restore mine", name="restore")
def restore_runs(
    names: tuple[str, ...] = option(MISSING, "The runs' names in the trash.", "RUN…", flag=""),
    runs: Path = RUNS,
) -> Answer:
    """Bring runs back from the trash."""
    found = [marks.restore(runs, name) for name in names]
    texts = [f"{run.path}: back, {run.state_or_broken}" for run in found]
    return Answer([run.path for run in found], texts)

"""`deepgcn runs`: what was trained, with which result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.config import TrainConfig

from .options import Json, Runs, examples

if TYPE_CHECKING:
    from pipelines.results.runs import Run

SHOWN_SCORES = (("OA", "oa"), ("mAcc", "macc"), ("mIoU", "miou"))


def register(app: typer.Typer) -> None:
    """Add the group to the app."""
    group = typer.Typer(
        help="List runs and show one.",
        rich_markup_mode=None,
        epilog=examples("deepgcn runs list", "deepgcn runs show runs/mine"),
    )
    group.callback(invoke_without_command=True)(runs_group)
    group.command("list", epilog=examples("deepgcn runs list", "deepgcn runs list --json"))(
        list_runs
    )
    group.command("show", epilog=examples("deepgcn runs show runs/mine"))(show_run)
    app.add_typer(group, name="runs")


def runs_group(context: typer.Context) -> None:
    """List runs and show one."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def list_runs(runs: Runs = None, as_json: Json = False) -> None:
    """List all runs, oldest first, with their scores."""
    from pipelines.results.index import sync

    from .display import percent, print_json, print_table, print_text

    folder = runs or TrainConfig.runs
    found = sync(folder)
    # pandas turns None into NaN in columns of numbers
    records = found.astype(object).where(found.notna(), None).to_dict("records")
    if as_json:
        return print_json(records)
    if not records:
        return print_text(f"{folder}: no runs yet. Start one: deepgcn train")
    columns = ("run", "state", "network", "area", "epoch", "step", "val mIoU", "OA", "mIoU")
    rows = [
        (
            record["name"],
            record["state"],
            _network(record),
            *(_shown(record[name]) for name in ("test_area", "epoch", "step")),
            *(percent(record[name]) for name in ("val_miou", "room_oa", "room_miou")),
        )
        for record in records
    ]
    print_table(columns, rows)
    for record in records:
        if record["error"]:
            print_text(record["error"])
    print_text("Scores in percent; OA and mIoU under protocol room.")


def _network(record: dict[str, Any]) -> str:
    if record["arch"] is None:
        return "–"
    return f"{record['arch']}-{record['depth']} {record['conv']} C{record['width']} k{record['k']}"


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"


def show_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's name or folder.")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Show one run: its network, state, machine and scores."""
    from pipelines.config import PROTOCOLS, to_plain
    from pipelines.results.runs import open_run

    from .display import print_json, print_table

    inside = (runs or TrainConfig.runs) / run
    found = open_run(inside if inside.is_dir() or not run.is_dir() else run)
    scores = {name: found.scores(name) for name in PROTOCOLS}
    facts = {
        "run": str(found.path),
        "status": {**found.status, "state": found.state},
        "config": to_plain(found.config),
        "environment": found.environment,
        "scores": {name: values for name, values in scores.items() if values},
    }
    if as_json:
        return print_json(facts)
    print_table(("what", "value"), [*_described(found), *_scored(facts["scores"])])


def _described(run: Run) -> Iterator[tuple[str, str]]:
    """Yield what a person wants to know of a run, by name."""
    from pipelines.model.weights import describe

    from .display import percent
    from .progress import clock_time

    config, status, environment = run.config, run.status, run.environment
    yield "run", str(run.path)
    yield "state", run.state
    if status.get("error"):
        yield "error", str(status["error"])
    yield "network", describe(config.model)
    yield "test area", _shown(config.test_area)
    yield "recipe", f"{config.recipe}, batch {config.batch_size} × {config.num_points} points"
    yield "seed", str(config.seed)
    yield "created", str(status.get("created", "–"))
    yield "steps", f"{_shown(status.get('step'))} ({_shown(status.get('epoch'))} epochs)"
    yield "time", clock_time(float(status.get("seconds") or 0))
    yield "validation mIoU", percent(status.get("best_miou"))
    yield "hardware", str(environment.get("gpu") or environment.get("cpu") or "–")
    yield "software", ", ".join(f"{k} {v}" for k, v in environment.get("packages", {}).items())
    yield "commit", str(environment.get("commit") or "–")
    yield "data", str(config.data)


def _scored(scores: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the scores under each protocol."""
    from .display import percent

    for protocol, values in scores.items():
        shown = (f"{name} {percent(values[key])}" for name, key in SHOWN_SCORES)
        yield f"protocol {protocol}", ", ".join(shown)
        for name, iou in zip(values["classes"], values["iou"], strict=True):
            yield f"  IoU {name}", percent(iou)

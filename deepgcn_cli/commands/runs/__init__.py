"""`deepgcn runs`: what was trained, with which result; here the group, `show` and `compare`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgcn_cli.options import Json, Runs, examples, option
from pipelines.config import EvalConfig, TrainConfig
from pipelines.errors import RunError, command

from . import edit, listing

if TYPE_CHECKING:
    from pipelines.reports.comparison import Difference
    from pipelines.runs.directory import Run

SHOWN_SCORES = (("OA", "oa"), ("mAcc", "macc"), ("mIoU", "miou"))


def register(app: typer.Typer) -> None:
    """Add the group to the app."""
    group = typer.Typer(
        help="List runs, show one, compare several.",
        rich_markup_mode=None,
        epilog=examples(
            "deepgcn runs list", "deepgcn runs show runs/mine", "deepgcn runs compare mine other"
        ),
    )
    group.callback(invoke_without_command=True)(runs_group)
    listing.register(group)
    group.command("show", epilog=examples("deepgcn runs show runs/mine"))(show_run)
    group.command(
        "compare",
        epilog=examples(
            "deepgcn runs compare mine other", "deepgcn runs compare a b c --protocol block-s1"
        ),
    )(compare_runs)
    edit.register(group)
    app.add_typer(group, name="runs")


def runs_group(context: typer.Context) -> None:
    """List runs, show one, compare several."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"


def show_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's name or folder.")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Show one run: its network, state, machine and scores."""
    from deepgcn_cli.display import print_json, print_table
    from pipelines.config import PROTOCOLS
    from pipelines.runs.annotations import read_note, read_tags
    from pipelines.serialization import to_plain

    found = _opened(run, runs)
    scores = {name: found.scores(name) for name in PROTOCOLS}
    facts = {
        "run": str(found.path),
        "status": {**found.status, "state": found.state},
        "config": to_plain(found.config),
        "environment": found.environment,
        "tags": read_tags(found.path),
        "note": read_note(found.path),
        "scores": {name: values for name, values in scores.items() if values},
    }
    if as_json:
        return print_json(facts)
    print_table(("what", "value"), [*_described(found), *_scored(facts["scores"])])


def _described(run: Run) -> Iterator[tuple[str, str]]:
    """Yield what a person wants to know of a run, by name."""
    from deepgcn_cli.display import percent
    from deepgcn_cli.progress import clock_time
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
    yield "test area", _shown(config.test_area)
    yield "recipe", f"{config.recipe_text}, batch {config.batch_size} × {config.num_points} points"
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
    from deepgcn_cli.display import percent

    for protocol, values in scores.items():
        shown = (f"{name} {percent(values[key])}" for name, key in SHOWN_SCORES)
        yield f"protocol {protocol}", ", ".join(shown)
        for name, iou in zip(values["classes"], values["iou"], strict=True):
            yield f"  IoU {name}", percent(iou)


def compare_runs(
    names: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Two or more runs; the first is the base.")
    ],
    protocol: Annotated[
        str | None,
        option("Protocol to compare under.", default=EvalConfig.protocols[0], metavar="NAME"),
    ] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Compare runs: settings, scores per class, and an interval on the mIoU's difference."""
    if len(names) < 2:
        raise typer.BadParameter("found one run, expected two or more to compare.")

    from deepgcn_cli.display import print_json
    from pipelines.reports.comparison import compare_scores, different_settings
    from pipelines.serialization import to_plain

    protocol = protocol or EvalConfig.protocols[0]
    found = [_opened(name, runs) for name in names]
    values = [_scores_under(run, protocol) for run in found]
    settings = different_settings([to_plain(run.config) for run in found])
    differences = compare_scores([run.name for run in found], values)
    if as_json:
        scores = {run.name: each for run, each in zip(found, values, strict=True)}
        facts = {"protocol": protocol, "settings": settings, "differences": differences}
        means = {name: {key: each[key] for _, key in SHOWN_SCORES} for name, each in scores.items()}
        return print_json({**facts, "scores": means})
    _print_comparison([run.name for run in found], values, settings, differences)


def _opened(name: Path, runs: Path | None) -> Run:
    from pipelines.runs.directory import named_run

    return named_run(name, runs or TrainConfig.runs)


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
    from deepgcn_cli.display import percent, print_table, print_text

    if settings:
        rows = [(name, *map(str, each)) for name, each in settings.items()]
        print_table(("setting", *names), rows)
        print_text("")
    changes = [f"− {names[0]}: {each.name}" for each in differences]
    rows = []
    for title, key in SHOWN_SCORES:
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

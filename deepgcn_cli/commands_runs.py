"""`deepgcn runs`: what was trained, with which result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Runs, examples


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


def show_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's name or folder.")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Show one run: its network, state, machine and scores."""

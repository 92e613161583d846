"""The app: every command, in the order in which a person needs them."""

from __future__ import annotations

from typing import Annotated

import typer

from .commands import ablate as commands_ablate
from .commands import apply as commands_apply
from .commands import bench as commands_bench
from .commands import data as commands_data
from .commands import demo
from .commands import presets as commands_machine
from .commands import runs as commands_runs
from .commands import train as commands_train
from .commands import weights as commands_weights
from .options import examples

app = typer.Typer(
    name="deepgcn",
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich would double the time to show it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("deepgcn demo", "deepgcn COMMAND --help"),
)
# What typer raises for wrong usage; its own name for it differs between versions.
usage_error: type[Exception] = typer.BadParameter.__bases__[0]


def version() -> str:
    """Return the version of the installed package."""
    from importlib import metadata

    return metadata.version("deepgcn")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deepgcn {version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def deepgcn(
    context: typer.Context,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Semantic segmentation of 3-D scans with very deep graph convolutional networks.

    From raw S3DIS rooms to labelled scans: prepare, train, eval, predict. Each command goes on
    where an earlier one was stopped, and each takes what the one before it left.
    """
    if context.invoked_subcommand is None and not show_version:
        typer.echo(context.get_help())


PARTS = (
    demo,
    commands_data,
    commands_train,
    commands_apply,
    commands_ablate,
    commands_runs,
    commands_weights,
    commands_machine,
    commands_bench,
)
for part in PARTS:
    part.register(app)

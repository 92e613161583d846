"""The app: every command, in the order in which a person needs them."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from deepgcn_cli.options import Command, show_examples

from . import ablate, bench, demo, doctor, evaluate, predict, prepare, runs, synth, train, weights

# In the order in which a person needs them.
COMMANDS: tuple[Command, ...] = (
    *(demo.demo, synth.synth, prepare.prepare, train.train, evaluate.evaluate, predict.predict),
    *(ablate.ablate, ablate.ablate_job, doctor.presets, doctor.doctor, bench.bench),
)
app = typer.Typer(
    name="deepgcn",
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich would double the time to show it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=show_examples("deepgcn demo", "deepgcn COMMAND --help"),
)
# What typer raises for wrong usage; its own name for it differs between versions.
usage_error: type[Exception] = typer.BadParameter.__bases__[0]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deepgcn {metadata.version('deepgcn')}")
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


for command in COMMANDS:
    command.add_to(app)
runs.add_runs(app)
weights.add_weights(app)

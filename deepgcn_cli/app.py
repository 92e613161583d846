"""The app: every command, in the order in which a person needs them."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from .commands.ablate import ablate, ablate_job
from .commands.bench import bench
from .commands.demo import demo
from .commands.doctor import doctor, presets
from .commands.evaluate import evaluate
from .commands.predict import predict
from .commands.prepare import prepare
from .commands.runs import add_runs
from .commands.synth import synth
from .commands.train import train
from .commands.weights import add_weights
from .options import show_examples

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


for each in (demo, synth, prepare, train, evaluate, predict, ablate, ablate_job):
    each.add_to(app)
add_runs(app)
add_weights(app)
for each in (presets, doctor, bench):
    each.add_to(app)

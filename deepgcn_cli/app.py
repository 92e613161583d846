"""The app: every command, in the order in which a user needs them."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any

import typer

from .commands import runs, weights
from .commands.ablate import ablate, ablate_job
from .commands.bench import bench
from .commands.demo import demo
from .commands.doctor import doctor, presets
from .commands.evaluate import evaluate
from .commands.plan import plan
from .commands.stages import predict, prepare, synth
from .commands.train import train
from .options import Command, show_examples
from .streams import show

COMMANDS = (
    *(demo, synth, prepare, plan, train, evaluate, predict),
    *(ablate, ablate_job, presets, doctor, bench),
)
RUNS_COMMANDS = (
    *(runs.list_runs, runs.export, runs.sync_runs, runs.show_run, runs.compare_runs),
    *(runs.tag_runs, runs.note_run, runs.remove_runs, runs.restore_runs),
)
WEIGHTS_COMMANDS = (
    *(weights.list_weights, weights.get_weights),
    *(weights.import_file, weights.export_file, weights.inspect_file),
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


def run_command(arguments: list[str]) -> int:
    """Run the command that was typed and return the exit code; only usage errors are shown here."""
    try:
        code = app(arguments, prog_name="deepgcn", standalone_mode=False)
    except usage_error as error:
        show(_describe(error), error=True)
        return 2
    if code == 130:  # how typer passes a KeyboardInterrupt on
        raise KeyboardInterrupt
    return int(code or 0)


def _describe(error: Any) -> str:
    close = getattr(error, "possibilities", None)
    ours = getattr(error, "param", error) is None  # a command raised it, about no single option
    message = error.message if close or ours else error.format_message()
    if close:
        message += f". Did you mean {' or '.join(sorted(close))}?"
    command = error.ctx.command_path if error.ctx else "deepgcn"
    return f"{command}: {message}\nHelp: {command} --help"


def _print_version(wanted: bool) -> None:
    if wanted:
        show(f"deepgcn {metadata.version('deepgcn')}")
        raise typer.Exit


def _show_help(context: typer.Context) -> None:
    """Show the help of the app or a group that was called without a command."""
    if context.invoked_subcommand is None:
        show(context.get_help())


@app.callback(invoke_without_command=True)
def deepgcn(
    context: typer.Context,
    show_version: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Semantic segmentation of 3-D scans with very deep graph convolutional networks.

    From raw S3DIS rooms to labelled scans: prepare, train, eval, predict. Each command takes the
    results of the one before, and continues where it was stopped.
    """
    _show_help(context)


def add_group(name: str, help: str, commands: tuple[Command, ...], *examples: str) -> None:
    """Add a group of commands to the app."""
    group = typer.Typer(help=help, rich_markup_mode=None, epilog=show_examples(*examples))
    group.callback(invoke_without_command=True, help=help)(_show_help)
    for add_to in commands:
        add_to(group)
    app.add_typer(group, name=name)


for add_to in COMMANDS:
    add_to(app)
add_group(
    "runs",
    "List runs, show one, compare several.",
    RUNS_COMMANDS,
    "deepgcn runs list",
    "deepgcn runs show runs/mine",
    "deepgcn runs compare mine other",
)
add_group(
    "weights",
    "List weights by name, import published ones, export yours, inspect a file.",
    WEIGHTS_COMMANDS,
    "deepgcn weights list",
    "deepgcn weights import model.pth --out model.safetensors",
    "deepgcn weights inspect model.safetensors",
)

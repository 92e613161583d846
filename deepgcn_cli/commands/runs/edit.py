"""`deepgcn runs tag`, `note`, `rm` and `restore`: what people do to runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepgcn_cli.display import print_json, print_text
from deepgcn_cli.options import RUNS, Json, Runs, Where, subcommand
from deepgcn_cli.progress import open_progress

if TYPE_CHECKING:
    from pipelines.runs.directory import Run


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
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's name or folder.")],
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
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        sys.stderr.write("Nothing was changed.\n")
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

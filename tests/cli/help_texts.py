"""The help of every command as it is printed; `python -m tests.cli.help_texts` writes it anew."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from deepgcn_cli.__main__ import run
from deepgcn_cli.app import app

FOLDER = Path(__file__).parent / "help"
ROOT = typer.main.get_command(app)


def commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command and group."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


def help_text(path: tuple[str, ...]) -> str:
    """Return what `deepgcn PATH --help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run([*path, "--help"]) == 0
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines()) + "\n"


def snapshot(path: tuple[str, ...]) -> Path:
    """Return the file that holds the help of a command."""
    return FOLDER / f"{'-'.join(('deepgcn', *path))}.txt"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for path in commands():
        snapshot(path).write_text(help_text(path), encoding="utf-8")

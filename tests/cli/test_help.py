"""Help: every command has one, and every example in it can be typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from typer.models import OptionInfo

from deepgcn_cli.__main__ import run
from deepgcn_cli.app import app
from tests.cli.help_texts import FOLDER, ROOT, commands, help_text, snapshot


def find(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words begin with, and the words after it."""
    command = ROOT
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help_ends_with_examples_that_can_be_typed(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    _, found, examples = shown.out.rpartition("Examples:\n")
    assert found, "no examples"
    lines = [line.strip() for line in examples.strip().splitlines()]
    assert lines
    for line in lines:
        name, *words = shlex.split(line)
        assert name == "deepgcn"
        if "COMMAND" in words:
            continue
        command, rest = find(words)
        assert not getattr(command, "commands", None), f"{line}: no such command"
        command.make_context("deepgcn", list(rest))  # raises where it is not accepted


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help_is_the_reviewed_one(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change that is meant: `python -m tests.cli.help_texts`, and read the difference."""
    monkeypatch.setenv("COLUMNS", "80")
    assert help_text(path) == snapshot(path).read_text(encoding="utf-8")


def test_every_reviewed_help_is_of_a_command() -> None:
    assert {*FOLDER.iterdir()} == {snapshot(path) for path in commands()}


def callbacks(part: Any = app) -> Iterator[Any]:
    """Yield the function behind every command."""
    yield from (command.callback for command in part.registered_commands)
    for group in part.registered_groups:
        yield from callbacks(group.typer_instance)


def test_an_option_named_like_its_metavar_says_how_it_is_typed() -> None:
    """typer 0.27 takes such a metavar for the name, and does not know the option."""
    found = []
    for callback in callbacks():
        for name, kind in get_type_hints(callback, include_extras=True).items():
            for info in getattr(kind, "__metadata__", ()):
                if isinstance(info, OptionInfo) and info.metavar == name.upper():
                    found.append(name)
                    # typer keeps what comes first as a default until it builds the command.
                    typed = str(info.default)
                    assert typed.startswith("-"), f"{callback.__name__}: {name}"
    assert {"name", "run", "k"} <= set(found)


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help_fits_a_terminal_and_explains_every_option(path: tuple[str, ...]) -> None:
    command, _ = find(list(path))
    for parameter in command.params:
        if parameter.name not in ("help", "show_version"):
            assert getattr(parameter, "help", None), f"{parameter.name} has no help"


def test_help_names_the_commands_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    run([])
    shown = capsys.readouterr().out
    names = ["demo", "synth", "prepare", "train", "eval", "predict", "presets", "doctor"]
    places = [shown.index(f"\n  {name} ") for name in names]
    assert places == sorted(places)


def test_defaults_in_the_help_are_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.config import TrainConfig

    run(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"--num-points N Points drawn from a block. [default: {TrainConfig.num_points}]" in shown
    assert f"--epochs N Passes over the training blocks. [default: {TrainConfig.epochs}]" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("deepgcn 0.")

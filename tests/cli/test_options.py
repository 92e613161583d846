"""Options that follow from the fields of a configuration."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from deepgcn_cli.display import Answer, Table
from deepgcn_cli.options import Flags, subcommand
from pipelines.config.options import COUNT, option
from pipelines.progress import Progress


@dataclass(frozen=True)
class Tea:
    """A configuration of another program."""

    leaves: Path = option(MISSING, "What to brew.", "LEAVES", flag="")
    minutes: int = option(3, "How long.", within=COUNT)
    sugar: tuple[str, ...] = option((), "Kind, repeatable: {}.", choices=("white", "brown"))
    milk: bool = option(True, "Milk in it.")
    hot_water: float | None = option(None, "Litres. [default: as the pot]", commands=("brew",))
    cup: str = option("large", "Not of this command.", commands=("drink",))


def typed(*arguments: str, code: int = 0) -> tuple[Flags, str, str]:
    """Return the flags that `brew` or `serve` gets, and what they print on stdout and stderr."""
    found: dict[str, Any] = {}
    app = typer.Typer(rich_markup_mode=None)

    @subcommand("brew pot")
    def brew(flags: Annotated[Flags, Tea]) -> None:
        found.update(flags)

    @subcommand("serve pot", name="serve")
    def hand_over(tea: Tea, progress: Progress) -> Answer:
        progress.say("Pouring")
        parts = ["A pot.", Table(("leaves", "minutes"), [(str(tea.leaves), str(tea.minutes))])]
        return Answer(tea, parts, hint="Drink it.", failed=tea.minutes > 5)

    brew(app)
    hand_over(app)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return found, " ".join(result.stdout.split()), result.stderr


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["brew", "pot"], {"leaves": Path("pot")}),
        (
            ["brew", "pot", "--minutes", "4", "--no-milk"],
            {"leaves": Path("pot"), "minutes": 4, "milk": False},
        ),
        (
            ["brew", "pot", "--sugar", "white", "--sugar", "brown"],
            {"leaves": Path("pot"), "sugar": ("white", "brown")},
        ),
    ],
)
def test_a_command_gets_the_flags_that_were_given(arguments: list[str], flags: Flags) -> None:
    assert typed(*arguments)[0] == flags


def test_an_answer_is_printed_for_people_or_as_json() -> None:
    _, shown, said = typed("serve", "pot", "--minutes", "4")
    assert shown == "A pot. leaves minutes pot 4"
    assert said == "Pouring\nDrink it.\n"
    _, shown, said = typed("serve", "pot", "--minutes", "6", "--json", "--quiet", code=1)
    assert json.loads(shown)["minutes"] == 6
    assert said == ""


def test_the_help_follows_from_the_fields() -> None:
    shown = typed("brew", "--help")[1]
    assert "LEAVES <path> What to brew. [required]" in shown
    assert "--minutes N How long. [default: 3]" in shown
    assert "--sugar NAME Kind, repeatable: white or brown. --milk / --no-milk" in shown
    assert "Milk in it. [default: on]" in shown
    assert "--hot-water X Litres. [default: as the pot] --help" in shown
    shown = typed("serve", "--help")[1]
    assert "--json Print the result as JSON. -q, --quiet No progress" in shown

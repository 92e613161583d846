"""Options that follow from the fields of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deepgcn_cli.options import Flags, Json, subcommand
from pipelines.config.options import COUNT, argument, option


@dataclass(frozen=True)
class Tea:
    """A configuration of another program."""

    leaves: Path = argument("What to brew.", "LEAVES")
    minutes: int = option(3, "How long.", within=COUNT)
    sugar: tuple[str, ...] = option((), "Kind, repeatable: {}.", choices=("white", "brown"))
    milk: bool = option(True, "Milk in it.")
    hot_water: float | None = option(None, "Litres. [default: as the pot]", commands=("brew",))
    cup: str = option("large", "Not of this command.", commands=("drink",))


def typed(*arguments: str) -> tuple[Flags, str]:
    """Return the flags that a command with these options gets, and its help."""
    found: dict[str, Any] = {}
    app = typer.Typer(rich_markup_mode=None)

    @subcommand("brew pot", takes=(Tea,))
    def brew(*, flags: Flags, as_json: Json = False) -> None:
        found.update(flags, as_json=as_json)

    brew.add_to(app)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["pot"], {"leaves": Path("pot"), "as_json": False}),
        (
            ["pot", "--minutes", "4", "--no-milk", "--json"],
            {"leaves": Path("pot"), "minutes": 4, "milk": False, "as_json": True},
        ),
        (
            ["pot", "--sugar", "white", "--sugar", "brown"],
            {"leaves": Path("pot"), "sugar": ("white", "brown"), "as_json": False},
        ),
    ],
)
def test_a_command_gets_the_flags_that_were_given(arguments: list[str], flags: Flags) -> None:
    assert typed(*arguments)[0] == flags


def test_the_help_follows_from_the_fields() -> None:
    shown = typed("--help")[1]
    assert "LEAVES <path> What to brew. [required]" in shown
    assert "--minutes N How long. [default: 3]" in shown
    assert "--sugar NAME Kind, repeatable: white or brown. --milk / --no-milk" in shown
    assert "Milk in it. [default: on]" in shown
    assert "--hot-water X Litres. [default: as the pot] --json" in shown

"""What `deepgcn train` says at its end, and the classes that eval may import then."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from deepgcn_cli.app import app
from deepgcn_cli.commands.train import _what_next
from pipelines.config import EvalConfig, ModelConfig, TrainConfig
from pipelines.errors import ConfigError, DeepGCNError


def test_the_next_command_can_be_typed_as_it_is() -> None:
    result: Any = SimpleNamespace(test_area=5)
    model = ModelConfig(conv="own_layer:MeanMaxConv")
    found = _what_next(TrainConfig(model=model, runs=Path("my runs")), result)
    expected = "--runs 'my runs' --own-class own_layer:MeanMaxConv"
    assert found == f"Next: deepgcn eval --report md {expected}"


def test_a_network_of_synthetic_rooms_labels_and_is_scored_on_named_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each command, as it stands there, is known with all its options; there are no runs yet."""
    monkeypatch.chdir(tmp_path)
    result: Any = SimpleNamespace(test_area=0)
    found = _what_next(TrainConfig(synth=True, runs=Path("my runs")), result)
    assert found == (
        "Next: deepgcn predict SCAN.ply --runs 'my runs'\n"
        "Score it on prepared rooms: deepgcn eval --data DIR --runs 'my runs'"
    )
    for line, missing in zip(found.splitlines(), ("SCAN.ply", "my runs"), strict=True):
        shown = CliRunner().invoke(app, shlex.split(line.partition(": deepgcn ")[2]))
        assert isinstance(shown.exception, DeepGCNError), line
        assert str(shown.exception).startswith(missing)


@pytest.mark.parametrize("name", ["nope", "a:b:c", "a b:C"])
def test_a_class_of_ones_own_has_a_module(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--own-class: found .*, expected the form"):
        EvalConfig(own_classes=(name,))

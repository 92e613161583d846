"""What `deepgcn train` says at its end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deepgcn_cli.commands.train import _what_next
from pipelines.config import ModelConfig, TrainConfig


def test_the_next_command_can_be_typed_as_it_is() -> None:
    result: Any = SimpleNamespace(test_area=5)
    model = ModelConfig(conv="own_layer:MeanMaxConv")
    found = _what_next(TrainConfig(model=model, runs=Path("my runs")), result)
    expected = "--runs 'my runs' --own-class own_layer:MeanMaxConv"
    assert found == f"Next: deepgcn eval --report md {expected}"

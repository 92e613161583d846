"""What `deepgcn train` says at its end, and the classes that eval may import then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepgcn_cli.commands.train import _what_next
from pipelines.config import EvalConfig, ModelConfig, TrainConfig
from pipelines.errors import ConfigError


def test_the_next_command_can_be_typed_as_it_is() -> None:
    result: Any = SimpleNamespace(test_area=5)
    model = ModelConfig(conv="own_layer:MeanMaxConv")
    found = _what_next(TrainConfig(model=model, runs=Path("my runs")), result)
    expected = "--runs 'my runs' --own-class own_layer:MeanMaxConv"
    assert found == f"Next: deepgcn eval --report md {expected}"


@pytest.mark.parametrize("name", ["nope", "a:b:c", "a b:C"])
def test_a_class_of_ones_own_has_a_module(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--own-class: found .*, expected the form"):
        EvalConfig(own_classes=(name,))

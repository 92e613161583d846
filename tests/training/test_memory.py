"""Estimates of memory against measured steps, and what is made of them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import ConfigError, RunError
from pipelines.serialization import to_plain
from pipelines.training import memory
from pipelines.training.memory import (
    _activations,
    describe_memory,
    estimate_memory,
    explain_out_of_memory,
    fit_memory,
    smaller_options,
)

SMALL = ModelConfig(depth=7, width=32, k=8)
CONFIG = TrainConfig(model=SMALL, batch_size=8, num_points=1024)


def total(**changes: Any) -> int:
    return estimate_memory(dataclasses.replace(CONFIG, **changes), device="cpu")


def measured(config: TrainConfig) -> int:
    """The peak of training steps in a process of their own, in bytes."""
    case = {
        "model": to_plain(config.model),
        **{"work": "step", "batch_size": config.batch_size, "num_points": config.num_points},
        **{"device": "cpu", "threads": 1, "repeats": 2},
    }
    command = [sys.executable, "-m", "pipelines.bench", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["memory"])


@pytest.mark.skipif(sys.platform != "linux", reason="measured with Linux's peak of the process")
@pytest.mark.parametrize(
    "model",
    [
        SMALL,
        ModelConfig(arch="densegcn", depth=14, width=16, k=8),
        ModelConfig(conv="mr", depth=14, width=32, k=8, layout="torch"),
    ],
    ids=lambda model: f"{model.arch}-{model.conv}",
)
def test_the_estimate_is_near_the_measured_peak(model: ModelConfig) -> None:
    config = dataclasses.replace(CONFIG, model=model, batch_size=4)
    estimate = estimate_memory(config, device="cpu")
    assert estimate == pytest.approx(measured(config), rel=0.3)


def test_the_estimate_grows_by_the_same_with_each_block() -> None:
    one, two, three = (total(batch_size=size) for size in (1, 2, 3))
    assert three - two == pytest.approx(two - one, rel=1e-6)
    assert total(batch_size=1, num_points=4096) == pytest.approx(total(batch_size=4), rel=1e-6)


def test_recomputed_layers_need_far_less_at_depth() -> None:
    deep = dataclasses.replace(SMALL, depth=152, k=3)
    plain, again = (total(model=deep, checkpoint_layers=length) for length in (0, 12))
    assert again < 0.4 * plain
    deepest = dataclasses.replace(SMALL, depth=1001, k=1)
    assert total(model=deepest, checkpoint_layers=32) < 3 * again


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the available memory: so many times what a step without checkpointing needs."""

    def have(times: float, size: int | None = None) -> None:
        needed = (size or total()) / memory.USABLE
        monkeypatch.setattr(memory, "available_memory", lambda device: int(times * needed))  # noqa: ARG005

    return have


def test_a_plain_step_is_taken_where_it_fits(room: Callable[[float], None]) -> None:
    room(1.01)
    assert fit_memory(CONFIG, "cpu") == CONFIG
    assert fit_memory(CONFIG, "cpu", sharing=2) != CONFIG


def test_layers_are_recomputed_before_blocks_are_split(room: Callable[..., None]) -> None:
    again = total(checkpoint_layers=3)
    assert again < total()
    room(1.01, again)
    fitted = fit_memory(CONFIG, "cpu")
    assert (fitted.micro_batch, fitted.checkpoint_layers) == (None, 3)
    room(1.01, total(micro_batch=3, checkpoint_layers=3))
    fitted = fit_memory(CONFIG, "cpu")
    assert (fitted.micro_batch, fitted.checkpoint_layers) == (3, 3)  # 8 = 3 + 3 + 2
    room(1.01, total(micro_batch=3, checkpoint_layers=0))
    fitted = fit_memory(dataclasses.replace(CONFIG, checkpoint_layers=0), "cpu")
    assert (fitted.micro_batch, fitted.checkpoint_layers) == (3, 0)


def test_what_was_asked_for_stays(room: Callable[..., None]) -> None:
    room(0.01)
    asked = dataclasses.replace(CONFIG, micro_batch=5, checkpoint_layers=2)
    assert fit_memory(asked, "cpu") == asked
    least = fit_memory(CONFIG, "cpu")
    assert (least.micro_batch, least.checkpoint_layers) == (1, 3)
    together = dataclasses.replace(CONFIG, devices=2, sync_bn=True)
    assert fit_memory(together, "cpu").micro_batch is None


def test_the_estimate_is_shown_beside_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 23_400_000_000)  # noqa: ARG005
    one, two = (describe_memory(CONFIG, "cpu", sharing) for sharing in (1, 2))
    assert one == f"memory about {total() / 1e9:.1f} GB of 23 GB"
    assert two == f"memory about {2 * total() / 1e9:.1f} GB of 23 GB"


def test_settings_that_cannot_be() -> None:
    with pytest.raises(
        ConfigError, match=r"--micro-batch: found 9, expected at most 8, the blocks"
    ):
        TrainConfig(batch_size=8, micro_batch=9)
    with pytest.raises(ConfigError, match=r"--micro-batch: found 2 with --sync-bn, expected 4"):
        TrainConfig(batch_size=8, devices=2, sync_bn=True, micro_batch=2)
    with pytest.raises(ConfigError, match="--checkpoint-layers"):
        TrainConfig(checkpoint_layers=-1)


def test_out_of_memory_names_what_to_change() -> None:
    config = TrainConfig(model=ModelConfig(depth=28, k=16), batch_size=16)
    expected = (
        r"out of memory with batches of 16 blocks of 4096 points \(resgcn-28, C 64, k 16\)\.\n"
        r".*--checkpoint-layers 5, --micro-batch 8, --batch-size 8, -k 8, "
        r"--num-points 2048, --width 32\."
    )
    with pytest.raises(RunError, match=expected), explain_out_of_memory(config):
        torch.empty(2**58)  # more than any machine has
    with pytest.raises(RunError, match=expected), explain_out_of_memory(config):
        raise MemoryError
    with pytest.raises(RuntimeError, match="must match"), explain_out_of_memory(config):
        torch.zeros(2) + torch.zeros(3)


def test_options_that_cannot_shrink_are_not_offered() -> None:
    model = ModelConfig(depth=28, k=1, width=1)
    config = TrainConfig(model=model, batch_size=1, num_points=30, checkpoint_layers=5)
    assert smaller_options(config) == ["a smaller --depth"]


def test_a_segment_has_no_more_layers_than_the_network() -> None:
    model = ModelConfig(depth=4, width=16, k=4, fusion_channels=32, spatial="2,2")
    assert _activations(model, 100, "cpu") == _activations(model, 4, "cpu")
    assert sum(_activations(model, 1, "cpu")) > 0, "a first segment of one layer has one graph"

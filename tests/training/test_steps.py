"""One step, its rates and its failures."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.data.sampler import Batch
from pipelines.model.deepgcn import DeepGCN
from pipelines.training.recipe import Rates, Recipe
from pipelines.training.steps import (
    AHEAD,
    Accumulation,
    Pace,
    Step,
    Stepper,
    predict_batches,
    prefetch,
)

CONFIG = ModelConfig(depth=3, width=4, k=3, fusion_channels=8, epsilon=0.0, dropout=0.0)


def batch(seed: int, blocks: int = 2, points: int = 12) -> Batch:
    rng = np.random.default_rng(seed)
    features = rng.random((blocks, points, 9), dtype=np.float32)
    label = rng.integers(0, 13, (blocks, points)).astype(np.uint8)
    return Batch(features, label, tuple(range(blocks)))


def build() -> tuple[DeepGCN, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = DeepGCN(CONFIG)
    return model, torch.optim.SGD(model.parameters(), lr=123.0)


def stepper(schedule: Callable[[int, int], Rates]) -> Stepper:
    return Stepper(*build(), Recipe(schedule), Accumulation(3))


def test_steps_descend_the_mean_cross_entropy_at_the_recipes_rate() -> None:
    asked: list[tuple[int, int]] = []

    def schedule(samples: int, epoch: int) -> Rates:
        asked.append((samples, epoch))
        return Rates(lr=0.5 / (1 + samples), bn_momentum=0.25)

    batches = [batch(0), batch(1, blocks=1), batch(2)]
    with kernels.use("reference"):
        found = stepper(schedule)
        steps = list(found.steps(batches, samples=10, epoch=4))
        expected, _ = build()
        expected.train()
        losses = []
        for one, lr in zip(batches, (0.5 / 11, 0.5 / 13, 0.5 / 14), strict=True):
            logits = expected(torch.from_numpy(one.features))
            log = F.log_softmax(logits, dim=-1).flatten(0, 1)
            loss = -log[range(len(log)), one.label.flatten().tolist()].mean()
            expected.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in expected.parameters():
                    parameter -= lr * parameter.grad
            losses.append(loss.item())
    assert asked == [(10, 4), (12, 4), (13, 4)]
    assert [step.loss for step in steps] == pytest.approx(losses, rel=1e-5)
    for own, wanted in zip(found.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, wanted)


def test_a_loss_that_is_not_finite_changes_no_weight() -> None:
    taken = stepper(lambda *_: Rates(0.1, 0.1))
    before = [parameter.clone() for parameter in taken.model.parameters()]
    bad = batch(0)
    bad.features[0, 0, 3] = np.inf
    (step,) = taken.steps([bad], samples=0, epoch=0)
    assert not math.isfinite(step.loss)
    assert all(torch.equal(a, b) for a, b in zip(taken.model.parameters(), before, strict=True))


def test_predictions_come_in_evaluation_mode_and_flat() -> None:
    model, _ = build()
    one = batch(3, blocks=3)
    ((label, predicted),) = predict_batches(model.train(), [one])
    logits = model.eval()(torch.from_numpy(one.features))
    assert predicted.tolist() == logits.argmax(-1).flatten().tolist()
    assert label.tolist() == one.label.flatten().tolist()


def test_pace_leaves_out_the_first_step() -> None:
    pace = Pace()
    assert (pace.blocks_per_second, pace.data_wait) == (0.0, 0.0)
    pace.add(Step(1.0, 0.1, batch(0), seconds=10.0, wait=5.0))  # 2 blocks; compiles kernels
    assert (pace.blocks_per_second, pace.data_wait) == (0.2, 0.5)
    pace.add(Step(1.0, 0.1, batch(0), seconds=0.5, wait=0.125))
    pace.add(Step(1.0, 0.1, batch(0), seconds=1.5, wait=0.125))
    assert (pace.blocks_per_second, pace.data_wait) == (2.0, 0.125)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_keeps_the_order_even_if_later_items_are_faster(count: int, threads: int) -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 / (number + 1))
        return number * number

    found = list(prefetch(slow_first, range(count), threads=threads))
    assert found == [number * number for number in range(count)]


def test_works_while_the_caller_does() -> None:
    called = threading.Event()

    def note(number: int) -> int:
        if number == 1:
            called.set()
        return number

    results = prefetch(note, range(3))
    assert next(results) == 0
    assert called.wait(timeout=5)  # item 1 was made before it was asked for
    results.close()


def test_takes_only_a_few_items_ahead() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    results = prefetch(abs, endless(), threads=2)
    next(results)
    assert len(taken) == 2 + AHEAD
    results.close()


def test_a_failure_comes_in_its_items_turn() -> None:
    results = prefetch(lambda number: 1 // (2 - number), range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    results = prefetch(abs, range(100), threads=4)
    next(results)
    results.close()
    assert threading.active_count() == before

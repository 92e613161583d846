"""One step, its rates and its failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import ModelConfig, TrainConfig
from pipelines.data.sampler import Batch
from pipelines.errors import RunError
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.seeding import seed_everything
from pipelines.training.schedule import Rates
from pipelines.training.steps import (
    Pace,
    Step,
    build_optimizer,
    explain_out_of_memory,
    labelled_cross_entropy,
    predict_batches,
    smaller_options,
    train_steps,
)

CONFIG = ModelConfig(depth=3, width=4, k=3, fusion_channels=8, epsilon=0.0, dropout=0.0)


def batch(seed: int, blocks: int = 2, points: int = 12) -> Batch:
    rng = np.random.default_rng(seed)
    features = rng.random((blocks, points, 9), dtype=np.float32)
    label = rng.integers(0, 13, (blocks, points)).astype(np.uint8)
    return Batch(features, label, tuple(range(blocks)))


def build() -> tuple[DeepGCN, torch.optim.Optimizer]:
    seed_everything(0)
    model = DeepGCN(CONFIG)
    return model, torch.optim.SGD(model.parameters(), lr=123.0)


def test_steps_descend_the_mean_cross_entropy_at_the_recipes_rate() -> None:
    asked: list[tuple[int, int]] = []

    def schedule(samples: int, epoch: int) -> Rates:
        asked.append((samples, epoch))
        return Rates(lr=0.5 / (1 + samples), bn_momentum=0.25)

    batches = [batch(0), batch(1, blocks=1), batch(2)]
    with kernels.use("reference"):
        model, optimizer = build()
        steps = list(train_steps(model, optimizer, batches, schedule, samples=10, epoch=4))
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
    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_loss_that_is_not_finite_changes_no_weight() -> None:
    model, optimizer = build()
    before = [parameter.clone() for parameter in model.parameters()]
    bad = batch(0)
    bad.features[0, 0, 3] = np.inf
    (step,) = train_steps(model, optimizer, [bad], lambda *_: Rates(0.1, 0.1), samples=0, epoch=0)
    assert not math.isfinite(step.loss)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


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


def test_points_without_a_class_are_not_learned() -> None:
    logits = torch.randn(5, 13, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([3, 255, 0, 255, 12])
    loss = labelled_cross_entropy(logits, label)
    loss.backward()
    known = [0, 2, 4]
    expected = -torch.log_softmax(logits, dim=1)[known, label[known]].mean()
    torch.testing.assert_close(loss, expected)
    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=1).gt(0).tolist() == [True, False, True, False, True]


def test_a_batch_without_labels_changes_nothing() -> None:
    logits = torch.randn(2, 13, requires_grad=True)
    loss = labelled_cross_entropy(logits, torch.tensor([255, 255]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_sgd_takes_nesterovs_steps() -> None:
    model, _ = build()
    optimizer = build_optimizer(model, ("sgd",), 0.1)
    weight = model.classifier.weight
    expected, velocity = weight.detach().double().clone(), torch.zeros(weight.shape).double()
    for seed in range(3):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        for parameter in model.parameters():
            parameter.grad = None
        weight.grad = gradient.clone()
        optimizer.step()
        # Sutskever et al., 2013, in the form where the gradient is taken at the weights.
        decayed = gradient.double() + 1e-4 * expected
        velocity = 0.9 * velocity + decayed
        expected = expected - 0.1 * (decayed + 0.9 * velocity)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_each_recipe_has_its_optimizer() -> None:
    model, _ = build()
    kinds = {parts: type(build_optimizer(model, parts, 1e-3)) for parts in ((), ("adamw",))}
    assert kinds == {(): torch.optim.Adam, ("adamw",): torch.optim.AdamW}

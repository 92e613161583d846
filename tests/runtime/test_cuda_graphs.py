"""Captured passes give the same bits as passes that Python launches, and when none are captured.

With a GPU these are CUDA graphs. Without one, "replaying" runs the captured function again, into
the tensor that a graph always leaves its result in: all but CUDA's part is tested.
"""

from __future__ import annotations

import dataclasses
import gc
import warnings
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.errors import ConfigError
from pipelines.kernels.knn_search import RankTables, ranks_of
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime import cuda_graphs as graphs
from pipelines.runtime.cuda_graphs import (
    GraphedModel,
    GraphMemory,
    graphed_evaluation,
    why_not,
)
from pipelines.runtime.precision import Precision
from pipelines.runtime.seeding import seed_step
from pipelines.training.recipe import cross_entropy
from pipelines.training.steps import Accumulation, mean_loss

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
POINTS = 1024 if GPU else 40
SMALL = ModelConfig(depth=4, width=8, k=3, fusion_channels=16, epsilon=0.2, dropout=0.3)
needs_gpu = pytest.mark.skipif(not GPU, reason="no GPU: CUDA itself is tested here")

NETWORKS: weakref.WeakSet[DeepGCN] = weakref.WeakSet()

Forward = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def capturable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let passes be captured here: without a GPU, in a way that Python repeats."""
    monkeypatch.delenv(graphs.SWITCH, raising=False)
    if GPU:
        return
    monkeypatch.setattr(graphs, "DEVICE", "cpu")
    monkeypatch.setattr(kernels, "why_not_triton", lambda _: None)
    monkeypatch.setattr(GraphMemory, "capture", capture_for_python)
    monkeypatch.setattr(GraphMemory, "room_for_two", lambda *_: True)


def capture_for_python(
    _: GraphMemory, work: Callable[[], Tensor], __: torch.device
) -> tuple[Callable[[], None], Tensor]:
    """Do as `GraphMemory.capture` does, but that the first result is there already."""
    gradients, state = torch.is_grad_enabled(), torch.get_rng_state()
    buffers = [buffer for network in NETWORKS for buffer in network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    result = work()
    torch.set_rng_state(state)  # capturing a pass computes nothing
    for buffer, value in zip(buffers, before, strict=True):
        buffer.data.copy_(value)  # without a word to autograd, which looks at versions

    def replay() -> None:
        with torch.set_grad_enabled(gradients):
            again = work()
        with torch.no_grad():
            result.copy_(again)

    return replay, result


def build(config: ModelConfig = SMALL) -> DeepGCN:
    torch.manual_seed(0)
    model = DeepGCN(config).to(DEVICE).train()
    NETWORKS.add(model)
    return model


def batch(step: int, blocks: int, points: int = POINTS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    features = torch.rand(blocks, points, 9, generator=generator)
    label = torch.randint(0, 13, (blocks, points), generator=generator)
    return features.to(DEVICE), label.to(DEVICE)


def train(
    model: DeepGCN,
    forward: Forward | None,
    blocks: Sequence[int] = (4,) * 6,
    *,
    micro: int = 4,
    precision: str = "32",
    momenta: Sequence[float] = (0.5,),
    points: int = POINTS,
) -> list[float]:
    """Take a step for each number of `blocks`; return the losses."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    chosen = Precision(precision, DEVICE)
    accumulation = Accumulation(micro, forward=forward)
    losses = []
    for step, size in enumerate(blocks):
        seed_step(model, 7, step, 0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = momenta[step % len(momenta)]
        features, label = batch(step, size, points)
        loss = mean_loss(cross_entropy, torch.tensor(label.numel(), device=DEVICE))
        losses.append(accumulation.backward(model, features, label, loss, chosen).item())
        chosen.step(optimizer)
    return losses


def assert_same(one: DeepGCN, other: DeepGCN) -> None:
    for (name, value), wanted in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, wanted), name


def forbidden(message: str) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"arch": "plaingcn"},
        {"layout": "torch"},
        {"knn": "fixed"},
        {"conv": "mr"},
        {"conv": "gin"},
        {"conv": "sage-n", "dropout": 0.0},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "resgcn",
)
def test_training_is_the_same_bit_for_bit(changes: dict[str, object]) -> None:
    config = dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]
    plain, model = build(config), build(config)
    graphed = GraphedModel(model, training=True, say=forbidden)
    assert train(model, graphed) == train(plain, None)
    assert_same(model, plain)
    assert graphed.captured == [(4, POINTS, 9)]


def test_a_dense_backbone() -> None:
    """On a GPU the sums of its weights are in no fixed order, captured or not."""
    config = dataclasses.replace(SMALL, arch="densegcn")
    plain, model = build(config), build(config)
    graphed = GraphedModel(model, training=True, say=forbidden)
    losses = train(model, graphed)
    assert losses == pytest.approx(train(plain, None), rel=1e-3 if GPU else 0)
    assert graphed.captured


@pytest.mark.parametrize("precision", ["bf16", *(["tf32", "16"] if GPU else [])])
def test_shorter_numbers(precision: str) -> None:
    plain, model = build(), build()
    graphed = GraphedModel(model, training=True, say=forbidden)
    assert train(model, graphed, precision=precision) == train(plain, None, precision=precision)
    assert_same(model, plain)
    assert graphed.captured


@needs_gpu
def test_products_on_tensor_cores_and_the_search_in_slabs() -> None:
    config = ModelConfig(depth=6, width=64, k=16, epsilon=0.2, dropout=0.3)
    plain, model = build(config), build(config)
    graphed = GraphedModel(model, training=True, say=forbidden)
    found = train(model, graphed, (8,) * 6, micro=8, points=4096)
    assert found == train(plain, None, (8,) * 6, micro=8, points=4096)
    assert_same(model, plain)
    assert graphed.captured


def test_micro_batches_and_a_smaller_last_batch() -> None:
    """Pieces of 3 and 1, then of 2, which come too rarely to be a third graph."""
    blocks = (4, 4, 4, 2, 4, 4, 2, 2)
    plain, model = build(), build()
    graphed = GraphedModel(model, training=True, say=forbidden)
    assert train(model, graphed, blocks, micro=3) == train(plain, None, blocks, micro=3)
    assert_same(model, plain)
    assert graphed.captured == [(3, POINTS, 9), (1, POINTS, 9)]


def test_gradients_are_the_caller_s() -> None:
    """Two passes add up, also into gradients that were set to zero in place."""
    model, plain = build(), build()
    graphed = GraphedModel(model, training=True, say=forbidden)
    for step in range(5):
        for network, forward in ((model, graphed), (plain, plain)):
            seed_step(network, 7, step, 0)
            network.zero_grad(set_to_none=step % 2 == 0)
            for piece in range(2):
                forward(batch(piece, 2)[0]).square().mean().backward()
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)
    assert graphed.captured


def test_another_momentum_and_other_weights_are_noticed() -> None:
    plain, model = build(), build()
    graphed = GraphedModel(model, training=True, say=forbidden)
    momenta = (0.5, 0.5, 0.5, 0.25, 0.25, 0.25)
    assert train(model, graphed, momenta=momenta) == train(plain, None, momenta=momenta)
    for network in (model, plain):
        with torch.no_grad():
            network.classifier.weight = nn.Parameter(network.classifier.weight * 2)
    assert train(model, graphed) == train(plain, None)
    assert_same(model, plain)
    assert graphed.captured


def test_evaluation_is_the_same_bit_for_bit() -> None:
    model = build()
    train(model, None, (4,) * 2)
    model.eval()
    graphed = GraphedModel(model, training=False, say=forbidden)
    with torch.inference_mode():
        kept = [(graphed(batch(step, 4)[0]), model(batch(step, 4)[0])) for step in range(5)]
        assert graphed.captured == [(4, POINTS, 9)]
        for logits, wanted in kept:
            assert torch.equal(logits, wanted)
        for blocks in (2, 1, 4, 2):
            features, _ = batch(9, blocks)
            assert torch.equal(graphed(features), model(features))
    train(model.train(), None, (4,) * 2)
    model.eval()
    with torch.inference_mode():  # the weights are where they were
        features, _ = batch(9, 4)
        assert torch.equal(graphed(features), model(features))


def test_validation_between_steps_in_the_same_memory() -> None:
    plain, model = build(), build()
    graphed = GraphedModel(model, training=True, say=forbidden)
    judge = GraphedModel(model, training=False, say=forbidden, memory=graphed.memory)
    features, _ = batch(50, 3)
    for _ in range(3):
        assert train(model.train(), graphed) == train(plain.train(), None)
        model.eval()
        plain.eval()
        with torch.inference_mode():
            for _ in range(3):
                assert torch.equal(judge(features), plain(features))
    assert_same(model, plain)
    assert graphed.captured
    assert judge.captured


def test_a_pass_before_the_backward_pass_of_another_one_is_reported() -> None:
    model = build()
    graphed = GraphedModel(model, training=True, say=forbidden)
    features, _ = batch(0, 2)
    for _ in range(3):
        graphed(features).sum().backward()
    first = graphed(features)
    graphed(features)
    with pytest.raises(RuntimeError, match="followed by another"):
        first.sum().backward()


def test_a_capture_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass is captured, the backward pass cannot be."""
    capture, calls = GraphMemory.capture, []

    def fail_at_last(self: GraphMemory, work: Callable[[], Tensor], device: torch.device) -> object:
        calls.append(work)
        if len(calls) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return capture(self, work, device)

    monkeypatch.setattr(GraphMemory, "capture", fail_at_last)
    plain, model = build(), build()
    said: list[str] = []
    graphed = GraphedModel(model, training=True, say=said.append)
    assert train(model, graphed) == train(plain, None)
    assert_same(model, plain)
    assert (len(calls), graphed.captured) == (2, [])
    assert len(said) == 1
    assert "out of memory" in said[0]
    assert "\n" not in said[0]


@needs_gpu
def test_what_waits_for_the_gpu_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = build()
    wanted = train(plain, None)
    monkeypatch.setattr(DeepGCN, "_check", lambda _, features: features.sum().item())
    model = build()
    said: list[str] = []
    graphed = GraphedModel(model, training=True, say=said.append)
    assert train(model, graphed) == wanted
    assert_same(model, plain)
    assert len(said) == 1
    monkeypatch.undo()  # others can be captured afterwards
    again = build()
    graphed = GraphedModel(again, training=True, say=forbidden)
    assert train(again, graphed) == wanted
    assert graphed.captured


def test_without_room_for_two_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphMemory, "room_for_two", lambda *_: False)
    plain, model = build(), build()
    graphed = GraphedModel(model, training=True, say=forbidden)
    assert train(model, graphed) == train(plain, None)
    assert not graphed.captured


def test_trials_of_a_size_are_not_captured() -> None:
    model = build()
    accumulation = Accumulation(4, trials=1, forward=lambda _: pytest.fail("a trial"))
    features, label = batch(0, 4)
    accumulation.backward(model, features, label, cross_entropy)
    assert accumulation.trials == 0


def test_other_passes_are_the_network_s_own() -> None:
    model = build()
    training = GraphedModel(model, training=True)
    evaluation = GraphedModel(model, training=False)
    features, _ = batch(0, 2)
    for _ in range(3):
        with torch.no_grad():
            training(features)
            evaluation(features)
        evaluation(features).sum().backward()
        model.eval()
        training(features)
        model.train()
        training(features.clone().requires_grad_()).sum().backward()
    assert not training.captured
    assert not evaluation.captured


def test_threads_do_not_share_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inputs are one pass's: who comes meanwhile computes as if there were no graph."""
    model = build().eval()
    graphed = GraphedModel(model, training=False)
    ours, theirs = (torch.rand(2, POINTS, 9).to(DEVICE) for _ in range(2))

    @torch.no_grad()
    def evaluate(forward: Forward, features: Tensor) -> Tensor:
        return forward(features)

    for _ in range(3):
        evaluate(graphed, ours)
    assert graphed.captured == [ours.shape]
    own = graphed._find
    found = []

    def meanwhile(model: DeepGCN, features: Tensor) -> object:
        found.append(pool.submit(evaluate, graphed, theirs).result())
        return own(model, features)

    monkeypatch.setattr(graphed, "_find", meanwhile)
    with ThreadPoolExecutor(1) as pool:
        found.append(evaluate(graphed, ours))
    assert torch.equal(found[0], evaluate(model, theirs))
    assert torch.equal(found[1], evaluate(model, ours))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: setattr(model, "checkpoint_layers", 2), "recomputed"),
        (lambda model: model.double(), "float32"),
        (lambda model: model.fusion.register_forward_hook(print), "hooks"),
        (lambda model: model.synchronize(lambda sums: sums), "synchronised"),
    ],
)
def test_why_a_network_is_not_captured(change: Callable[[DeepGCN], object], reason: str) -> None:
    model = build()
    assert why_not(model, DEVICE) is None
    change(model)
    found = why_not(model, DEVICE)
    assert found is not None
    assert reason in found


def test_why_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    with kernels.use("reference"):
        assert why_not(model, DEVICE) is not None
    assert why_not(build(dataclasses.replace(SMALL, k=900, depth=6)), DEVICE) is not None
    assert why_not(model, torch.device("meta")) is not None
    monkeypatch.setenv(graphs.SWITCH, "0")
    assert why_not(model, DEVICE) == "DEEPGCN_CUDA_GRAPHS is 0"
    monkeypatch.setenv(graphs.SWITCH, "off")
    with pytest.raises(ConfigError, match="DEEPGCN_CUDA_GRAPHS: found 'off', expected 0"):
        why_not(model, DEVICE)


def test_a_network_has_one_graphed_evaluation_while_it_lives() -> None:
    model = build()
    graphed = weakref.ref(graphed_evaluation(model))
    assert graphed_evaluation(model) is graphed()
    assert graphed_evaluation(model)(batch(0, 1)[0]).isfinite().all()
    del model
    gc.collect()
    assert graphed() is None


def test_a_failure_is_a_warning_if_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> object:
        raise RuntimeError("something\nlong")

    monkeypatch.setattr(GraphMemory, "capture", fail)
    model = build().eval()
    graphed = GraphedModel(model, training=False)
    with torch.inference_mode(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            graphed(batch(0, 1)[0])
    assert [str(each.message) for each in caught] == [
        "CUDA graphs: capture failed (something); Python launches every pass: slower."
    ]


def test_tables_hold_the_latest_ranks() -> None:
    tables = RankTables([5, 9], 2, DEVICE)
    tables.set([(0, 2), (0, 8)])
    assert [ranks_of(table) for table in tables.tables] == [(0, 2), (0, 8)]
    tables.set([(0, 2), (3, 4)])
    tables.set([(1, 4), (3, 4)])
    assert [ranks_of(table) for table in tables.tables] == [(1, 4), (3, 4)]
    assert [table.bound for table in tables.tables] == [5, 9]
    x = torch.rand(1, 30, 3, device=DEVICE)
    assert torch.equal(kernels.knn(x, tables.tables[0]), kernels.knn(x, (1, 4), 5))

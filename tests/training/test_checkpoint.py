"""A checkpoint holds everything that the next steps depend on."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from pipelines.config import ModelConfig
from pipelines.errors import RunError
from pipelines.model.deepgcn import DeepGCN
from pipelines.training.checkpoint import Counters, TrainingState, first_not_finite
from pipelines.training.recipe import average_weights

CONFIG = ModelConfig(depth=3, width=4, k=3, epsilon=0.5, fusion_channels=8, num_classes=4)


def build(config: ModelConfig = CONFIG, *, averaged: bool = False) -> TrainingState:
    model = DeepGCN(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return TrainingState(model, optimizer, average_weights(model) if averaged else None)


def step(state: TrainingState) -> float:
    loss = state.model.train()(torch.rand(2, 16, 9)).square().mean()
    state.optimizer.zero_grad()
    loss.backward()
    state.optimizer.step()
    if state.average:
        state.average.update_parameters(state.model)
    return loss.item()


def test_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = build()
    for _ in range(3):
        step(state)
    state.counters = Counters(
        epoch=1, batch=2, step=3, samples=6, loss_sum=0.1 + 0.2, best_miou=1 / 3
    )
    state.save(tmp_path / "last.pt")
    expected = [step(state) for _ in range(4)]

    torch.manual_seed(99)
    other = build()
    other.load(tmp_path / "last.pt")
    assert other.counters == state.counters
    assert [step(other) for _ in range(4)] == expected
    for name, value in state.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optimizer": {"state": {}, "param_groups": []}}, "different number of parameter groups"),
        ({"counters": {"step": "x"}}, "step: found 'x', expected int"),
        ({"counters": [1]}, r"Counters: found \[1\], expected its settings"),
    ],
)
def test_a_state_of_another_training_is_reported(tmp_path: Path, changes: dict, told: str) -> None:
    path = tmp_path / "last.pt"
    build().save(path)
    torch.save({**torch.load(path, weights_only=True), **changes}, path)
    with pytest.raises(RunError, match=rf"last\.pt: found a damaged checkpoint: .*{told}"):
        build().load(path)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_damaged_file_is_reported(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "last.pt"
    build().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"last\.pt: found a damaged checkpoint"):
        build().load(path)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99])
def test_a_flipped_bit_is_noticed(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    state = build()
    step(state)
    state.save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:  # where the contents lie, not the filling between them
        places = [e.header_offset for e in archive.infolist() if "/data/" in e.filename]
    entry = places[int(share * len(places))]
    # A local header has 30 bytes, then a name and a further field, whose lengths it ends with.
    lengths = (int.from_bytes(whole[entry + at : entry + at + 2], "little") for at in (26, 28))
    flipped = bytearray(whole)
    flipped[entry + 30 + sum(lengths)] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(RunError, match=r"last\.pt: found a damaged .* not what was saved"):
        build().load(path)


def test_another_network_is_reported(tmp_path: Path) -> None:
    build().save(tmp_path / "last.pt")
    with pytest.raises(RunError, match="damaged checkpoint"):
        build(ModelConfig(depth=4, width=4, k=3)).load(tmp_path / "last.pt")


def test_finds_a_weight_that_is_not_finite() -> None:
    model = build().model
    assert first_not_finite(model) is None
    with torch.no_grad():
        model.classifier.bias[1] = float("inf")
    assert first_not_finite(model) == "classifier.bias"


def test_the_average_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = build(averaged=True)
    for _ in range(3):
        step(state)
    state.counters.step = 3
    state.save(tmp_path / "last.pt")
    other = build(averaged=True)
    other.load(tmp_path / "last.pt")
    step(state)
    other.load(tmp_path / "last.pt")  # with the random state of before
    step(other)
    for name, value in state.scored_model.state_dict().items():
        assert torch.equal(other.scored_model.state_dict()[name], value), name
    assert not torch.equal(other.scored_model.classifier.weight, other.model.classifier.weight)
    # A state dict with the network's own names, as version 0.1 wrote it.
    saved = torch.load(tmp_path / "last.pt", weights_only=True)["average"]
    assert list(saved) == list(state.model.state_dict())


def test_a_checkpoint_without_the_average_that_is_wanted_is_reported(tmp_path: Path) -> None:
    build().save(tmp_path / "last.pt")
    with pytest.raises(RunError, match="damaged checkpoint"):
        build(averaged=True).load(tmp_path / "last.pt")


def test_another_version_is_reported(tmp_path: Path) -> None:
    build().save(tmp_path / "last.pt")
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**state, "version": 1}, tmp_path / "last.pt")
    with pytest.raises(RunError, match=r"found version 1, expected 2\.\n.*deepgcn train"):
        build().load(tmp_path / "last.pt")

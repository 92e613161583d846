"""Which neighbours each layer takes, and in which space they are found."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.graphs import draw_ranks, rank_bounds

SMALL = ModelConfig(depth=4, width=8, k=4, dropout=0.0, fusion_channels=16)


def test_dilations_start_with_one_twice() -> None:
    assert ModelConfig(depth=6).dilations() == (1, 1, 2, 3, 4, 5)
    assert ModelConfig(depth=6, dilation=False).dilations() == (1,) * 6
    assert ModelConfig.published("plaingcn", 6).dilations() == (1,) * 6


def test_stochastic_dilation_only_in_training_and_about_epsilon_of_the_time() -> None:
    regular = tuple(range(0, 12, 3))
    assert all(draw_ranks(SMALL, training=False)[3] == regular for _ in range(50))
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_ranks(SMALL, training=True, generator=generator)[3] for _ in range(2000)]
    changed = sum(ranks != regular for ranks in drawn) / len(drawn)
    assert 0.17 < changed < 0.23
    assert all(len(set(ranks)) == 4 and list(ranks) == sorted(ranks) for ranks in drawn)
    assert {rank for ranks in drawn for rank in ranks} == set(range(12))


@pytest.mark.parametrize("training", [True, False])
def test_bounds_are_above_every_draw_and_no_higher_than_needed(training: bool) -> None:
    bounds = rank_bounds(SMALL, training=training)
    drawn = [draw_ranks(SMALL, training=training) for _ in range(300)]
    highest = [max(ranks[layer][-1] for ranks in drawn) for layer in range(4)]
    assert bounds == [rank + 1 for rank in highest]


def test_first_graph_comes_from_the_layout_s_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    search = kernels.knn

    def spy(x: Tensor, ranks: tuple[int, ...], bound: int | None = None) -> Tensor:
        seen.append(x)
        return search(x, ranks, bound)

    monkeypatch.setattr(kernels, "knn", spy)
    x = torch.rand(2, 40, 9)
    for layout, channels in (("paper", slice(6, 9)), ("torch", slice(0, 3))):
        seen.clear()
        DeepGCN(dataclasses.replace(SMALL, layout=layout)).eval()(x)
        assert torch.equal(seen[0], x[..., channels])
        assert len(seen) == 4
    seen.clear()
    DeepGCN(dataclasses.replace(SMALL, knn="fixed")).eval()(x)
    assert len(seen) == 1

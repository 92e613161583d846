"""Which neighbours each layer takes, and in which space they are found."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

import pipelines
from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.errors import ConfigError
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
    seen.clear()
    DeepGCN(dataclasses.replace(SMALL, spatial="2,3,5")).eval()(x)
    assert len(seen) == 2, "one search serves all graphs of positions"
    assert torch.equal(seen[1], x[..., :3])


@pytest.mark.parametrize(
    ("changes", "expected", "dilations"),
    [
        ({}, [0, 1, 2, 3, 4, 5], [1, 1, 2, 3, 4, 5]),
        ({"knn_every": 2}, [0, 0, 2, 2, 4, 4], [1, 1, 2, 2, 4, 4]),
        ({"knn_every": 4}, [0, 0, 0, 0, 4, 4], [1, 1, 1, 1, 4, 4]),
        ({"knn_until": 3}, [0, 1, 2, 2, 2, 2], [1, 1, 2, 2, 2, 2]),
        ({"knn_every": 2, "knn_until": 4}, [0, 0, 2, 2, 2, 2], [1, 1, 2, 2, 2, 2]),
        ({"knn_until": 1}, [0] * 6, [1] * 6),
        ({"spatial": "3,9,9"}, [0, 1, 2, 3, 4, 4], [1, 1, 2, 3, 9, 9]),
        ({"spatial": "3,9,3"}, [0, 1, 2, 3, 4, 3], [1, 1, 2, 3, 9, 3]),
        ({"knn_until": 2, "spatial": "7"}, [0, 1, 1, 1, 1, 5], [1, 1, 1, 1, 1, 7]),
        ({"knn_until": 5, "spatial": "1,1"}, [0, 1, 2, 3, 4, 4], [1, 1, 2, 3, 1, 1]),
        ({"spatial": "1,1,2,2,5,9"}, [0, 0, 2, 2, 4, 5], [1, 1, 2, 2, 5, 9]),
    ],
)
@pytest.mark.parametrize("checkpoint", [0, 4])
def test_layers_share_the_graph_that_they_should(
    changes: dict[str, Any], expected: list[int], dilations: list[int], checkpoint: int
) -> None:
    config = dataclasses.replace(SMALL, depth=6, **changes)
    first_in_space = 6 - len(changes.get("spatial", "").replace(",", ""))
    torch.manual_seed(0)
    model = DeepGCN(config).double().eval()
    model.checkpoint_layers = checkpoint
    x = torch.rand(2, 40, 9, dtype=torch.float64)

    # Layer by layer, with every search written out.
    h, found, outputs = x, {}, []
    for layer, source in enumerate(expected):
        if source == layer:
            space = h if layer else x[..., 6:9]
            if layer >= first_in_space:
                space = x[..., :3]
            nearest = torch.cdist(space, space).argsort(-1)
            dilation = dilations[layer]
            found[layer] = nearest[..., : 4 * dilation : dilation].to(torch.int32)
        y = model.layers[layer](h, found[source])
        h = y + h if layer else y
        outputs.append(h)

    assert config.graph_layers() == tuple(expected)
    assert config.dilations() == tuple(dilations)
    with torch.no_grad():
        for ours, theirs in zip(model.backbone(x), outputs, strict=True):
            torch.testing.assert_close(ours, theirs)
        kept = model(x)
    passed = model(x)  # with gradients, and recomputed layers
    torch.testing.assert_close(passed, kept)
    passed.sum().backward()


def test_one_graph_is_the_fixed_one() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 40, 9)
    one = DeepGCN(dataclasses.replace(SMALL, knn_until=1)).eval()
    fixed = DeepGCN(dataclasses.replace(SMALL, knn="fixed")).eval()
    fixed.load_state_dict(one.state_dict())
    assert torch.equal(one(x), fixed(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"knn": "fixed", "knn_every": 2}, "--knn-every: with --knn fixed"),
        ({"knn": "fixed", "knn_until": 2}, "--knn-until: with --knn fixed"),
        ({"knn": "fixed", "spatial": "4"}, "--spatial: with --knn fixed"),
        ({"knn_every": 0}, "--knn-every"),
        ({"spatial": "4, 8"}, "--spatial: found '4, 8', expected whole numbers and commas"),
        ({"spatial": "4,"}, "--spatial: found '4,', expected whole numbers"),
        ({"spatial": "4,0"}, "--spatial: found 0, expected"),
        ({"spatial": "1,1,1,1,1"}, "--spatial: found 5 dilations, expected at most one for each"),
    ],
)
def test_sharing_that_has_no_meaning_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize(("k", "dilation"), [(1, 1), (16, 1), (4, 7), (300, 1)])
@pytest.mark.parametrize("channels", [3, 17])
def test_knn_finds_what_a_tree_finds(k: int, dilation: int, channels: int) -> None:
    x = torch.randn(2, 300, channels, generator=torch.Generator().manual_seed(k))
    found = pipelines.knn(x, k, dilation)
    assert (found.shape, found.dtype) == ((2, 300, k), torch.int32)
    for block, index in zip(x.double().numpy(), found, strict=True):
        _, nearest = cKDTree(block).query(block, k=np.arange(1, (k - 1) * dilation + 2, dilation))
        assert torch.equal(index.sort().values, torch.tensor(nearest).int().sort().values)
    assert torch.equal(pipelines.knn(x[0], k, dilation), found[0])


def test_knn_takes_equal_points_by_index() -> None:
    x = torch.zeros(40, 3, requires_grad=True)
    assert pipelines.knn(x, 3).tolist() == [[0, 1, 2]] * 40


@pytest.mark.parametrize("integer", [np.int64, torch.tensor])
def test_knn_takes_integers_of_other_libraries(integer: Any) -> None:
    x = torch.rand(40, 3)
    assert torch.equal(pipelines.knn(x, integer(3), integer(2)), pipelines.knn(x, 3, 2))


def test_knn_of_float64_tells_apart_what_is_near() -> None:
    near = torch.rand(300, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([near, near + 1000])
    _, nearest = cKDTree(x.numpy()).query(x.numpy(), k=8)
    nearest = torch.tensor(nearest).int().sort().values
    assert torch.equal(pipelines.knn(x, 8).sort().values, nearest)
    assert not torch.equal(pipelines.knn(x.float(), 8).sort().values, nearest)


@pytest.mark.parametrize(
    ("x", "k", "dilation", "message"),
    [
        (torch.zeros(5), 1, 1, r"shape \(5,\)"),
        (torch.zeros(5, 3, dtype=torch.int64), 1, 1, "torch.int64"),
        (torch.zeros(5, 3), 6, 1, "k 6 and dilation 1 for 5 points"),
        (torch.zeros(5, 3), 3, 3, "dilation 3 for 5 points"),
        (torch.zeros(5, 3), 0, 1, "k 0"),
        (torch.full((5, 3), float("nan")), 2, 1, "15 values of x not finite"),
        (torch.full((5, 3), -1e30), 2, 1, r"up to 1.0e\+30, .* fit into float32"),
        (torch.full((5, 3), 1e200, dtype=torch.float64), 2, 1, "fit into float64"),
        (np.zeros((5, 3), np.float32), 2, 1, "type ndarray, expected a torch.Tensor"),
        (torch.zeros(5, 3), 2.0, 1, "k 2.0 and dilation 1, expected integers"),
        (torch.zeros(5, 3), 2, "1", "dilation '1', expected integers"),
    ],
)
def test_knn_refuses(x: Any, k: Any, dilation: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipelines.knn(x, k, dilation)

"""Figures that are extrapolated from small networks, against what PyTorch counts at their size."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines import kernels
from pipelines.config import CONVS, ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.figures import ADDED, forward_flop, search_flop, step_flop


def test_the_floor_of_the_reference_network() -> None:
    assert forward_flop(ModelConfig(), 4096) == pytest.approx(85e9, rel=0.03)


@pytest.mark.parametrize(
    "sharing",
    [
        {"knn_every": 2},
        {"knn_every": 3, "knn_until": 5},
        {"knn_until": 2},
        {"spatial": "2,2,4"},
        {"knn_until": 2, "spatial": "3"},
        {"spatial": "2,2,2,3,3,3,3"},
    ],
)
@pytest.mark.parametrize("arch", ["resgcn", "densegcn"])
def test_the_floor_counts_shared_graphs_once(arch: str, sharing: dict[str, Any]) -> None:
    config = ModelConfig.published(arch, 7, k=5, width=16, fusion_channels=32, **sharing)
    network, features = DeepGCN(config).train(), torch.rand(1, 64, 9)
    with kernels.use("reference"), FlopCounterMode(display=False, custom_mapping=ADDED) as step:
        network(features).sum().backward()
    assert step.get_total_flops() == step_flop(config, 64)


@pytest.mark.parametrize("knn", ["dynamic", "fixed"])
@pytest.mark.parametrize(
    ("arch", "conv"),
    [*itertools.product(["plaingcn", "resgcn", "densegcn"], CONVS), ("dgcnn", "edge")],
)
def test_the_floor_is_what_pytorch_counts(arch: str, conv: str, knn: str) -> None:
    """Of the reference kernels, which leave nothing out and compute nothing twice."""
    config = ModelConfig.published(arch, 3, conv=conv, knn=knn, k=5, width=16, fusion_channels=32)
    network, features = DeepGCN(config).train(), torch.rand(2, 64, 9)
    with kernels.use("reference"):
        with FlopCounterMode(display=False) as forward:
            loss = network(features).sum()
        with FlopCounterMode(display=False, custom_mapping=ADDED) as backward:
            loss.backward()
        with FlopCounterMode(display=False) as search:
            kernels.knn(torch.rand(2, 64, 7), (0, 1))
    counted = forward.get_total_flops()
    assert counted == 2 * forward_flop(config, 64)
    assert counted + backward.get_total_flops() == 2 * step_flop(config, 64)
    assert search.get_total_flops() == 2 * search_flop(7, 64)


def test_the_floor_is_linear_in_depth_but_for_the_first_layer() -> None:
    flop = [forward_flop(ModelConfig(depth=depth), 1024) for depth in (5, 6, 7)]
    assert flop[2] - flop[1] == flop[1] - flop[0]

"""The graph convolutions against their formulas over an explicit edge tensor, and against PyG."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.model.blocks import build_conv
from pipelines.model.conv import (
    EdgeConv,
    GINConv,
    MRConv,
    SAGEConv,
    edge_index,
)
from pipelines.model.layers import Style, Unit

BATCH, POINTS, CHANNELS, OUT, K = 2, 30, 5, 7, 4
PAPER = Style(norm_first=True, eps=1e-3)
TORCH = Style(norm_first=False, eps=1e-5)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(BATCH, POINTS, CHANNELS, generator=generator, dtype=torch.float64)
    rows = [torch.randperm(POINTS, generator=generator)[:K] for _ in range(BATCH * POINTS)]
    return x, torch.stack(rows).view(BATCH, POINTS, K).int()


def randomize(module: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value that matters, with norm scales of both signs."""
    generator = torch.Generator().manual_seed(5)
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        if value.is_floating_point():
            value.data = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                value.data = value.data.abs() + 0.1
    return module.double()


def neighbors(x: Tensor, index: Tensor) -> Tensor:
    return torch.stack([x[b][index[b].long()] for b in range(len(x))])  # (B, N, k, C)


def by_formula(unit: Unit, values: Tensor) -> Tensor:
    """Apply the unit to (…, C) with plain batch-norm arithmetic."""
    style, norm = unit.style, unit.norm
    values = values @ unit.linear.weight.T + unit.linear.bias
    if not style.norm_first:
        values = values.relu()
    if norm.training:
        flat = values.reshape(-1, values.shape[-1])
        mean, var = flat.mean(0), flat.var(0, unbiased=False)
    else:
        mean, var = norm.running_mean, norm.running_var
    values = (values - mean) / (var + style.eps).sqrt() * norm.weight + norm.bias
    return values.relu() if style.norm_first else values


def expected_of(layer: nn.Module, x: Tensor, index: Tensor) -> Tensor:
    edges = neighbors(x, index)
    own = x.unsqueeze(2).expand_as(edges)
    if isinstance(layer, EdgeConv):
        values = torch.cat([own, edges - own], dim=-1)
        for unit in layer.mlp:
            values = by_formula(unit, values)
        return values.max(dim=2).values
    if isinstance(layer, MRConv):
        relative = (edges - own).max(dim=2).values
        return by_formula(layer.mlp, torch.cat([x, relative], dim=-1))
    if isinstance(layer, SAGEConv):
        message = by_formula(layer.neighbor_mlp, edges).max(dim=2).values
        y = by_formula(layer.mlp, torch.cat([x, message], dim=-1))
        return y / y.norm(dim=-1, keepdim=True).clamp_min(1e-12) if layer.l2 else y
    assert isinstance(layer, GINConv)
    eps = 0 if layer.eps is None else layer.eps
    return by_formula(layer.mlp, (1 + eps) * x + edges.sum(dim=2))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("style", [PAPER, TORCH], ids=["paper", "torch"])
@pytest.mark.parametrize("name", ["edge", "mr", "sage", "sage-n", "gin", "gin-0"])
def test_layer_equals_its_formula(name: str, style: Style, training: bool) -> None:
    layer = randomize(build_conv(name, CHANNELS, OUT, style)).train(training)
    x, index = inputs()
    x.requires_grad_()
    weights = torch.randn(BATCH, POINTS, OUT, dtype=torch.float64)
    found = layer(x, index)
    parameters = [x, *layer.parameters()]
    grads = torch.autograd.grad((found * weights).sum(), parameters, allow_unused=True)
    expected = expected_of(layer, x, index)
    wanted = torch.autograd.grad((expected * weights).sum(), parameters, allow_unused=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for have, want in zip(grads, wanted, strict=True):
        assert have is not None
        torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-9)


def test_edge_conv_with_two_units_equals_its_formula() -> None:
    layer = randomize(EdgeConv(CHANNELS, OUT, PAPER, units=2)).train()
    x, index = inputs()
    torch.testing.assert_close(layer(x, index), expected_of(layer, x, index))


def test_edge_conv_equals_pyg() -> None:
    from torch_geometric.nn import EdgeConv as PyGEdgeConv

    layer = randomize(EdgeConv(CHANNELS, OUT, PAPER)).train()
    unit = layer.mlp[0]
    oracle = PyGEdgeConv(nn.Sequential(unit.linear, unit.norm, nn.ReLU()), aggr="max")
    x, index = inputs()
    expected = oracle(x.view(-1, CHANNELS), edge_index(index)).view(BATCH, POINTS, OUT)
    torch.testing.assert_close(layer(x, index), expected)


@pytest.mark.parametrize("name", ["edge", "sage"])
def test_running_statistics_are_those_of_the_edges(name: str) -> None:
    layer = build_conv(name, CHANNELS, OUT, TORCH).double().train()
    unit = layer.mlp[0] if name == "edge" else layer.neighbor_mlp
    x, index = inputs()
    layer(x, index)
    edges = neighbors(x, index)
    own = x.unsqueeze(2).expand_as(edges)
    values = torch.cat([own, edges - own], dim=-1) if name == "edge" else edges
    oracle = nn.BatchNorm1d(unit.norm.num_features, dtype=torch.float64)
    oracle((values @ unit.linear.weight.T + unit.linear.bias).relu().flatten(0, 2))
    torch.testing.assert_close(unit.norm.running_mean, oracle.running_mean)
    torch.testing.assert_close(unit.norm.running_var, oracle.running_var)
    assert unit.norm.num_batches_tracked == 1


def test_edge_index_is_source_then_target_over_the_batch() -> None:
    index = torch.tensor([[[0, 1], [1, 0]], [[1, 0], [0, 1]]])
    assert edge_index(index).tolist() == [[0, 1, 1, 0, 3, 2, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3]]


@pytest.mark.parametrize("name", ["GATConv", "SAGEConv", "TransformerConv", "GraphConv"])
def test_pyg_layer_by_name(name: str) -> None:
    layer = build_conv(name, CHANNELS, OUT, PAPER).double()
    x, index = inputs()
    y = layer(x, index)
    assert y.shape == (BATCH, POINTS, OUT)
    alone = layer.eval()(x[1:], index[1:])
    torch.testing.assert_close(layer(x, index)[1:], alone)


def test_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'GATConv'"):
        build_conv("GATCnov", CHANNELS, OUT, PAPER)


def test_layer_with_another_signature_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one that needs only these"):
        build_conv("NNConv", CHANNELS, OUT, PAPER)

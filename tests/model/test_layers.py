"""Parts that keep less than autograd would: their gradients against autograd's and differences'."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines import kernels
from pipelines.model.conv import edge_map_reduce, split_edge_map
from pipelines.model.head import linear_pair
from pipelines.model.layers import Dropout, Norm, Style, Unit, linear, normalize

BATCH, POINTS, CHANNELS, OUT, K = 2, 9, 5, 3, 4
TIGHT = {"rtol": 1e-5, "atol": 1e-5}


def edge_case(dtype: torch.dtype = torch.float64) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """Return an edge map, x, index and signs of both kinds."""
    torch.manual_seed(1)
    edge_map = nn.Linear(2 * CHANNELS, OUT, dtype=dtype)
    x = torch.randn(BATCH, POINTS, CHANNELS, dtype=dtype, requires_grad=True)
    index = torch.randint(0, POINTS, (BATCH, POINTS, K), dtype=torch.int32)
    return edge_map, x, index, torch.tensor([1.0, -0.5, 0.0], dtype=dtype)


def by_autograd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    index: Tensor,
    sign: Tensor,
    *,
    relu: bool,
    moments: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Do what `edge_map_reduce` does, and let autograd keep what it wants."""
    u, v = split_edge_map(x, weight, bias)
    return kernels.edge_reduce(u, v, index, sign, relu=relu, moments=moments)


def values_and_gradients(
    reduce: Callable[..., tuple[Tensor | None, ...]],
    case: tuple[nn.Linear, Tensor, Tensor, Tensor],
    **flags: bool,
) -> list[Tensor]:
    """Return values, and the gradients of x, weight and bias of a weighted sum of them."""
    edge_map, x, *rest = case
    between = 1 * x  # as in a network: autocast shortens a leaf once for all that use it
    values = [
        value
        for value in reduce(between, *edge_map.parameters(), *rest, **flags)
        if value is not None
    ]
    generator = torch.Generator().manual_seed(2)
    weights = (torch.randn(value.shape, generator=generator) for value in values)
    loss = sum((w * value).sum() for w, value in zip(weights, values, strict=True))
    assert isinstance(loss, Tensor)
    found = torch.autograd.grad(loss, [x, *edge_map.parameters()])
    return [value.detach() for value in (*values, *found)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("moments", [False, True])
def test_gradients_are_those_of_differences(relu: bool, moments: bool) -> None:
    edge_map, x, index, sign = edge_case()

    def reduce(*leaves: Tensor) -> tuple[Tensor, ...]:
        values = edge_map_reduce(*leaves, index, sign, relu=relu, moments=moments)
        return tuple(value for value in values if value is not None)

    with kernels.use("cpu"):
        assert torch.autograd.gradcheck(reduce, (x, edge_map.weight, edge_map.bias))


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("moments", [False, True])
def test_float32_is_what_autograd_gives(short: bool, relu: bool, moments: bool) -> None:
    """In bf16 as well, which the backward pass has to know of by itself."""
    case = edge_case(torch.float32)
    found = []
    for reduce in (edge_map_reduce, by_autograd):
        with kernels.use("cpu"), torch.autocast("cpu", torch.bfloat16, enabled=short):
            found.append(values_and_gradients(reduce, case, relu=relu, moments=moments))
    (*mine, bias), (*expected, theirs) = found
    torch.testing.assert_close(mine, expected, **TIGHT)
    # Autograd rounds the sum that is the bias's gradient to 8 bits, and the numbers of about 1 that
    # it adds up.
    rounding = {"rtol": 2.0**-8, "atol": BATCH * POINTS * 2.0**-9} if short else TIGHT
    torch.testing.assert_close(bias, theirs, **rounding)


def test_the_precision_is_that_of_the_forward_pass() -> None:
    """u and v again, to the bit: a gradient that depends on them would show 8 bits for 24."""
    edge_map, x, index, sign = edge_case(torch.float32)
    with kernels.use("cpu"), torch.autocast("cpu", torch.bfloat16):
        _, _, squares = edge_map_reduce(
            x, *edge_map.parameters(), index, sign, relu=False, moments=True
        )
        u, v = (each.detach() for each in split_edge_map(x, edge_map.weight, edge_map.bias))
    assert squares is not None
    # Outside autocast, as the training step does it. The bias receives 2 Σ e.
    (found,) = torch.autograd.grad(squares.sum(), edge_map.bias)
    edges = u.unsqueeze(2) + kernels.gather(v, index)
    torch.testing.assert_close(found, 2 * edges.sum(dim=(0, 1, 2)), **TIGHT)


def kept(work: Callable[[], object]) -> list[torch.Size]:
    """Return the shapes of the floating-point tensors that the backward pass of some work keeps."""
    storages: dict[int, torch.Size] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and tensor.dim() > 1:
            storages[tensor.untyped_storage().data_ptr()] = tensor.shape
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()
    assert result is not None
    return sorted(storages.values())


def test_the_input_alone_is_kept() -> None:
    edge_map, x, index, sign = edge_case()
    with kernels.use("cpu"):
        found = kept(
            lambda: edge_map_reduce(x, *edge_map.parameters(), index, sign, relu=True, moments=True)
        )
    assert found == sorted([x.shape, edge_map.weight.shape])


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_a_frozen_part_receives_nothing(wanted: tuple[bool, bool]) -> None:
    case = edge_case()
    edge_map, x, index, sign = case
    expected = values_and_gradients(by_autograd, case, relu=True, moments=False)[1:3]
    x.requires_grad_(wanted[0])
    edge_map.weight.requires_grad_(wanted[1])
    with kernels.use("cpu"):
        extreme, _, _ = edge_map_reduce(
            x, *edge_map.parameters(), index, sign, relu=True, moments=False
        )
    generator = torch.Generator().manual_seed(2)
    extreme.backward(torch.randn(extreme.shape, generator=generator).double())
    for mine, theirs, asked in zip((x, edge_map.weight), expected, wanted, strict=True):
        if asked:
            torch.testing.assert_close(mine.grad, theirs)
        else:
            assert mine.grad is None


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_norm_and_activation_together(slope: float) -> None:
    torch.manual_seed(3)
    norm = Norm(OUT, eps=1e-3, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    mean, var = torch.randn(OUT).double(), torch.rand(OUT).double() + 0.1
    x = torch.randn(BATCH, POINTS, OUT, dtype=torch.float64, requires_grad=True)

    def activated(x: Tensor, mean: Tensor, var: Tensor, *_: Tensor) -> Tensor:
        return normalize(norm, x, mean, var, slope)

    expected = F.leaky_relu(normalize(norm, x, mean, var, None), slope)
    assert torch.equal(activated(x, mean, var), expected)
    inputs = (x, mean.requires_grad_(), var.requires_grad_(), norm.weight, norm.bias)
    assert torch.autograd.gradcheck(activated, inputs)
    assert kept(lambda: activated(x, mean, var)) == [x.shape]


def test_what_overflowed_is_cut_off_as_relu_does() -> None:
    norm = Norm(1)
    x = torch.tensor([[-torch.inf], [torch.nan], [2.0]], requires_grad=True)
    y = normalize(norm, x, torch.zeros(1), torch.ones(1) - norm.eps, 0.0)
    assert y[0].item() == 0
    assert y[1].isnan()
    (found,) = torch.autograd.grad(y, x, torch.tensor([[torch.inf], [1.0], [1.0]]))
    assert found.flatten().tolist() == [0.0, 1.0, 1.0]


def test_a_layer_overwrites_nothing_of_its_input() -> None:
    """Norm and activation work in place where they can; what they were given is not theirs."""
    unit = Unit(CHANNELS, OUT, Style(norm_first=True, eps=1e-3)).train()
    x = torch.randn(BATCH, POINTS, OUT)
    before = x.clone()
    first, second = x.double().sum((0, 1)), x.double().square().sum((0, 1))
    unit.finish_moments(x, BATCH * POINTS, first, second)
    assert torch.equal(x, before)


@pytest.mark.parametrize("short", [False, True])
def test_a_pair_of_maps_is_two_maps(short: bool) -> None:
    torch.manual_seed(4)
    x = torch.randn(BATCH, POINTS, CHANNELS, requires_grad=True)
    maps = [nn.Linear(CHANNELS, 6), nn.Linear(CHANNELS, 2, bias=False)]
    leaves = [x, *(leaf for each in maps for leaf in each.parameters())]
    found = []
    for paired in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            pairs = [(each.weight, each.bias) for each in maps]
            y = 1 * x  # as in a network: autocast shortens a leaf once for all that use it
            pieces = y.split([1, 3, CHANNELS - 4], dim=-1)
            one, two = (
                linear_pair(pieces, *pairs) if paired else (linear(y, *each) for each in pairs)
            )
        loss = one.square().sum() + two.sin().sum()
        found.append([one, two, *torch.autograd.grad(loss, leaves)])
    mine, expected = found
    # Autograd rounds the sum that is the bias's gradient to 8 bits, and what it adds up.
    rounding = {"rtol": 2.0**-8, "atol": 1e-5} if short else TIGHT
    torch.testing.assert_close(mine.pop(4), expected.pop(4), **rounding)
    torch.testing.assert_close(mine, expected, **TIGHT)
    assert len(mine) == 5


def test_a_pair_of_maps_has_the_gradients_of_differences() -> None:
    torch.manual_seed(5)
    shapes = (4, CHANNELS), (6, CHANNELS), (6,), (2, CHANNELS), (2,)
    leaves = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(
        lambda x, w1, b1, w2, b2: linear_pair(x.split(3, dim=-1), (w1, b1), (w2, b2)), leaves
    )


def test_a_pair_of_maps_keeps_the_pieces_themselves() -> None:
    weights = (torch.randn(n, 5, requires_grad=True) for n in (7, 6))
    pieces = [torch.randn(3, channels, requires_grad=True) for channels in (4, 1)]
    (first, second) = ((weight, None) for weight in weights)
    found = kept(lambda: linear_pair(pieces, first, second))
    assert found == sorted([pieces[0].shape, pieces[1].shape, first[0].shape, second[0].shape])
    with torch.no_grad():
        expected = torch.cat(pieces, dim=1) @ first[0].t()
        assert torch.equal(linear_pair(pieces, first, second)[0], expected)
    torch.testing.assert_close(linear_pair(pieces, first, second)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_statistics_from_sums_are_those_of_batch_norm(momentum: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    expected = nn.BatchNorm1d(5, momentum=momentum, dtype=dtype)
    found = Norm(5, momentum=momentum, dtype=dtype)
    for count in (7, 20, 3):
        x = 3 + 2 * torch.randn(count, 5, dtype=dtype)
        sums = x.double().sum(0), x.double().square().sum(0)
        torch.testing.assert_close(
            found.by_moments(x, count, *sums), expected(x), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-5, atol=1e-5)
    assert int(found.num_batches_tracked) == 3


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.3, 0.5, 0.97, 1.0])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    layer, x = Dropout(p), torch.ones(401, 1001, requires_grad=True)
    torch.manual_seed(0)
    y = layer(x)
    dropped = (y == 0).double()
    spread = math.sqrt(p * (1 - p) / x.numel())
    assert dropped.mean() == pytest.approx(p, abs=5 * spread + 2**-17)
    if 0 < p < 1:
        assert y.mean().item() == pytest.approx(1, abs=5 * spread / (1 - p) + 1e-4)
        assert len(y.unique()) == 1 + (dropped.sum() > 0)
    for shift in (1, 2, 3, 4, 1001):  # four values share a draw of 64 bits
        both = (dropped.flatten()[shift:] * dropped.flatten()[:-shift]).mean()
        assert both == pytest.approx(p * p, abs=5 * spread + 2**-16)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y, msg="the gradient of ones is the mask, scaled")
    torch.manual_seed(0)
    assert torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)

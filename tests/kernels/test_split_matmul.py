"""float32 matrix multiplication from fp16 parts, against float64.

On a GPU if there is one; else in Triton's interpreter, started by `test_cuda`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipelines import kernels
from pipelines.model.head import linear_pair
from pipelines.model.layers import Matmul, linear

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

pytestmark = pytest.mark.skipif(
    kernels.why_not_triton(DEVICE) is not None,
    reason="no GPU; test_cuda runs this in Triton's interpreter",
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small tiles, several slabs and chunks for small matrices, as for large ones."""
    from pipelines.kernels import split_matmul

    tiles = split_matmul.Tiles(rows=16, columns=16, inner=16, warps=4, stages=2, group=2)
    if DEVICE.type == "cuda":  # tensor cores multiply 64 rows at least
        tiles = split_matmul.Tiles(rows=64, columns=64, inner=32, warps=4, stages=2, group=2)
    capabilities = [(major, minor) for major in (8, 9) for minor in range(10)]
    constants = {
        **{"best": lambda _: tiles, "processors": lambda _: 8, "CAPABILITIES": capabilities},
        **{"SLAB": 96, "SHORTEST": 2, "FEWEST": 1, "NARROWEST": 1},
    }
    for name, value in constants.items():
        monkeypatch.setattr(split_matmul, name, value)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def product(a: Tensor, b: Tensor, total: Tensor | None = None, **options: Tensor) -> Tensor:
    from pipelines.kernels import split_matmul

    assert split_matmul.wanted(a, b)
    return split_matmul.matmul(a, b, total, **options)


def error(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square of the difference, as a fraction of that of `exact`."""
    found, exact = found.detach().double(), exact.detach()
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


@pytest.mark.parametrize(
    ("n", "inner", "m"), [(1, 1, 1), (16, 16, 16), (37, 70, 21), (7, 210, 40), (100, 33, 5)]
)
@pytest.mark.parametrize("layout", ["rows", "columns", "steps"])
def test_is_as_exact_as_float32(n: int, inner: int, m: int, layout: str) -> None:
    """Whatever the strides; also of what a ReLU leaves, whose sums grow."""
    a, b = random(n, inner).relu() + 0.01, random(inner, m, seed=1)
    if layout == "columns":
        a, b = a.t().contiguous().t(), b.t().contiguous().t()
    if layout == "steps":
        a, b = a.repeat_interleave(2, 1)[:, ::2], b.repeat_interleave(3, 1)[:, ::3]
    exact = a.double() @ b.double()
    found = product(a, b)
    assert found.shape == (n, m)
    assert error(found, exact) < max(1.1 * error(a @ b, exact), 2.5e-7)
    assert torch.equal(found, product(a, b))


def test_adds_to_a_total_in_place_and_adds_a_bias() -> None:
    a, b, bias = random(40, 110), random(110, 20, seed=1), random(20, seed=2)
    total = random(40, 20, seed=3)
    exact = total.double() + a.double() @ b.double()
    assert product(a, b, total) is total
    assert error(total, exact) < 3e-7
    assert error(product(a, b, bias=bias), a.double() @ b.double() + bias) < 3e-7
    columns = torch.zeros(20, 40, device=DEVICE).t()
    assert error(product(a, b, columns), a.double() @ b.double()) < 3e-7


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # NumPy, interpreting
def test_magnitudes_from_the_smallest_to_the_largest() -> None:
    """A row has its own power of two: each row and column is as exact as any other."""
    few, many = (torch.logspace(-30, 30, 13, device=DEVICE) for _ in range(2))
    a, b = random(13, 50) * few[:, None], random(50, 13, seed=1) * many[None, :]
    exact = a.double() @ b.double()
    found = product(a, b).double()
    fits = (exact.abs() < 3e38) & (exact.abs() > 1e-36)
    assert 50 < fits.sum() < 169
    assert ((found - exact).abs() <= 5e-6 * few.double()[:, None] * many.double())[fits].all()
    assert not found[exact.abs() > 3.5e38].isfinite().any()
    assert (found[exact.abs() < 1e-46] == 0).all()


def test_small_numbers_beside_large_ones() -> None:
    """What a row's largest number hides is lost in float32 too, elsewhere it isn't."""
    a = random(20, 64) * torch.logspace(0, -6, 64, device=DEVICE)
    b = random(64, 20, seed=1) * torch.logspace(-6, 0, 64, device=DEVICE)[:, None]
    exact = a.double() @ b.double()
    assert error(product(a, b), exact) < 5e-7


def test_zeros_and_whole_numbers_are_exact() -> None:
    """13 bits need both parts; sums are below 2^24, where float32 has all whole numbers."""
    a = (random(30, 50) * 1000).round().clamp(-5000, 5000)
    b = (random(50, 20, seed=1) * 20).round().clamp(-60, 60)
    a[3], b[:, 5] = 0, 0
    assert torch.equal(product(a, b), (a.double() @ b.double()).float())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, interpreting
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_and_spoils_no_other_row(value: float) -> None:
    a, b = random(40, 50), random(50, 30, seed=1)
    clean = product(a, b)
    a[7, 3] = value
    b[5, 11] = value
    found = product(a, b)
    bad = torch.zeros_like(found, dtype=torch.bool)
    bad[7], bad[:, 11] = True, True
    assert not found[bad].isfinite().any()
    assert torch.equal(found[~bad], clean[~bad])


@pytest.mark.parametrize("biased", [True, False])
def test_gradients_of_linear(biased: bool) -> None:
    x, weight, bias = random(2, 10, 24), random(20, 24, seed=1), random(20, seed=2)
    dy = random(2, 10, 20, seed=3)

    def run(function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        given = [x, weight, bias] if biased else [x, weight]
        inputs = [each.to(dtype).requires_grad_() for each in given]
        y = function(*inputs)
        return [y, *torch.autograd.grad(y, inputs, dy.to(dtype))]

    exact = run(linear, torch.float64)
    with kernels.use("cuda"):
        assert kernels.uses_split_matmul(x, weight.t())
        found = run(linear, torch.float32)
        again = run(lambda *inputs: checkpoint(linear, *inputs, use_reentrant=False), torch.float32)
    for mine, same, expected in zip(found, again, exact, strict=True):
        assert error(mine, expected) < 4e-7
        assert torch.equal(mine, same)


def test_gradients_of_a_pair() -> None:
    pieces = [random(2, 10, 8, seed=seed) for seed in range(3)]
    maps = [random(20, 24, seed=4), random(20, seed=5), random(12, 24, seed=6), random(12, seed=7)]

    def run(dtype: torch.dtype) -> list[Tensor]:
        inputs = [each.to(dtype).requires_grad_() for each in (*pieces, *maps)]
        one, two = linear_pair(inputs[:3], (inputs[3], inputs[4]), (inputs[5], inputs[6]))
        (one.square().sum() + two.square().sum()).backward()
        return [one, two, *(each.grad for each in inputs if each.grad is not None)]

    exact = run(torch.float64)
    with kernels.use("cuda"):
        found = run(torch.float32)
    for mine, expected in zip(found, exact, strict=True):
        assert error(mine, expected) < 1e-6


def test_is_left_to_pytorch_where_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.kernels import split_matmul

    a, b = random(16, 16), random(16, 16, seed=1)
    kind = DEVICE.type
    with kernels.use("cuda"):
        assert kernels.uses_split_matmul(a, b)
        assert kernels.uses_split_matmul(a.view(2, 8, 16), b)
        assert not kernels.uses_split_matmul(a.double(), b.double())
        assert not kernels.uses_split_matmul(a.bfloat16(), b.bfloat16())
        with torch.autocast(kind, dtype=torch.bfloat16):
            assert not kernels.uses_split_matmul(a, b)
            assert Matmul(a).lower
            assert linear(a, b).dtype == torch.float32
        torch.set_float32_matmul_precision("high")
        assert not kernels.uses_split_matmul(a, b)
        torch.set_float32_matmul_precision("highest")
        seen: list[bool] = []
        torch.func.vmap(lambda row: seen.append(kernels.uses_split_matmul(row[None], b)) or row)(a)
        assert seen == [False]
        monkeypatch.setattr(split_matmul, "NARROWEST", 17)
        assert not kernels.uses_split_matmul(a, b)
        monkeypatch.setattr(split_matmul, "NARROWEST", 1)
        monkeypatch.setattr(split_matmul, "FEWEST", 16**3 + 1)
        assert not kernels.uses_split_matmul(a, b)
    with kernels.use("reference"):
        assert not kernels.uses_split_matmul(a, b)


def test_chunks_fill_the_processors() -> None:
    from pipelines.kernels.split_matmul import split_k

    assert split_k(1000, 64, 1000, 132) == 1
    assert split_k(112, 2, 1000, 132) == 1  # too short to be shared
    assert split_k(1, 64, 1000, 132) > 1
    assert split_k(112, 256, 1 << 30, 132) == 1  # too large to be kept several times


def test_compilers_and_transforms_get_what_they_can_follow() -> None:
    x, weight = random(2, 10, 24), random(20, 24, seed=1)
    exact = linear(x.double(), weight.double())
    with kernels.use("cuda"):
        compiled = torch.compile(linear, backend="eager", fullgraph=True)(x, weight)
        mapped = torch.func.vmap(linear, (0, None))(x, weight)
    assert error(compiled, exact) < 1e-6
    assert error(mapped, exact) < 1e-6

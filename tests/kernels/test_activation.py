"""`activation_ops` against PyTorch's own operations and their gradients.

On a GPU if there is one; else in Triton's interpreter, started by `test_cuda`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines import kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

pytestmark = pytest.mark.skipif(
    kernels.why_not_triton(DEVICE) is not None,
    reason="no GPU; test_cuda runs this in Triton's interpreter",
)


def case(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Return x, scale, shift and the gradient of the result."""
    generator = torch.Generator().manual_seed(sum(shape))
    x, g = (torch.randn(shape, generator=generator, dtype=dtype).to(DEVICE) for _ in range(2))
    scale, shift = torch.randn(2, shape[-1], generator=generator, dtype=dtype).to(DEVICE)
    return x, scale, shift, g


def wanted(x: Tensor, scale: Tensor, shift: Tensor, g: Tensor, slope: float) -> list[Tensor]:
    """Return the result and the gradients of x, scale and shift by autograd."""
    inputs = [each.clone().requires_grad_() for each in (x, scale, shift)]
    y = F.leaky_relu(inputs[0] * inputs[1] + inputs[2], slope)
    y.backward(g)
    return [y.detach(), *(each.grad for each in inputs if each.grad is not None)]


def found(x: Tensor, scale: Tensor, shift: Tensor, g: Tensor, slope: float) -> list[Tensor]:
    from pipelines.kernels import activation

    y = activation.activate(x, scale, shift, slope)
    return [y, *activation.gradients(g, x, scale, shift, slope)]


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(1, 1), (2, 30, 64), (77, 13), (3, 7, 100)])
def test_equals_pytorch(
    shape: tuple[int, ...], slope: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.kernels import activation

    monkeypatch.setattr(activation, "ELEMENTS", 256)
    monkeypatch.setattr(activation, "INSTANCES", 5)  # several tiles for each
    arrays = case(*shape)
    for mine, expected in zip(found(*arrays, slope), wanted(*arrays, slope), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)
    again = zip(found(*arrays, slope), found(*arrays, slope), strict=True)
    assert all(torch.equal(a, b) for a, b in again)


def test_float32_is_as_exact_as_pytorch() -> None:
    arrays = case(2, 300, 64, dtype=torch.float32)
    exact = wanted(*(each.double() for each in arrays), 0.0)
    for mine, theirs, truth in zip(found(*arrays, 0.0), wanted(*arrays, 0.0), exact, strict=True):
        allowed = 2 * float((theirs - truth).abs().max()) + 1e-6
        assert float((mine - truth).abs().max()) <= allowed


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # interpreting
def test_nan_stays_and_infinity_is_cut() -> None:
    x = torch.tensor([[float("nan")], [float("-inf")], [float("inf")]], device=DEVICE)
    one, zero = torch.ones(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    y, dx, *_ = found(x, one, zero, torch.full_like(x, 3.0), 0.0)
    assert torch.equal(y.flatten()[1:].cpu(), torch.tensor([0.0, float("inf")]))
    assert torch.equal(dx.flatten().cpu(), torch.tensor([3.0, 0.0, 3.0]))
    assert bool(y[0].isnan())

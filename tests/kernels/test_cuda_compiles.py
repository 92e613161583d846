"""Every Triton kernel, as the real code launches it, compiled for GPUs that aren't here.

Triton brings NVIDIA's assembler: compiling needs no GPU, and finds what the interpreter doesn't
(types, shapes, shared memory). The launches are stopped after compiling; nothing is computed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from pipelines import kernels

SHARED = {75: 64, 80: 163, 86: 99, 90: 227}  # KiB that a kernel may use
FLAGS = [(torch.float32, True, 86), (torch.bfloat16, False, 90), (torch.float32, False, 90)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU here compiles and runs them"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),  # launches of PyTorch's kind
]


class Elsewhere:
    """Stands for the driver of a GPU of a compute capability, as far as compiling asks it."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, _device: int) -> int:
        return 0


@pytest.fixture
def compiled(
    capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[list[Any]]:
    """Compile what is launched, for a compute capability; collect the results."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launched: list[Any] = []
    run: Callable[..., Any] = JITFunction.run

    def compile_only(self: Any, *args: Any, **options: Any) -> Any:
        kernel = run(self, *args, **{**options, "warmup": True})
        assert kernel.metadata.target.arch == capability
        launched.append(kernel)
        return kernel

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(kernels, "why_not_triton", lambda _: None)
    monkeypatch.setattr(driver, "_active", Elsewhere(capability))
    with kernels.use("cuda"):
        yield launched
    assert launched
    for kernel in launched:
        assert kernel.metadata.shared <= 1024 * SHARED[capability], kernel.metadata.name
        assert len(kernel.asm["cubin"]) > 0


@pytest.mark.parametrize(("dtype", "relu", "capability"), FLAGS)
def test_edges(compiled: list[Any], dtype: torch.dtype, relu: bool) -> None:
    """Both passes, with and without u; names tell that each kernel was among them."""
    u, v = (torch.zeros(2, 100, 64, dtype=dtype, requires_grad=True) for _ in range(2))
    index = torch.zeros(2, 100, 16, dtype=torch.int32)
    sign = torch.ones(64, dtype=dtype)
    for moments in (True, False):
        out, *_ = kernels.edge_reduce(u, v, index, sign, relu=relu, moments=moments)
        out.sum().backward()
    (kernels.neighbor_max(v, index) + kernels.neighbor_sum(v, index)).sum().backward()
    names = {kernel.metadata.name for kernel in compiled}
    spreads = {"spread_to_targets", "spread_to_sources", "sum_rows"}
    assert names == {"reduce"} | spreads


@pytest.mark.parametrize("capability", [90, 80])
def test_split_matmul(
    compiled: list[Any], capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, and for the gradients of input and weight."""
    from pipelines.kernels import split_matmul

    x, weight, dy = torch.zeros(300, 256), torch.zeros(192, 256), torch.zeros(300, 192)
    best = split_matmul.BEST[capability // 10]
    monkeypatch.setattr(split_matmul, "processors", lambda _: 132)
    monkeypatch.setattr(split_matmul, "best", lambda _: best)
    split_matmul.matmul(x, weight.t(), bias=torch.zeros(192))
    split_matmul.matmul(dy, weight, x)
    split_matmul.matmul(dy.t(), x)
    names = {kernel.metadata.name for kernel in compiled}
    assert names == {"split_rows", "row_maxima", "split_strided", "multiply"}
    products = [kernel for kernel in compiled if kernel.metadata.name == "multiply"]
    instruction = "wgmma.mma_async" if capability == 90 else "mma.sync"
    assert all(instruction in kernel.asm["ptx"] for kernel in products)


@pytest.mark.parametrize("capability", [80])
def test_edges_of_one_point_and_channel(compiled: list[Any]) -> None:
    """Sizes of 1 are constants to Triton, unlike in the interpreter."""
    x = torch.zeros(1, 1, 1, requires_grad=True)
    index = torch.zeros(1, 1, 1, dtype=torch.int32)
    out, *_ = kernels.edge_reduce(x, x, index, torch.ones(1), relu=True, moments=True)
    (out.sum() + kernels.neighbor_sum(x, index).sum()).backward()
    assert "sum_rows" in {kernel.metadata.name for kernel in compiled}


@pytest.mark.parametrize(("slope", "capability"), [(0.0, 90), (0.2, 80)])
def test_activation(compiled: list[Any], slope: float) -> None:
    from pipelines.kernels import activation

    x, scale = torch.zeros(2, 100, 64), torch.zeros(64)
    activation.activate(x, scale, scale, slope)
    activation.gradients(x, x, scale, scale, slope)
    assert {kernel.metadata.name for kernel in compiled} == {"forward", "backward"}


@pytest.mark.parametrize(
    ("points", "channels", "last", "capability"),
    [(4096, 64, 100, 90), (4096, 100, 100, 86), (1, 1, 0, 75)],
)
def test_knn(compiled: list[Any], points: int, channels: int, last: int) -> None:
    kernels.knn(torch.zeros(1, points, channels), tuple(sorted({0, last})))
    names = {kernel.metadata.name for kernel in compiled}
    counting = {"count_within"} if last > 60 else set()
    always = {"prepare", "sample_thresholds", "collect", "redo", "order", "order_exactly"}
    assert names == always | counting

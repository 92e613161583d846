"""The graph operations behind every layer, with one implementation for each kind of hardware.

    knn             the neighbours at given ranks of the distance order
    gather          the rows of every point's neighbours (stores all edges)
    neighbor_max    the largest value among the neighbours, per channel
    neighbor_sum    the sum over the neighbours, per channel
    edge_reduce     the extreme of u_i + v_j over the neighbours and the moments of all edges
    edge_ops        `edge_reduce` outside autograd, for layers that keep less for the backward pass
    point_reduce    the extreme of x_i over the points of a block and the moments of all points
    activation_ops  an activation after a scale and a shift, and its gradients, on a GPU
    matmul          a b for two matrices, or its sum with a third

`reference` is plain PyTorch, written for reading: the definition, the oracle of the tests, and the
implementation for devices without a faster one. In `knn_search` and `reductions`, `cpu` has the
same functions compiled with Numba, `cuda` with Triton (if it can't run, `why_not_triton` says why,
and `reference` is used). The functions below choose by the device; `use("reference")` overrides it.
With TRITON_INTERPRET=1, which tests use without a GPU, Triton's kernels run on the CPU, slowly.

Shapes: x, u, v (B, N, C) float; index (B, N, k) int32, positions within the block, so that
`index[b, i]` are the neighbours j of point i.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

from . import reductions, reference
from .knn_search import RankTable
from .reductions import EdgeOps
from .reference import gather as gather

MIN_CAPABILITY = (7, 0)  # the lowest compute capability that Triton compiles for
_forced: ContextVar[str | None] = ContextVar("deepgcn_kernels", default=None)


@contextmanager
def use(name: str | None) -> Iterator[None]:
    """Use the implementation "reference", "cpu" or "cuda" in a `with` block; None: the device's.

    >>> with use("reference"):
    ...     forced()
    'reference'
    """
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def forced() -> str | None:
    """Return the implementation that `use` sets here; None: the device's own."""
    return _forced.get()


def implementation(x: Tensor) -> str:
    """Return the name of the implementation that runs operations on tensors like `x`.

    >>> implementation(torch.zeros(3))
    'cpu'
    """
    name = _forced.get() or x.device.type
    if name == "cuda" and why_not_triton(x.device):
        return "reference"
    return name if name in ("cpu", "cuda") else "reference"


def _module(operations: str, x: Tensor) -> ModuleType:
    """Return the module of `operations` on tensors like `x`; imports Numba or Triton if needed."""
    name = implementation(x)
    if name == "reference":
        return reference
    return importlib.import_module(f".{operations}.{name}", __name__)


@functools.cache
def why_not_triton(device: torch.device) -> str | None:
    """Return why Triton can't be used on `device`, in one line; None if it can.

    >>> why_not_triton(torch.device("cpu")) is None  # only in its interpreter
    False
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (PyTorch's CUDA builds for Linux include it)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda":
        return f"Triton needs an NVIDIA GPU, found the device {device.type}"
    if torch.version.cuda is None:
        return "Triton's kernels are tested on NVIDIA GPUs only, found a PyTorch without CUDA"
    found = torch.cuda.get_device_capability(device)
    if found < MIN_CAPABILITY:
        return "Triton needs compute capability {}.{}, found {}.{}".format(*MIN_CAPABILITY, *found)
    return None


def knn(x: Tensor, ranks: Sequence[int] | RankTable, bound: int | None = None) -> Tensor:
    """Return the points at the given `ranks` of the distance order, for every point.

    Distances have at least float32's precision, whatever the type of x and autocast.

    >>> x = torch.tensor([[[0.0], [1.0], [3.0], [7.0]]])
    >>> knn(x, (0, 1)).tolist()  # each point and its nearest neighbour
    [[[0, 1], [1, 0], [2, 1], [3, 2]]]

    Args:
        x: features (B, N, C). No gradient flows through a selection.
        ranks: increasing ranks in 0 … N − 1; rank 0 is the nearest, normally the point itself. A
            RankTable is not checked.
        bound: above the ranks of this and related calls. Where the order of nearly equal distances
            depends on the largest rank, it depends on `bound` instead, so that these calls agree.

    Returns:
        (B, N, len(ranks)) int32, a column for each rank. Equal distances are ordered by index.

    Raises:
        IndexError: the ranks are not increasing or not within the block.

    Reference:
        Li et al., DeepGCNs, ICCV 2019, section 3.3 (dilated aggregation).
    """
    if not isinstance(ranks, RankTable):
        ranks, points = tuple(ranks), x.shape[1]
        if not ranks or ranks[0] < 0 or ranks[-1] >= points or list(ranks) != sorted({*ranks}):
            raise IndexError(f"ranks: found {ranks}, expected increasing ones in 0 to {points - 1}")
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    with torch.autocast(x.device.type, enabled=False):
        return _module("knn_search", x).knn(x, ranks, bound)


def neighbor_max(x: Tensor, index: Tensor) -> Tensor:
    """Return max_j x_j (B, N, C) over the neighbours j; a tie sends its gradient to one of them.

    >>> x = torch.tensor([[[1.0], [2.0], [4.0]]])
    >>> neighbor_max(x, torch.tensor([[[0, 1], [1, 2], [2, 0]]], dtype=torch.int32)).tolist()
    [[[2.0], [4.0], [4.0]]]
    """
    ops = edge_ops(x)
    if ops is None:
        return reference.neighbor_max(x, index)
    sign = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
    return reductions.edge_reduce(ops, None, x, index, sign, relu=False, moments=False)[0]


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j (B, N, C) over the neighbours j.

    >>> x = torch.tensor([[[1.0], [2.0], [4.0]]])
    >>> neighbor_sum(x, torch.tensor([[[0, 1], [1, 2], [2, 0]]], dtype=torch.int32)).tolist()
    [[[3.0], [6.0], [5.0]]]
    """
    return _module("reductions", x).neighbor_sum(x, index)


def edge_reduce(
    u: Tensor, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce the edge values e_ij = u_i + v_j (or relu of it) without storing them.

    >>> u, v = torch.tensor([[[10.0], [20.0]]]), torch.tensor([[[1.0], [2.0]]])
    >>> index = torch.tensor([[[0, 1], [0, 1]]], dtype=torch.int32)
    >>> most, total, squares = edge_reduce(u, v, index, torch.ones(1), relu=False, moments=True)
    >>> most.tolist(), total.tolist()  # of the edges 11, 12, 21 and 22
    ([[[12.0], [22.0]]], [66.0])

    Args:
        u: (B, N, C), the part of an edge value that belongs to its target i.
        v: (B, N, C), the part that belongs to its source j.
        index: (B, N, k) int32.
        sign: (C,); where it is negative, the smallest edge value is returned, else the largest.
        relu: apply relu to each edge value first.
        moments: also return the sums for batch statistics.

    Returns:
        The extreme (B, N, C) over the neighbours; Σ e and Σ e² (C,) float64 over all B·N·k edges,
        or None, None without `moments`. All three are differentiable in u and v.
    """
    ops = edge_ops(v)
    if ops is None:
        return reference.edge_reduce(u, v, index, sign, relu=relu, moments=moments)
    return reductions.edge_reduce(ops, u, v, index, sign, relu=relu, moments=moments)


def edge_ops(x: Tensor) -> EdgeOps | None:
    """Return `edge_reduce` for tensors like `x` as forward and backward functions outside autograd.

    None if the implementation has no such functions: use `edge_reduce` then.
    """
    return _module("reductions", x).edge_ops(x)


def point_reduce(
    x: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce the values e_i = x_i (or relu of it) over the points of each block.

    >>> x = torch.tensor([[[1.0, 1.0], [3.0, -2.0]]])
    >>> point_reduce(x, torch.tensor([1.0, -1.0]), relu=False, moments=False)[0].tolist()
    [[3.0, -2.0]]

    Args:
        x: (B, N, C).
        sign: (C,); where it is negative, the smallest value is returned, else the largest.
        relu: apply relu to each value first.
        moments: also return the sums for batch statistics.

    Returns:
        The extreme (B, C) over the points; Σ e and Σ e² (C,) float64 over all B·N points, or None,
        None without `moments`. All three are differentiable in x; a tie sends the gradient of an
        extreme to one of its points.
    """
    return _module("reductions", x).point_reduce(x, sign, relu=relu, moments=moments)


def matmul(
    a: Tensor, b: Tensor, total: Tensor | None = None, *, bias: Tensor | None = None
) -> Tensor:
    """Return a b, or add it to `total` in place; no gradient flows through it.

    Large float32 matrices are multiplied on a GPU's tensor cores, split into fp16 parts, unless
    lower precision is asked for: see `uses_split_matmul`. PyTorch multiplies all others.

    >>> matmul(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]), bias=torch.ones(1))
    tensor([[12.]])

    Args:
        a: (n, l), with any strides.
        b: (l, m), with any strides.
        total: (n, m), of the same type.
        bias: (m,), added to every row.

    Returns:
        (n, m); `total` itself if it is given.
    """
    if not uses_split_matmul(a, b):
        return reference.matmul(a, b, total, bias=bias)
    from . import split_matmul

    return split_matmul.matmul(a, b, total, bias=bias)


def uses_split_matmul(a: Tensor, b: Tensor) -> bool:
    """Return whether `matmul` splits a (…, l), flattened to a matrix, and b (l, m) into parts."""
    if not _launches_triton(a):
        return False
    from . import split_matmul

    return split_matmul.wanted(a, b)


def activation_ops(x: Tensor) -> ModuleType | None:
    """Return functions for leaky_relu(scale · x + shift) and its gradients that read x once.

    They are those of `pipelines.kernels.activation`. None: use PyTorch's own operations.
    """
    if not _launches_triton(x) or x.numel() == 0:
        return None
    from . import activation

    return activation


def _launches_triton(x: Tensor) -> bool:
    """Return whether Triton's kernels can run on x: never under torch.compile or torch.func."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return implementation(x) == "cuda"

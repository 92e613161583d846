"""The graph operations behind every layer, with one implementation per kind of hardware.

    knn             the neighbours of chosen ranks, from feature distances
    gather          the rows of every point's neighbours (materialises all edges)
    neighbor_max    the largest value among the neighbours, per channel
    neighbor_sum    the sum over the neighbours, per channel
    edge_reduce     the extreme of u_i + v_j over the neighbours and the moments of all edges
    point_reduce    the extreme of x_i over the points of a block and the moments of all points
    activation_passes   an activation after a scale and a shift, and its gradients, on a GPU
    edge_passes     what edge_reduce does forward and backward, for whoever keeps less than it does
    product         a b of two matrices, or added to a third

`reference` is plain PyTorch, written for reading: the oracle of the tests and the implementation
for everything that has no faster one. `cpu` compiles the same functions with Numba, `cuda` with
Triton (where it can't, `cuda.why_not` tells why, and `reference` does the work). The dispatch below
looks at the device alone; `use("reference")` overrides it.

Shapes: x, u, v (B, N, C) float; index (B, N, k) int32, positions within the block, so that
`index[b, i]` are the neighbours j of point i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

from pipelines.kernels import cuda, reference

from .autograd import Passes
from .ranks import Ranks, RankTable, listed

_forced: ContextVar[str | None] = ContextVar("deepgcn_kernels", default=None)


@contextmanager
def use(name: str | None) -> Iterator[None]:
    """Use the implementation "reference", "cpu" or "cuda" within a `with` block; None: choose."""
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def forced() -> str | None:
    """Return the implementation that `use` asks for here; None: the device's own."""
    return _forced.get()


def implementation(x: Tensor) -> ModuleType:
    """Return the module that runs operations on tensors like `x`."""
    name = _forced.get()
    if name is None:
        name = x.device.type
    if name == "cpu":
        from pipelines.kernels import cpu

        return cpu
    return cuda if name == "cuda" else reference


def knn(x: Tensor, ranks: Sequence[int] | RankTable, bound: int | None = None) -> Tensor:
    """Return the points at the given `ranks` of the distance order, for every point.

    Distances are never of fewer bits than float32, whatever the type of x and autocast.

    Args:
        x: features (B, N, C). No gradient flows through a selection.
        ranks: increasing ranks in 0 … N − 1; rank 0 is the nearest, normally the point itself. In a
            table they are not checked.
        bound: what the ranks of other passes are below. A search that depends on the largest rank
            in its last bits takes this one instead: the same for them all.

    Returns:
        (B, N, len(ranks)) int32. Equal distances are ordered by index. The columns hold the points
        of the given ranks as a set; their order within a row is free but deterministic.

    Raises:
        IndexError: the ranks are not such; the compiled loops don't look.

    Reference:
        Li et al., DeepGCNs, ICCV 2019, section 3.3 (dilated aggregation).
    """
    known = ranks if isinstance(ranks, RankTable) else _checked(tuple(ranks), x.shape[1])
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    module = implementation(x)
    with torch.autocast(x.device.type, enabled=False):
        if module is cuda:
            return cuda.knn(x, known, bound)
        found: Tensor = module.knn(x, listed(known))
        return found


def _checked(ranks: tuple[int, ...], points: int) -> Ranks:
    if not ranks or ranks[0] < 0 or ranks[-1] >= points or list(ranks) != sorted({*ranks}):
        raise IndexError(f"ranks: found {ranks}, expected increasing ones in 0 to {points - 1}")
    return ranks


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Return the neighbours' rows (B, N, k, C) of x (B, N, C)."""
    return reference.gather(x, index)


def neighbor_max(x: Tensor, index: Tensor) -> Tensor:
    """Return max_j x_j (B, N, C) over the neighbours j; a tie sends its gradient to one of them."""
    return implementation(x).neighbor_max(x, index)


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j (B, N, C) over the neighbours j."""
    return implementation(x).neighbor_sum(x, index)


def edge_reduce(
    u: Tensor, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce the edge values e_ij = u_i + v_j (or relu of it) without storing them.

    Args:
        u: (B, N, C), the part of an edge value that belongs to its target i.
        v: (B, N, C), the part that belongs to its source j.
        index: (B, N, k) int32.
        sign: (C,); where it is negative the smallest edge value is wanted, else the largest.
        relu: apply relu to each edge value first.
        moments: also return the sums for batch statistics.

    Returns:
        The extreme (B, N, C) over the neighbours; Σ e and Σ e² (C,) float64 over all B·N·k edges,
        or None, None without `moments`. All three are differentiable in u and v.
    """
    return implementation(u).edge_reduce(u, v, index, sign, relu=relu, moments=moments)


def edge_passes(x: Tensor) -> Passes | None:
    """Return the passes that `edge_reduce` makes over the edges of tensors like `x`.

    They are apart from autograd. None where there are none: `edge_reduce` has to be used then.
    """
    found: Passes | None = implementation(x).edge_passes(x)
    return found


def point_reduce(
    x: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce the values e_i = x_i (or relu of it) over the points of each block.

    Args:
        x: (B, N, C).
        sign: (C,); where it is negative the smallest value is wanted, else the largest.
        relu: apply relu to each value first.
        moments: also return the sums for batch statistics.

    Returns:
        The extreme (B, C) over the points; Σ e and Σ e² (C,) float64 over all B·N points, or None,
        None without `moments`. All three are differentiable in x; a tie sends the gradient of an
        extreme to one of its points.
    """
    return implementation(x).point_reduce(x, sign, relu=relu, moments=moments)


def product(
    a: Tensor, b: Tensor, total: Tensor | None = None, *, bias: Tensor | None = None
) -> Tensor:
    """Return a b, or add it to `total` in place; no gradient flows through it.

    Large products of float32 are made on tensor cores from parts of the numbers where a GPU has
    them and nothing asks for fewer bits: see `own_product`. All others are PyTorch's.

    Args:
        a: (n, l), of any strides, as `b`.
        b: (l, m).
        total: (n, m), of the same type.
        bias: (m,), added to every row.

    Returns:
        (n, m); `total` itself where it is given.
    """
    result: Tensor = implementation(a).product(a, b, total, bias=bias)
    return result


def activation_passes(x: Tensor) -> ModuleType | None:
    """Return what computes leaky_relu(scale · x + shift) and its gradients in one pass each.

    It has the functions of `cuda_activation`. None: PyTorch's own operations are to be used.
    """
    return cuda.activation_passes(x) if implementation(x) is cuda else None


def own_product(a: Tensor, b: Tensor) -> bool:
    """Tell whether `product` of a (…, l), as a matrix, and b (l, m) is other than PyTorch's own."""
    if torch.compiler.is_compiling():  # a compiler can follow neither what comes here nor Triton
        return False
    name = _forced.get() or a.device.type
    return name == "cuda" and cuda.own_product(a, b)

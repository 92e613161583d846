"""The graph operations on NVIDIA GPUs, written in Triton; see `pipelines.kernels`.

If Triton cannot run, `why_not` gives the reason and every function here is `reference`'s. With
TRITON_INTERPRET=1 the same kernels run on the CPU, slowly: so they are tested without a GPU.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import reference
from .device import why_not as why_not
from .knn_search import Ranks, listed
from .reductions import EdgeOps
from .reductions import point_reduce as point_reduce


def knn(x: Tensor, ranks: Ranks, bound: int | None = None) -> Tensor:
    """Select the points of the given ranks; see `pipelines.kernels.knn`."""
    if why_not(x.device):
        return reference.knn(x, listed(ranks))
    from .knn_search import cuda

    return cuda.knn(x, ranks, bound)


def neighbor_max(x: Tensor, index: Tensor) -> Tensor:
    """Return max_j x_j; see `pipelines.kernels.neighbor_max`."""
    return _reductions(x).neighbor_max(x, index)


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j; see `pipelines.kernels.neighbor_sum`."""
    return _reductions(x).neighbor_sum(x, index)


def edge_reduce(
    u: Tensor, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce u_i + v_j over the edges; see `pipelines.kernels.edge_reduce`."""
    return _reductions(v).edge_reduce(u, v, index, sign, relu=relu, moments=moments)


def edge_ops(x: Tensor) -> EdgeOps | None:
    """Return `edge_reduce` outside autograd; see `pipelines.kernels.edge_ops`."""
    return _reductions(x).edge_ops(x)


def _reductions(x: Tensor) -> Any:
    """Return the module that reduces over edges."""
    if why_not(x.device):
        return reference
    from .reductions import cuda

    return cuda


def activation_ops(x: Tensor) -> ModuleType | None:
    """Return the module `activation`; see `pipelines.kernels.activation_ops`."""
    if _is_followed() or why_not(x.device) or x.numel() == 0:
        return None
    from . import activation

    return activation


def uses_split_matmul(a: Tensor, b: Tensor) -> bool:
    """Return whether `matmul` is not PyTorch's; see `pipelines.kernels.uses_split_matmul`."""
    if _is_followed() or a.dtype != torch.float32 or why_not(a.device):
        return False
    from . import split_matmul

    return split_matmul.wanted(a, b)


def _is_followed() -> bool:
    """Return whether a compiler or a transform of torch.func follows, which can't launch Triton."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def matmul(
    a: Tensor, b: Tensor, total: Tensor | None = None, *, bias: Tensor | None = None
) -> Tensor:
    """Return a b, or add it to `total`; see `pipelines.kernels.matmul`."""
    if not uses_split_matmul(a, b):
        return reference.matmul(a, b, total, bias=bias)
    from . import split_matmul

    return split_matmul.matmul(a, b, total, bias=bias)

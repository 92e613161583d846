"""The graph operations on NVIDIA GPUs, written in Triton; see `pipelines.kernels`.

Where Triton cannot run, `why_not` tells the reason and every function here is `reference`'s. With
TRITON_INTERPRET=1 the same programs run on the CPU, slowly: so they are tested without a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from types import ModuleType

import torch
from torch import Tensor

from . import reference
from .autograd import Passes
from .ranks import Ranks, listed

OLDEST = (7, 0)  # compute capability: what Triton supports, and int64 sorts need


def why_not(device: torch.device) -> str | None:
    """Return why Triton can't be used on `device`, in one line; None where it can."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return _why_not(device, interpreted)


@functools.cache
def _why_not(device: torch.device, interpreted: bool) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (PyTorch's CUDA builds for Linux bring it)"
    if interpreted:
        return None
    if device.type != "cuda":
        return f"Triton needs an NVIDIA GPU, found the device {device.type}"
    if torch.version.cuda is None:
        return "Triton's programs are tested on NVIDIA GPUs only, found a PyTorch without CUDA"
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST:
        return (
            f"Triton needs compute capability {OLDEST[0]}.{OLDEST[1]}, found {found[0]}.{found[1]}"
        )
    return None


def knn(x: Tensor, ranks: Ranks, bound: int | None = None) -> Tensor:
    """Select the points of the given ranks; see `pipelines.kernels.knn`."""
    if why_not(x.device):
        return reference.knn(x, listed(ranks))
    from pipelines.kernels.knn_search.cuda import search as cuda_near

    return cuda_near.knn(x, ranks, bound)


def neighbor_max(x: Tensor, index: Tensor) -> Tensor:
    """Return max_j x_j; see `pipelines.kernels.neighbor_max`."""
    if why_not(x.device):
        return reference.neighbor_max(x, index)
    from .edges import cuda as cuda_edges

    return cuda_edges.neighbor_max(x, index)


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j; see `pipelines.kernels.neighbor_sum`."""
    if why_not(x.device):
        return reference.neighbor_sum(x, index)
    from .edges import cuda as cuda_edges

    return cuda_edges.neighbor_sum(x, index)


def edge_reduce(
    u: Tensor, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce u_i + v_j over the edges; see `pipelines.kernels.edge_reduce`."""
    if why_not(v.device):
        return reference.edge_reduce(u, v, index, sign, relu=relu, moments=moments)
    from .edges import cuda as cuda_edges

    return cuda_edges.edge_reduce(u, v, index, sign, relu=relu, moments=moments)


def edge_passes(x: Tensor) -> Passes | None:
    """Return the two passes of `edge_reduce`; see `pipelines.kernels.edge_passes`."""
    if why_not(x.device):
        return None
    from .edges import cuda as cuda_edges

    return cuda_edges.PASSES


def activation_passes(x: Tensor) -> ModuleType | None:
    """Return `cuda_activation`; see `pipelines.kernels.activation_passes`."""
    # Compilers and torch.func's transforms can't follow a launch of Triton's from here.
    following = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if following or why_not(x.device) or x.numel() == 0:
        return None
    from .activation import cuda as cuda_activation

    return cuda_activation


def own_product(a: Tensor, b: Tensor) -> bool:
    """Tell whether `product` is other than PyTorch's; see `pipelines.kernels.own_product`."""
    # Neither compilers nor torch.func's transforms can follow a launch of Triton's from here.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if a.dtype != torch.float32 or why_not(a.device):
        return False
    from .matmul import cuda as cuda_product

    return cuda_product.wanted(a, b)


def product(
    a: Tensor, b: Tensor, total: Tensor | None = None, *, bias: Tensor | None = None
) -> Tensor:
    """Return a b, or add it to `total`; see `pipelines.kernels.product`."""
    if not own_product(a, b):
        return reference.product(a, b, total, bias=bias)
    from .matmul import cuda as cuda_product

    return cuda_product.product(a, b, total, bias=bias)


def point_reduce(
    x: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce x over the points of each block; see `pipelines.kernels.point_reduce`.

    PyTorch's own operations do it, so it needs no Triton.
    """
    from .points import cuda as cuda_points

    return cuda_points.point_reduce(x, sign, relu=relu, moments=moments)

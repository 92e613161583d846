"""The graph operations in plain PyTorch: the definition that faster ones must reproduce."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .knn_search import Ranks, ranks_of

# Elements of a tile of distance rows, so that no N × N matrix is ever in memory.
TILE_ELEMENTS = 1 << 24


def knn(x: Tensor, ranks: Ranks, _bound: int | None = None) -> Tensor:
    """Sort each row of distances completely; see `pipelines.kernels.knn`.

    |x_i|² is the same in a whole row, so |x_j|² − 2 x_i·x_j gives the same order as the distance.
    Features are centred first: distances don't change, and float32 loses less to cancellation.
    """
    batch, points, _ = x.shape
    x = x - x.mean(dim=1, keepdim=True)
    wanted = torch.tensor(ranks_of(ranks), device=x.device)
    rows = max(1, TILE_ELEMENTS // (batch * points))
    squares = (x * x).sum(-1).unsqueeze(1)  # (B, 1, N)
    tiles = []
    for start in range(0, points, rows):
        tile = x[:, start : start + rows]
        distance = squares - 2 * tile @ x.transpose(1, 2)  # (B, rows, N)
        order = distance.sort(dim=-1, stable=True).indices
        tiles.append(order[..., wanted].to(torch.int32))
    return torch.cat(tiles, dim=1)


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Return the neighbours' rows (B, N, k, C) of x (B, N, C).

    >>> x = torch.tensor([[[1.0], [2.0], [4.0]]])
    >>> gather(x, torch.tensor([[[0, 1], [1, 2], [2, 0]]], dtype=torch.int32)).flatten(2).tolist()
    [[[1.0, 2.0], [2.0, 4.0], [4.0, 1.0]]]
    """
    batch, points, channels = x.shape
    first = torch.arange(batch, device=x.device).view(batch, 1, 1) * points
    flat = (index.long() + first).view(-1)
    return x.reshape(-1, channels).index_select(0, flat).view(*index.shape, channels)


def neighbor_max(x: Tensor, index: Tensor) -> Tensor:
    """Return max_j x_j; see `pipelines.kernels.neighbor_max`."""
    return gather(x, index).max(dim=2).values


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j; see `pipelines.kernels.neighbor_sum`."""
    return gather(x, index).sum(dim=2)


def edge_reduce(
    u: Tensor, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce u_i + v_j over the edges; see `pipelines.kernels.edge_reduce`."""
    edges = u.unsqueeze(2) + gather(v, index)  # (B, N, k, C)
    if relu:
        edges = F.relu(edges)
    extreme = torch.where(sign < 0, edges.min(dim=2).values, edges.max(dim=2).values)
    if not moments:
        return extreme, None, None
    exact = edges.double()
    return extreme, exact.sum(dim=(0, 1, 2)), exact.square().sum(dim=(0, 1, 2))


def edge_ops(_: Tensor) -> None:
    """Return None: autograd differentiates `edge_reduce`; see `pipelines.kernels.edge_ops`."""


def matmul(
    a: Tensor, b: Tensor, total: Tensor | None = None, *, bias: Tensor | None = None
) -> Tensor:
    """Return a b, or add it to `total`; see `pipelines.kernels.matmul`."""
    if total is None:
        return a @ b if bias is None else torch.addmm(bias, a, b)
    total.addmm_(a, b)
    return total if bias is None else total.add_(bias)


def point_reduce(
    x: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce x over the points of each block; see `pipelines.kernels.point_reduce`."""
    x = F.relu(x) if relu else x
    extreme = torch.where(sign < 0, x.min(dim=1).values, x.max(dim=1).values)
    if not moments:
        return extreme, None, None
    exact = x.double()
    return extreme, exact.sum(dim=(0, 1)), exact.square().sum(dim=(0, 1))

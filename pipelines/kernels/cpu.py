"""The graph operations compiled for the CPU with Numba; see `pipelines.kernels`."""

from __future__ import annotations

from .compile_cache import keyed_cache

with keyed_cache():
    from pipelines.kernels.edges.cpu import edge_passes, edge_reduce, neighbor_max, neighbor_sum
    from pipelines.kernels.knn_search.cpu import knn
    from pipelines.kernels.points.cpu import point_reduce

    from .reference import product

__all__ = [
    "edge_passes",
    "edge_reduce",
    "knn",
    "neighbor_max",
    "neighbor_sum",
    "point_reduce",
    "product",
]

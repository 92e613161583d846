"""The graph operations compiled for the CPU with Numba; see `pipelines.kernels`."""

from __future__ import annotations

from .cache import keyed_cache

with keyed_cache():
    from .cpu_edges import edge_passes, edge_reduce, neighbor_max, neighbor_sum
    from .cpu_knn import knn
    from .cpu_points import point_reduce
    from .eager import product

__all__ = [
    "edge_passes",
    "edge_reduce",
    "knn",
    "neighbor_max",
    "neighbor_sum",
    "point_reduce",
    "product",
]

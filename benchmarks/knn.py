"""k-NN on its own: `pipelines.knn` beside what people use for it, on one block of points.

    python -m benchmarks.knn [--repeats 3] [--channels 3 64] [--points 1024 65536] [--device cuda]

Methods: PyTorch's `cdist` and `topk` (rows in pieces where N × N does not fit), SciPy's tree,
scikit-learn's tree and brute force, FAISS (`IndexFlatL2`); PyTorch Geometric's `knn_graph` and
PyKeOps where they are installed. Those that are not installed are said and left out. Points:
surfaces of a synthetic room for C = 3, features of an untrained ResGCN in that room for more.

"Alike" is the share of the neighbours that a search in float64 finds, in 256 rows; below 1.000000
a method rounds or approximates. Every method has all cores. Times are the best of the repeats,
after one pass that is not counted; with `--repeats 0`, for many points, of that pass.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import pipelines
from pipelines.config import ModelConfig
from pipelines.data.synthetic import room_features
from pipelines.model.deepgcn import DeepGCN

SIZES, CHANNELS, RANKS = (1024, 4096, 16384, 65536), (3, 16, 64), ((16, 1), (16, 27))
PIECE = 1 << 26  # distances at a time
CHECKED = 256  # rows
Search = Callable[[Tensor, int, int], Tensor]


def points_of(count: int, channels: int, device: str) -> Tensor:
    """Return points on the surfaces of a room, or a network's features of them, (N, C)."""
    features = torch.from_numpy(room_features(1, count))
    if channels == 3:
        return features[0, :, 6:9].contiguous().to(device)
    torch.manual_seed(0)
    model = DeepGCN(ModelConfig(depth=3, width=channels, k=16)).eval()
    with torch.no_grad():
        return model.backbone(features)[-1][0].contiguous().to(device)


def ours(x: Tensor, k: int, dilation: int) -> Tensor:
    return pipelines.knn(x, k, dilation)


def cdist_topk(x: Tensor, k: int, dilation: int) -> Tensor:
    found = []
    for rows in x.split(max(1, PIECE // len(x))):
        nearest = torch.cdist(rows, x).topk(k * dilation, largest=False).indices
        found.append(nearest[:, ::dilation])
    return torch.cat(found)


def scipy_tree(x: Tensor, k: int, dilation: int) -> Tensor:
    from scipy.spatial import cKDTree

    ranks = np.arange(1, k * dilation + 1, dilation)
    return torch.from_numpy(cKDTree(x.numpy()).query(x.numpy(), k=ranks, workers=-1)[1])


def sklearn_by(algorithm: str) -> Search:
    def search(x: Tensor, k: int, dilation: int) -> Tensor:
        from sklearn.neighbors import NearestNeighbors

        near = NearestNeighbors(n_neighbors=k * dilation, algorithm=algorithm, n_jobs=-1)
        nearest = near.fit(x.numpy()).kneighbors(x.numpy(), return_distance=False)
        return torch.from_numpy(nearest[:, ::dilation])

    return search


def faiss_flat(x: Tensor, k: int, dilation: int) -> Tensor:
    import faiss

    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x.numpy())
    return torch.from_numpy(index.search(x.numpy(), k * dilation)[1][:, ::dilation])


def pyg_graph(x: Tensor, k: int, dilation: int) -> Tensor:
    from torch_geometric.nn import knn_graph

    edges = knn_graph(x, k * dilation, loop=True)
    return edges[0].view(len(x), k * dilation)[:, ::dilation]


def keops(x: Tensor, k: int, dilation: int) -> Tensor:
    from pykeops.torch import LazyTensor

    distance = ((LazyTensor(x[:, None]) - LazyTensor(x[None])) ** 2).sum(-1)
    return distance.argKmin(k * dilation, dim=1)[:, ::dilation]


# Method, the module that it needs, whether it takes tensors on a GPU.
METHODS: dict[str, tuple[Search, str, bool]] = {
    "pipelines.knn": (ours, "torch", True),
    "torch.cdist + topk": (cdist_topk, "torch", True),
    "PyG knn_graph": (pyg_graph, "torch_cluster", True),
    "PyKeOps": (keops, "pykeops", True),
    "SciPy cKDTree": (scipy_tree, "scipy", False),
    "scikit-learn kd_tree": (sklearn_by("kd_tree"), "sklearn", False),
    "scikit-learn brute": (sklearn_by("brute"), "sklearn", False),
    "FAISS flat": (faiss_flat, "faiss", False),
}


def alike(x: Tensor, found: Tensor, k: int, dilation: int) -> float:
    """Return the share of the neighbours at those ranks of the order in float64."""
    rows = torch.linspace(0, len(x) - 1, CHECKED, device=x.device).long()
    exact = x.double()
    squares = torch.stack([((exact - exact[row]) ** 2).sum(-1) for row in rows])
    order = squares.sort(dim=-1, stable=True).indices[:, : k * dilation : dilation]
    pairs = zip(order.tolist(), found[rows].tolist(), strict=True)
    return sum(len({*a} & {*b}) for a, b in pairs) / order.numel()


def timed(search: Search, x: Tensor, k: int, dilation: int) -> tuple[Tensor, float]:
    """Return the neighbours and the seconds that they took."""
    start = time.perf_counter()
    found = search(x, k, dilation)
    if x.is_cuda:
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Time k-NN searches on one block of points.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--points", type=int, nargs="+", default=SIZES)
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    methods = {}
    for name, (search, module, on_gpu) in METHODS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            print(f"{name}: {module} is not installed, left out")
            continue
        if on_gpu or given.device == "cpu":
            methods[name] = search
    print(f"{os.cpu_count()} cores, PyTorch {torch.__version__}, ms (alike)\n")
    print("| C | k | d | N |", " | ".join(methods), "|")
    print("|---:" * 4 + "|---:" * len(methods) + "|")
    for channels in given.channels:
        for points in given.points:
            x = points_of(points, channels, given.device)
            for k, dilation in RANKS:
                cells = []
                for search in methods.values():
                    found, spent = timed(search, x, k, dilation)
                    repeats = [timed(search, x, k, dilation)[1] for _ in range(given.repeats)]
                    share = alike(x, found, k, dilation)
                    cells.append(f"{1000 * min(repeats, default=spent):.1f} ({share:.6f})")
                print(f"| {channels} | {k} | {dilation} | {points} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()

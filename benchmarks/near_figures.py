"""What `kernels.knn_search.cuda.search` finds, and how fast, beside `cuda_knn`: a part of gpu.py.

On the features that a ResGCN-28 makes of a synthetic room (random weights), layer by layer, and on
noise. "Alike" is the share of the neighbors that a search in float64 finds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_table import Bench, constants, ms, shared_neighbors
from pipelines.config import ModelConfig
from pipelines.data.synthetic import room_features
from pipelines.kernels import cuda, reference
from pipelines.model.deepgcn import DeepGCN

DILATIONS = (1, 4, 7, 14, 20, 26)  # of the search in layer d's features
CHOICES: tuple[dict[str, Any], ...] = (
    {"STAGES": 2},
    {"COUNT_STAGES": 3},
    {"TILE": (64, 64)},
    {"TILE": (128, 64), "WARPS": 8},
    {"LIMIT_PER_WARP": 64},
    {"ROUNDS": 3},
    {"SORTED_AT_ONCE": 512},
)


def ranks_of(dilation: int, points: int) -> tuple[int, ...]:
    """Return the ranks of 16 neighbors."""
    return tuple(range(0, min(16 * dilation, points), dilation))


def scan_layers(bench: Bench) -> tuple[DeepGCN, Tensor, Tensor]:
    """Return a ResGCN-28 in training, features (B, N, 9) of a room and its layers (L, B, N, C)."""
    torch.manual_seed(0)
    batch, points = (1, 64) if bench.tiny else (16, 4096)
    config = ModelConfig.published("resgcn", 28)
    if bench.tiny:
        config = ModelConfig.published("resgcn", 3, width=8, k=4, fusion_channels=16)
    model = DeepGCN(config).to(bench.device).train()
    features = torch.from_numpy(room_features(batch, points)).to(bench.device)
    with torch.no_grad():
        layers = torch.stack(model.backbone(features), dim=2)
    return model, features, layers.movedim(-2, 0).contiguous()


def alike(x: Tensor, ranks: tuple[int, ...]) -> list[str]:
    """Return which share of float64's neighbors the searches find: near, cuda_knn, eager."""
    from pipelines.kernels.knn_search import cuda as cuda_knn
    from pipelines.kernels.knn_search.cuda import search as near

    x = x[:2]
    truth = reference.knn(x.double(), ranks)
    return [f"{shared_neighbors(m.knn(x, ranks), truth):.6f}" for m in (near, cuda_knn, reference)]


def stages(bench: Bench, name: str, x: Tensor, ranks: tuple[int, ...]) -> None:
    """Time each program of a search, and count the rows that are done again or sorted exactly."""
    from pipelines.kernels.knn_search import cuda as cuda_knn
    from pipelines.kernels.knn_search.cuda import search as near

    points = x.shape[1]
    way = near.plan(ranks[-1] + 1, points)
    column = cuda_knn.columns(ranks, way.room, x.device)
    index = torch.empty(*x.shape[:2], len(ranks), dtype=torch.int32, device=x.device)
    search = near.Search(x, way)
    rows = min(search.rows, points)
    wrong, unsure = search.waiting[0]
    limits = search.limits(0, rows)
    lists, counts, queue = search.lists(limits, 0, wrong)
    found = counts.sum(-1).float().median() / way.wanted
    search.redo(lists, counts, queue, 0, wrong)
    search.order(lists, counts, queue, column, index, 0, unsure)
    shares = (f"{float(each) / counts[..., 0].numel():.2%}" for each in (wrong, unsure))

    def again(run: Callable[[], Any]) -> None:
        unsure.zero_()
        run()

    spent = {
        "prepare": lambda: near.Search(x, way),
        "limits and count": lambda: search.limits(0, rows),
        "near": lambda: again(lambda: search.lists(limits, 0, unsure)),
        "redo": lambda: search.redo(lists, counts, queue, 0, wrong),
        "order": lambda: again(
            lambda: search.order(lists, counts, queue, column, index, 0, unsure)
        ),
    }
    times = ", ".join(
        f"{key} {1e3 * bench.device_seconds(run) * points / rows:.3f}" for key, run in spent.items()
    )
    text = "done again {}, sorted exactly {}".format(*shares)
    bench.add("near", f"{name}: stages", f"{times} ms", f"{text}, listed {found:.2f} of the wanted")


def trials(bench: Bench, dilation: int, x: Tensor) -> None:
    """Time searches with other constants than their own."""
    from pipelines.kernels.knn_search.cuda import search as near

    ranks = ranks_of(dilation, x.shape[1])
    for chosen in ({}, *CHOICES):
        text = ", ".join(f"{name} {value}" for name, value in chosen.items()) or "as it is"
        try:
            with constants(near, **chosen):
                spent = 1e3 * bench.device_seconds(functools.partial(near.knn, x, ranks))
            bench.add("near", f"d {dilation}, {text}", f"{spent:.3f} ms")
        except Exception as error:  # a choice that doesn't fit the GPU: the others may
            bench.add("near", f"d {dilation}, {text}", f"{type(error).__name__}: {error}"[:80])


def figures(bench: Bench) -> None:
    """Compare and time the search."""
    from pipelines.kernels.knn_search import cuda as cuda_knn
    from pipelines.kernels.knn_search.cuda import search as near

    if reason := cuda.why_not(torch.device(bench.device)):
        bench.add("near", "not run", reason)
        return
    _, _, layers = scan_layers(bench)
    noise = bench.random(*layers.shape[1:])
    for dilation in DILATIONS[:1] if bench.tiny else DILATIONS:
        ranks = ranks_of(dilation, noise.shape[1])
        # Points of a sparse scan are drawn again and again: nearly all ranks are tied.
        tied = noise[:, torch.arange(noise.shape[1], device=noise.device) * 2 // 7]
        for name, x in (("scan", layers[dilation - 1]), ("noise", noise), ("tied", tied)):
            case = f"{name}, d {dilation}"
            bench.add("near", f"{case}: alike (near, cuda_knn, reference)", *alike(x, ranks))
            spent = [
                bench.device_seconds(functools.partial(m.knn, x, ranks)) for m in (near, cuda_knn)
            ]
            bench.add("near", f"{case} (second: cuda_knn)", *map(ms, spent))
            if not bench.tiny:  # the interpreter takes minutes
                stages(bench, case, x, ranks)
    if bench.device == "cuda":
        for dilation in (14, 20):
            trials(bench, dilation, layers[dilation - 1])

"""How long the passes over edges take with which constants: the part `edges-speed` of gpu.py.

On the graph of 16 neighbors of a layer of a ResGCN-28 on a synthetic room (random weights) and of
noise. "Sorting" is what `cuda_reverse.reverse` replaces: a stable sort of the sources.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_table import Bench, constants
from benchmarks.near_figures import ranks_of, scan_layers
from pipelines.kernels import cuda

DILATION = 14


def microseconds(bench: Bench, run: Callable[[], Any]) -> str:
    """Tell how long a run takes on the device."""
    return f"{1e6 * bench.device_seconds(run, calls=20):.1f} µs"


Options = list[dict[str, Any]]  # values of constants that are tried together


def trials(bench: Bench, case: str, run: Callable[[], Any], module: Any, options: Options) -> None:
    """Time a run with other values of a module's constants; those that it has are marked."""
    for chosen in options:
        if bench.late():
            bench.add("edges-speed", case, "stopped: no time left")
            return
        own = all(getattr(module, name) == size for name, size in chosen.items())
        text = ", ".join(f"{name} {size}" for name, size in chosen.items())
        with constants(module, **chosen):
            spent = microseconds(bench, run)
        bench.add("edges-speed", f"{case}: {text}{' (as it is)' if own else ''}", spent)


def check_reverse(bench: Bench, name: str, index: Tensor) -> None:
    """Compare the transposed graph with sorting; tell how many edges leave a point."""
    from pipelines.kernels.edges import reverse as cuda_reverse

    found = cuda_reverse.reverse(index)
    same = all(
        torch.equal(one, other)
        for function in (cuda_reverse.reverse, cuda_reverse.reverse_by_sorting)
        for one, other in zip(found, function(index), strict=True)
    )
    bench.add("edges-speed", f"{name}: reverse equals itself and sorting", str(same))
    counts = found[1].diff().double()
    mean = float(counts.square().mean() / counts.mean())
    text = f"at most {int(counts.max())}; with an edge's own source, on average {mean:.1f}"
    bench.add("edges-speed", f"{name}: edges of a source", text)


def time_reverse(bench: Bench, name: str, index: Tensor) -> None:
    """Time the transposed graph, its stages, and sorting."""
    from pipelines.kernels.edges import reverse as cuda_reverse

    parts = cuda_reverse._Parts(index)
    places, begin = parts.count()
    order = parts.place(places, begin)
    out = torch.empty_like(order)
    for stage, run in (
        ("reverse", lambda: cuda_reverse.reverse(index)),
        ("reverse by sorting", lambda: cuda_reverse.reverse_by_sorting(index)),
        ("reverse, count and running sum", parts.count),
        ("reverse, running sum", lambda: begin.cumsum(0, dtype=torch.int32)),
        ("reverse, place", lambda: parts.place(places, begin)),
        ("reverse, settle", lambda: parts.settle(order, begin, out)),
    ):
        bench.add("edges-speed", f"{name}: {stage}", microseconds(bench, run))


def tune_reverse(bench: Bench, index: Tensor) -> None:
    """Try constants of the transposed graph."""
    from pipelines.kernels.edges import reverse as cuda_reverse

    options: Options = [{"LOG_SEGMENTS": log} for log in (1, 2, 3, 4)]
    pairs = ((128, 1), (256, 2), (256, 4), (512, 4), (1024, 4))
    options += [{"TILE": tile, "WARPS": warps} for tile, warps in pairs]
    trials(bench, "reverse", lambda: cuda_reverse.reverse(index), cuda_reverse, options)


def passes_of(bench: Bench, index: Tensor, relu: bool) -> dict[str, Callable[[], Any]]:
    """Return `reduce` and both passes back, over edges with 64 channels."""
    from pipelines.kernels.edges import cuda as cuda_edges
    from pipelines.kernels.edges import reverse as cuda_reverse

    batch, points, k = index.shape
    channels = 8 if bench.tiny else 64
    u, v, g = (bench.random(batch, points, channels, seed=seed) for seed in (1, 2, 3))
    sign = bench.random(channels)
    flags = {"relu": relu, "moments": True}
    _, winner, *sums = cuda_edges.reduce(u, v, index, sign, **flags)
    arrays = winner, g, *(each.float() for each in sums)
    upper = {"HAS_U": True, "RELU": relu, "MOMENTS": True}
    graph = cuda_reverse.reverse(index)
    return {
        "reduce": lambda: cuda_edges.reduce(u, v, index, sign, **flags),
        "to targets": lambda: cuda_edges._to_targets(u, v, index, arrays, upper),
        "to sources": lambda: cuda_edges._to_sources(u, v, graph, k, arrays, upper),
    }


def tune_passes(bench: Bench, index: Tensor) -> None:
    """Try constants of the passes, without relu."""
    from pipelines.kernels.edges import cuda as cuda_edges

    runs = passes_of(bench, index, relu=False)
    options: Options = [
        {"EDGES": edges, "SOURCE_WARPS": warps, "WINNER_FIRST": first}
        for edges, warps, first in (
            *((4, 1, False), (8, 1, False), (16, 1, False), (8, 2, False), (16, 2, False)),
            *((4, 1, True), (8, 1, True), (8, 2, True)),
        )
    ]
    trials(bench, "to sources", runs["to sources"], cuda_edges, options)
    for key in ("reduce", "to targets"):
        options = [{"NUMBERS": size, "WARPS": warps} for size in (512, 1024) for warps in (2, 4)]
        trials(bench, key, runs[key], cuda_edges, options)


def figures(bench: Bench) -> None:
    """Time the passes on both graphs, and try constants on the room's."""
    if reason := cuda.why_not(torch.device(bench.device)):
        bench.add("edges-speed", "not run", reason)
        return
    _, _, layers = scan_layers(bench)
    layer = layers[min(DILATION, len(layers)) - 1]
    ranks = ranks_of(1 if bench.tiny else DILATION, layer.shape[1])
    graphs = {"scan": cuda.knn(layer, ranks), "noise": cuda.knn(bench.random(*layer.shape), ranks)}
    for name, index in graphs.items():
        check_reverse(bench, name, index)
        time_reverse(bench, name, index)
        for relu in (False,) if bench.tiny else (False, True):
            for key, run in passes_of(bench, index, relu).items():
                bench.add("edges-speed", f"{name}, relu {relu}: {key}", microseconds(bench, run))
    if bench.device == "cuda":
        tune_passes(bench, graphs["scan"])
        tune_reverse(bench, graphs["scan"])

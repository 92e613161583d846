"""Where the time of a k-NN search on the CPU goes: CPU time of its parts, one thread.

    python -m benchmarks.knn_parts                   normally distributed (10 s on one CPU core)
    python -m benchmarks.knn_parts --repeated        each point about twice
    python -m benchmarks.knn_parts --scan            features of a synthetic room in a ResGCN-28
    python -m benchmarks.knn_parts --run RUN --data STORE     of the test area in a trained ResGCN

CPU time, and the least of many searches, so that other work on the machine shows little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import pipelines
from pipelines.config import ModelConfig
from pipelines.data.sampler import BlockSampler
from pipelines.data.store import Store
from pipelines.data.synthetic import room_features
from pipelines.kernels import threads
from pipelines.kernels.knn_search import cpu
from pipelines.kernels.knn_search.cpu import selection, tiles
from pipelines.kernels.knn_search.cpu.tiles import PANEL
from pipelines.model.deepgcn import DeepGCN

Part = Callable[..., Any]


def parts(work: Callable[[], Any], times: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the least seconds of each compiled part of some work, and of the whole, "all"."""
    least: dict[str, float] = {}
    run = threads.run
    spent: dict[str, float] = defaultdict(float)

    def timed(part: Part, shared: tuple[Any, ...], tasks: int) -> None:
        start = clock()
        run(part, shared, tasks)
        spent[part.__name__] += clock() - start

    work()  # compiles
    with mock.patch.object(threads, "run", timed):
        for _ in range(times):
            spent.clear()
            start = clock()
            work()
            spent["all"] = clock() - start
            for name, seconds in spent.items():
                least[name] = min(seconds, least.get(name, seconds))
    return least


def statistics(x: Tensor, ranks: tuple[int, ...]) -> list[str]:
    """Return, in words, what a search compared, collected and searched again."""
    met = compared = again = 0
    kept: list[float] = []
    run = threads.run

    def watched(part: Part, shared: tuple[Any, ...], tasks: int) -> None:
        nonlocal met, compared, again
        run(part, shared, tasks)
        if part is tiles.pairs:
            (_, places, boxes, reach), axes, table = shared[3], shared[4], shared[-1]
            for a0, a1, b0, b1, both in table:
                for a in range(a0, a1):
                    for b in range(a if both and a0 == b0 else b0, b1):
                        within = tiles.rows_within(places, boxes, reach, axes, a, b)
                        if both:
                            within |= tiles.rows_within(places, boxes, reach, axes, b, a)
                        met, compared = met + 1, compared + bool(within)
        elif part is selection.select:
            (keys, _), counts, first, wanted = shared[5], *shared[6:9]
            rows = counts[: len(shared[2]) - first * PANEL]
            full = len(keys) // len(counts) - PANEL
            kept.append(float(rows.mean()))
            again += int(((rows <= wanted[-1]) | (rows > full)).sum())

    with mock.patch.object(threads, "run", watched):
        cpu.knn(x, ranks)
    return [
        f"pairs of panels compared {100 * compared / met:.0f} %",
        f"candidates a row {sum(kept) / len(kept):.0f}",
        f"rows searched again {again}",
    ]


def network_features(network: DeepGCN, block: np.ndarray, dilation: int) -> Tensor:
    """Return (1, N, C): what a ResGCN searches with this dilation, given a block (N, 9)."""
    config = network.config
    layer = config.dilations().index(dilation, 2)
    with torch.no_grad():
        outputs = network.backbone(torch.from_numpy(block)[None])
    return outputs[layer - 1].contiguous()


def area_block(data: Path, points: int, layout: str) -> np.ndarray:
    """Return the features (points, 9) of a block in the middle of a store's test area."""
    store = Store.open(data)
    sampler = BlockSampler(store, store.rooms(store.test_area), points, 0, 1.0, layout)
    features: np.ndarray = sampler.batch(0, np.array([len(sampler) // 2])).features[0]
    return features


def main() -> None:
    """Print milliseconds a search."""
    parser = argparse.ArgumentParser(description="Time the parts of a k-NN search on the CPU.")
    parser.add_argument("--num-points", type=int, default=4096)
    parser.add_argument("--width", type=int, default=64, help="channels")
    parser.add_argument("-k", type=int, default=16)
    parser.add_argument("--dilation", type=int, default=14)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--repeated", action="store_true", help="draw from half as many points")
    parser.add_argument("--scan", action="store_true", help="features of a scan, not noise")
    parser.add_argument("--run", type=Path, help="a trained ResGCN; its k and width are taken")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the store of --run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    points, dilation = options.num_points, options.dilation
    if options.run:
        network = pipelines.load_model(options.run).eval()
        options.k = network.config.k
        block = area_block(options.data, points, network.config.layout)
        x = network_features(network, block, dilation)
    elif options.scan:
        network = DeepGCN(ModelConfig(width=options.width, k=options.k)).train()
        x = network_features(network, room_features(1, points)[0], dilation)
    else:
        x = torch.randn(1, points, options.width)
    if options.repeated:
        x = x[:, torch.randint(0, points // 2, (points,))]
    ranks = tuple(range(0, options.k * dilation, dilation))
    found = parts(lambda: cpu.knn(x, ranks), options.searches, time.process_time)
    lines = [f"{name} {1e3 * seconds:.2f} ms" for name, seconds in found.items()]
    sys.stdout.write("\n".join([*lines, *statistics(x, ranks)]) + "\n")


if __name__ == "__main__":
    main()

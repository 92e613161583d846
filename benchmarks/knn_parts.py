"""Where the time of a k-NN search on the CPU goes: CPU time of its parts, one thread.

    python -m benchmarks.knn_parts                      normally distributed (10 s on one CPU core)
    python -m benchmarks.knn_parts --repeated           each point about twice
    python -m benchmarks.knn_parts --scan               features of a synthetic room in a ResGCN-28

CPU time, and the least of many searches, so that other work on the machine shows little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pipelines.config import ModelConfig
from pipelines.data.synthetic_blocks import room_features
from pipelines.kernels import cpu, team
from pipelines.model.deepgcn import DeepGCN

Part = Callable[..., Any]


def parts(x: Tensor, ranks: tuple[int, ...], searches: int) -> dict[str, float]:
    """Return the least CPU seconds of each compiled part, and of whole searches, "search"."""
    least: dict[str, float] = {}
    run = team.run
    spent: dict[str, float] = defaultdict(float)

    def timed(part: Part, shared: tuple[Any, ...], tasks: int) -> None:
        start = time.process_time()
        run(part, shared, tasks)
        spent[part.__name__.removesuffix("_all")] += time.process_time() - start

    cpu.knn(x, ranks)  # compiles
    with mock.patch.object(team, "run", timed):
        for _ in range(searches):
            spent.clear()
            start = time.process_time()
            cpu.knn(x, ranks)
            spent["search"] = time.process_time() - start
            for name, seconds in spent.items():
                least[name] = min(seconds, least.get(name, seconds))
    return least


def scan_features(points: int, width: int, k: int, dilation: int) -> Tensor:
    """Return (1, N, width): what a ResGCN-28 with random weights searches with this dilation."""
    config = ModelConfig(width=width, k=k)
    layer = config.dilations().index(dilation, 2)
    torch.manual_seed(0)
    network = DeepGCN(config).train()
    with torch.no_grad():
        outputs = network.backbone(torch.from_numpy(room_features(1, points)))
    return outputs[..., (layer - 1) * width : layer * width].contiguous()


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
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    points = options.num_points
    x = torch.randn(1, points, options.width, generator=generator)
    if options.scan:
        x = scan_features(points, options.width, options.k, options.dilation)
    if options.repeated:
        x = x[:, torch.randint(0, points // 2, (points,), generator=generator)]
    ranks = tuple(range(0, options.k * options.dilation, options.dilation))
    for name, seconds in parts(x, ranks, options.searches).items():
        sys.stdout.write(f"{name} {1e3 * seconds:.2f} ms\n")


if __name__ == "__main__":
    main()

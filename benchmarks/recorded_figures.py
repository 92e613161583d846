"""Passes as CUDA graphs beside passes that Python launches: a part of `benchmarks.gpu`.

python -m benchmarks.gpu --parts environment,recorded      (a GPU; 1 minute)
"""

from __future__ import annotations

import statistics

import torch

from benchmarks.gpu_table import Bench, ms
from pipelines.config import ModelConfig
from pipelines.runtime.timing import Case, measure, own_network, own_search


def figures(bench: Bench) -> None:
    """Time steps and forward passes, recorded and not, with the memory that PyTorch reserves."""
    config = ModelConfig.published("resgcn", 28)
    cases = [(work, *shape) for shape in ((16, 4096), (4, 1024)) for work in ("step", "forward")]
    if bench.tiny:
        config = ModelConfig.published("resgcn", 3, width=8, k=4, fusion_channels=16)
        cases = [("step", 1, 64), ("forward", 1, 64)]
    for work, batch, points in cases:
        texts = [one(bench, config, (work, batch, points), recorded) for recorded in (False, True)]
        bench.add("recorded", f"resgcn-{config.depth} {work}, B {batch}, N {points:,}", *texts)


def one(bench: Bench, config: ModelConfig, size: tuple[str, int, int], recorded: bool) -> str:
    """Return what a case took, for people."""
    case = Case(config, *size, bench.device, None, bench.repeats, recorded=recorded)
    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = measure(case, own_network, own_search)
    reserved = torch.cuda.max_memory_reserved() / 2**30 if bench.device == "cuda" else 0.0
    name = "recorded" if recorded else "launched"
    return f"{name} {ms(statistics.median(found['times']))}, {reserved:.2f} GiB"

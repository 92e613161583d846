"""One measurement in a process of its own: its times and its peak memory.

    python -m pipelines.bench.timing '{"work": "forward", …}'

prints one line of JSON. With a process for each measurement, no case's figures depend on the
memory, caches and threads of another. `benchmarks.case` does the same for the naive network.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.cuda_graphs import GraphedModel, graphed_evaluation
from pipelines.runtime.memory import (
    CHECKPOINTED_ARRAY,
    keep_freed_memory,
    memory_in_use,
    peak_memory,
    return_freed_memory,
)
from pipelines.serialization import from_plain, to_plain

from . import GEMM, Case, Figures

UNTIL_CAPTURED = 3  # runs: a warm-up, the capture of CUDA graphs, and the first replay
Network = Callable[[ModelConfig], nn.Module]
Search = Callable[[Tensor, ModelConfig], Any]


def measure(case: Case, network: Network, search: Search) -> Figures:
    """Return the times, and how far the memory in use rose at its peak."""
    torch.manual_seed(0)
    run = work_of(case, network, search)
    before = memory_in_use(case.device)
    for _ in range(UNTIL_CAPTURED if case.device == "cuda" and case.captured else 1):
        _time(run, case.device)  # compiles, allocates
    times = [_time(run, case.device) for _ in range(case.repeats)]
    return Figures(tuple(times), peak_memory(case.device) - before)


def work_of(case: Case, network: Network, search: Search) -> Callable[[], Any]:
    """Return the work as a function without arguments; its inputs are made beforehand."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch_size, case.num_points)
    if case.work == "gemm":
        matrix = torch.rand(GEMM, GEMM, generator=generator).to(case.device)
        return lambda: matrix @ matrix
    if case.work == "knn":
        x = torch.randn(*shape, case.model.width, generator=generator).to(case.device)
        return lambda: search(x, case.model)
    noise = torch.rand(*shape, case.model.in_channels, generator=generator)
    features = torch.from_numpy(np.load(case.features)) if case.features else noise
    features = features.to(case.device)
    model = network(case.model).to(case.device)
    own = model if case.captured and isinstance(model, DeepGCN) else None
    if case.work == "forward":
        graphed = graphed_evaluation(own) if own else None
        return lambda: evaluate(model, features, graphed)
    label = torch.randint(0, case.model.num_classes, shape, generator=generator).to(case.device)
    if isinstance(model, DeepGCN):
        model.checkpoint_layers = case.checkpoint_layers
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3, fused=True)
    forward = GraphedModel(own, training=True) if own else model

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(forward(features).flatten(0, 1), label.flatten()).backward()
        optimizer.step()

    return step


def evaluate(
    model: nn.Module, features: Tensor, forward: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the logits in evaluation, after the norms have learnt their statistics once.

    With the norms' initial statistics the features of a deep residual network would grow by a
    factor in each layer, beyond the range of float32; after training they do not.
    """
    if model.training:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model(features)
        model.eval()
    with torch.inference_mode():
        logits: Tensor = (forward or model)(features)
    return logits


def _time(run: Callable[[], Any], device: str) -> float:
    gc.collect()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def own_search(x: Tensor, config: ModelConfig) -> Tensor:
    """Find the middle layer's neighbours with this package's k-NN."""
    dilation = config.dilations()[config.depth // 2]
    return kernels.knn(x, tuple(range(0, config.k * dilation, dilation)))


def main(network: Network, search: Search) -> None:
    """Measure the case that the first argument describes, and print the figures."""
    case: Case = from_plain(Case, json.loads(sys.argv[1]))
    if case.threads:
        torch.set_num_threads(case.threads)
    if case.checkpoint_layers:
        return_freed_memory(CHECKPOINTED_ARRAY)  # as the train stage does
    sys.stdout.write(json.dumps(to_plain(measure(case, network, search))) + "\n")


if __name__ == "__main__":
    keep_freed_memory()  # as `pick_device` does for the stages
    main(DeepGCN, own_search)

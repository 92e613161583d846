"""Where the time of a training step on the CPU goes: matrix products, k-NN, edges.

    python -m benchmarks.step_parts                                    (30 s on 2 CPU cores)

A ResGCN-28 on a block of a synthetic room. The parts of k-NN and the edge reductions are the least
of several steps; the matrix products are those of one more step, under PyTorch's profiler.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from torch.profiler import ProfilerActivity, profile

from benchmarks.knn_parts import parts
from pipelines.config import ModelConfig
from pipelines.data.synthetic_blocks import room_features
from pipelines.runtime.allocation import keep_freed_memory
from pipelines.runtime.timing import Case, own_network, own_search, work_of

PRODUCTS = ("aten::mm", "aten::addmm")


def main() -> None:
    """Print milliseconds a step."""
    parser = argparse.ArgumentParser(description="Time the parts of a training step on the CPU.")
    parser.add_argument("--num-points", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        np.save(path, room_features(1, options.num_points))
        case = Case(
            *(ModelConfig(), "step", 1, options.num_points, "cpu", None, options.steps),
            features=str(path),
        )
        step = work_of(case, own_network, own_search)
    found = parts(step, options.steps, time.perf_counter)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    events = [event for event in profiled.key_averages() if event.key in PRODUCTS]
    found["matrix products"] = sum(event.self_cpu_time_total for event in events) / 1e6
    for name, seconds in sorted(found.items(), key=lambda item: -item[1]):
        sys.stdout.write(f"{name} {1e3 * seconds:.1f} ms\n")


if __name__ == "__main__":
    main()

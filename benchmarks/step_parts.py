"""Where the time of a training step on the CPU goes, and the memory: matrix products, k-NN, edges.

    python -m benchmarks.step_parts                                    (30 s on 2 CPU cores)
    python -m benchmarks.step_parts --naive       the memory of the released algorithm's arrays

A ResGCN-28 on a block of a synthetic room. The parts of k-NN and the edge reductions are the least
of several steps; the matrix products are those of one more step, under PyTorch's profiler. So is
the memory: PyTorch's own arrays at their most, besides weights and the optimizer's moments.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from torch.profiler import ProfilerActivity, profile

from benchmarks.knn_parts import parts
from benchmarks.naive import NaiveDeepGCN
from pipelines.bench import Case, own_search, work_of
from pipelines.config import ModelConfig
from pipelines.data.synthetic import room_features
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.memory import keep_freed_memory

PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_")


def most_memory(profiled: profile) -> float:
    """Return the most bytes of PyTorch's arrays at once while it was profiled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    found = [event["args"] for event in events if event.get("name") == "[memory]"]
    return float(max(event["Total Allocated"] for event in found))


def main() -> None:
    """Print milliseconds a step, and the memory."""
    parser = argparse.ArgumentParser(description="Time the parts of a training step on the CPU.")
    parser.add_argument("--num-points", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--naive", action="store_true", help="the memory of the naive network")
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        np.save(path, room_features(1, options.num_points))
        case = Case(
            *(ModelConfig(), "step", 1, options.num_points, "cpu", None, options.steps),
            features=str(path),
        )
        step = work_of(case, NaiveDeepGCN if options.naive else DeepGCN, own_search)
    if options.naive:
        step()  # allocates the optimizer's moments
        found = {}
    else:
        found = parts(step, options.steps, time.perf_counter)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    if not options.naive:
        events = [event for event in profiled.key_averages() if event.key in PRODUCTS]
        found["matrix products"] = sum(event.self_cpu_time_total for event in events) / 1e6
    for name, seconds in sorted(found.items(), key=lambda item: -item[1]):
        sys.stdout.write(f"{name} {1e3 * seconds:.1f} ms\n")
    sys.stdout.write(f"arrays {most_memory(profiled) / 2**20:.0f} MiB\n")


if __name__ == "__main__":
    main()
